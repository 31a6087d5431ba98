"""The shapes of what goes in and comes out: plain dicts, named by the wire's own names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

T = TypeVar("T")

#: How a guard treats the answer: run on ``allow`` (``enforce``), only when recorded too (``strict``), also on ``warn``
#: (``warn``), or always, to observe (``monitor``).
Mode = Literal["enforce", "strict", "warn", "monitor"]

#: The words of a decision. A gateway may send another; it runs nothing outside ``monitor``.
DecisionWord = Literal["allow", "deny", "require_approval", "require_tool_reapproval", "warn"]

#: How much an action could damage.
RiskTier = Literal["low", "medium", "high", "critical"]


class Explain(TypedDict, total=False):
    """Why a decision is as it is."""

    summary: str
    matched_rules: list[str]
    next_steps: list[str]


class _Decided(TypedDict):
    decision: DecisionWord | str
    reason_code: str


class Decision(_Decided, total=False):
    """What the gateway decided; members that are not listed here are kept as they came, for ``get``.

    Gateways send a ``reason_code``, and the SDK's own decisions have one. A decision without it counts all the same.
    """

    risk_tier: str
    explain: Explain
    evidence_event_id: str
    evidence_chain_id: str
    approval_request_id: str
    request_hash: str
    would_be: str
    replayed: bool | None
    replay_age_ms: int | None


class _Credential(TypedDict):
    token: str


class Credential(_Credential, total=False):
    """A secret that the gateway's vault holds for the tool."""

    expires_at: str | None


class ExecutionContext(TypedDict):
    """What ``execute_fn`` is given: the vaulted credential, if there is one, and the decision."""

    credential: Credential | None
    decision: Decision


class _RecordedEvidence(TypedDict):
    event_id: str


class RecordedEvidence(_RecordedEvidence, total=False):
    """An event that is in the ledger."""

    current_event_hash: str


class _PendingApproval(TypedDict):
    approval_request_id: str
    goal: str
    tool: str
    args: dict[str, Any]


class PendingApproval(_PendingApproval, total=False):
    """An action that waits for a person: no secrets, only JSON, to keep and give to ``resume``."""

    resource: str
    user_id: str
    mode: str
    audience: str
    tool_manifest_hash: str


class _Approval(TypedDict):
    id: str
    status: Literal["pending", "approved", "rejected", "expired"]


class Approval(_Approval, total=False):
    """Where an approval stands."""

    action_hash: str
    decided_by: str | None
    decided_at: str | None
    deadline: str


if TYPE_CHECKING or sys.version_info >= (3, 11):
    if sys.version_info >= (3, 11):
        from typing import Generic
    else:
        from typing import Generic

        from typing_extensions import TypedDict

    class _Reported(TypedDict):
        decision: Decision
        executed: bool

    class GuardOutput(_Reported, Generic[T], total=False):
        """What ``guard`` reports.

        ``result`` is there when the function ran and returned, ``error`` when it ran and raised (the very exception) or
        when the gate failed (an :class:`~actpass.ActPassError`). ``approval`` is there when a person has to decide
        first, ``evidence`` or ``evidence_error`` when the outcome was to be recorded.
        """

        result: T
        error: Exception
        approval: PendingApproval
        evidence: RecordedEvidence
        evidence_error: Exception

else:  # A TypedDict cannot be generic there; at run time it is a dict anyway.
    GuardOutput = dict[str, Any]


class _Passport(TypedDict):
    token: str


class IssuedPassport(_Passport, total=False):
    """A passport that was issued."""

    jwks_uri: str
    jti: str
    expires_at: str


class PassportClaims(TypedDict, total=False):
    """What a passport says, once its signature is verified; ``iat`` and ``exp`` in seconds since 1970."""

    iss: str
    aud: str
    tenant_id: str
    agent_id: str | None
    user_id: str | None
    goal: str
    allowed_tools: list[str]
    allowed_resources: list[str]
    resource_constraints: dict[str, Any]
    risk_tier: RiskTier
    approval_hash: str
    approval_request_id: str
    iat: int
    exp: int
    jti: str


class _PassportVerification(TypedDict):
    valid: bool


class PassportVerification(_PassportVerification, total=False):
    """Whether a passport is valid, and what is wrong with it."""

    errors: list[str]
    claims: PassportClaims


class PassportRevocation(TypedDict):
    """Whether a passport was revoked."""

    revoked: bool
