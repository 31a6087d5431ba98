"""The shapes of what goes in and comes out: plain dicts, named by the wire's own names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, Optional, TypedDict, TypeVar, Union

T = TypeVar("T")
R = TypeVar("R")
if TYPE_CHECKING or sys.version_info >= (3, 10):
    from typing import ParamSpec

    P = ParamSpec("P")
else:
    P = ...  # `Callable[P, R]` then is any callable.

#: How a guard treats the answer: run on ``allow`` (``enforce``), only when recorded too (``strict``), also on ``warn``
#: (``warn``), or always, to observe (``monitor``).
Mode = Literal["enforce", "strict", "warn", "monitor"]

#: The words of a decision. A gateway may send another; it runs nothing outside ``monitor``.
DecisionWord = Literal["allow", "deny", "require_approval", "require_tool_reapproval", "warn"]

#: How much an action could damage.
RiskTier = Literal["low", "medium", "high", "critical"]


class Explain(TypedDict):
    """Why a decision is as it is: a sentence, the names of the rules that matched, and what to do next.

    All three are always there, empty if the gateway sent none.
    """

    summary: str
    matched_rules: list[str]
    next_steps: list[str]


class _Decided(TypedDict):
    decision: Union[DecisionWord, str]
    reason_code: str
    explain: Explain


class Decision(_Decided, total=False):
    """What the gateway decided, or the SDK if the gate failed.

    ``decision``, ``reason_code`` (``unspecified`` if the gateway sent none) and ``explain`` are always there; the other
    members only if they came. Members that are not listed here are kept as they came, for ``get``.
    """

    risk_tier: str
    evidence_event_id: str
    evidence_chain_id: str
    approval_request_id: str
    credential_id: str
    policy_hash: str
    request_hash: str
    would_be: str
    replayed: Optional[bool]
    replay_age_ms: Optional[int]


class AsyncFunctionNeedsAsyncActPassClient:
    """Nothing returns it: what a type checker shows where a blocking client is given an ``async def`` function."""


class _Credential(TypedDict):
    token: str


class Credential(_Credential, total=False):
    """A secret that the gateway's vault holds for the tool."""

    expires_at: Optional[str]


class ExecutionContext(TypedDict):
    """What ``execute_fn`` is given: the vaulted credential, if there is one, and the decision."""

    credential: Optional[Credential]
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
    decided_by: Optional[str]
    decided_at: Optional[str]
    deadline: str


class ErrorData(TypedDict):
    """An error as data for JSON: what ``to_dict`` of an :class:`~actpass.ActPassError` returns.

    ``kind`` is ``action`` for an exception of the function that ran. ``retry_after`` is in seconds.
    ``cause`` is another such dict.
    """

    type: str
    message: str
    kind: str
    code: Optional[str]
    operation: Optional[str]
    status: Optional[int]
    request_id: Optional[str]
    retry_after: Optional[float]
    retryable: bool
    cause: Optional[dict[str, Any]]


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
    agent_id: Optional[str]
    user_id: Optional[str]
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


def _schema(kind: Any, source: Any, handler: Any) -> Any:
    """Tell pydantic what a dict of this kind holds. Before Python 3.12 it does not take one of ``typing`` by itself."""
    from ._pydantic import dict_schema  # noqa: PLC0415

    return dict_schema(kind, handler)


for _one in list(vars().values()):
    if isinstance(_one, type) and hasattr(_one, "__required_keys__"):
        _one.__get_pydantic_core_schema__ = classmethod(_schema)  # type: ignore[attr-defined]
