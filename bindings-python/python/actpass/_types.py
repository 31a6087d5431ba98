"""Types of arguments and results: plain dicts with the member names of the wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Protocol, TypedDict, TypeVar, Union, overload

from ._halt import HaltSignal

#: The guard's mode: the function runs on ``allow`` (``enforce``), on a recorded ``allow`` (``strict``), also on
#: ``warn`` (``warn``), or always, to observe (``monitor``).
Mode = Literal["enforce", "strict", "warn", "monitor"]

#: Known values of a decision. An unknown value blocks the action except in ``monitor``.
DecisionWord = Literal["allow", "deny", "require_approval", "require_tool_reapproval", "warn"]

#: The risk of an action.
RiskTier = Literal["low", "medium", "high", "critical"]


#: A text, a template such as ``"refund for {customer}"``, or a function of the arguments.
Text = Union[str, Callable[..., str]]

#: Per-call limits by name.
Limits = Optional[dict[str, object]]


class BudgetUse(TypedDict):
    """State of a budget's account: the sum that is used of the limit in the trailing window.

    ``account`` has the values that identify the account, by path. After an ``allow``, ``used`` includes the action.
    """

    name: str
    account: dict[str, object]
    limit: float
    used: float
    remaining: float
    window: str


class _Explained(TypedDict):
    summary: str
    matched_rules: list[str]
    next_steps: list[str]


class Explain(_Explained, total=False):
    """Explanation of a decision: a sentence, the names of the matched rules, and next steps.

    These three are always present, empty if the gateway sent none; ``budgets`` only if a budget applies to the action.
    """

    budgets: list[BudgetUse]


class _Decided(TypedDict):
    decision: Union[DecisionWord, str]
    reason_code: str
    explain: Explain


class Decision(_Decided, total=False):
    """The gateway's decision, or the SDK's denial if the gate failed.

    ``decision``, ``reason_code`` (``unspecified`` if the gateway sent none) and ``explain`` are always present; other
    members only if the gateway sent them. Unlisted members are kept unchanged; read them with ``get``.
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


if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Mapping

    from ._variables import P, R

    B_co = TypeVar("B_co", covariant=True)

    class ProtectOptions(TypedDict, total=False):
        """Options of ``protect`` that do not change the type of the function."""

        goal: Optional[Text]
        resource: Text
        mode: Optional[Mode]
        include: Optional[Collection[str]]
        exclude: Collection[str]
        redact: Union[Collection[str], Mapping[str, Callable[[Any], object]]]
        user_id: Union[str, Callable[[], Optional[str]], None]
        passport: Union[str, Callable[[], Optional[str]], None]
        audience: Optional[str]
        tool_manifest_hash: Optional[str]
        approval_request_id: Union[str, Callable[..., Optional[str]], None]
        wait_for_approval: Optional[float]
        record_outcome: bool
        default: Optional[Callable[[Any], Any]]
        timeout: Optional[float]
        max_retries: Optional[int]

    class ProtectedOr(Protocol[B_co]):
        """The decorator of ``protect`` with ``on_blocked``, whose result the function may return."""

        @overload
        def __call__(
            self, function: Callable[P, Coroutine[Any, Any, R]], /
        ) -> Callable[P, Coroutine[Any, Any, Union[R, B_co]]]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> Callable[P, Union[R, B_co]]: ...


class AsyncFunctionNeedsAsyncActPassClient:
    """Marker type that type checkers show if an ``async def`` function is passed to a blocking client."""


class _Credential(TypedDict):
    token: str


class Credential(_Credential, total=False):
    """A secret for the tool from the gateway's vault."""

    expires_at: Optional[str]


class ExecutionContext(TypedDict):
    """The argument of ``execute_fn``: the decision, the vaulted credential, if any, and the signal of a stop."""

    credential: Optional[Credential]
    decision: Decision
    halt: HaltSignal


class _RecordedEvidence(TypedDict):
    event_id: str


class RecordedEvidence(_RecordedEvidence, total=False):
    """A recorded event of the ledger."""

    current_event_hash: str


class _PendingApproval(TypedDict):
    approval_request_id: str
    goal: str
    tool: str
    args: dict[str, Any]


class PendingApproval(_PendingApproval, total=False):
    """An action that waits for human approval: JSON without secrets, to store and pass to ``resume``."""

    resource: str
    user_id: str
    mode: str
    audience: str
    tool_manifest_hash: str


class _Approval(TypedDict):
    id: str
    status: Literal["pending", "approved", "rejected", "expired"]


class Approval(_Approval, total=False):
    """The state of an approval."""

    action_hash: str
    decided_by: Optional[str]
    decided_at: Optional[str]
    deadline: str


class ErrorData(TypedDict):
    """An error as JSON data, as returned by ``to_dict`` of an :class:`~actpass.ActPassError`.

    ``kind`` is ``action`` for an exception of the guarded function. ``retry_after`` is in seconds. ``cause`` has the
    same type.
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
    """An issued passport."""

    jwks_uri: str
    jti: str
    expires_at: str


class PassportClaims(TypedDict, total=False):
    """The verified claims of a passport; ``iat`` and ``exp`` are Unix timestamps in seconds."""

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
    """Whether a passport is valid, and the codes of its errors."""

    errors: list[str]
    claims: PassportClaims


class PassportRevocation(TypedDict):
    """Whether a passport was revoked."""

    revoked: bool


def _schema(kind: Any, source: Any, handler: Any) -> Any:
    """Return the pydantic schema of a ``TypedDict``; pydantic rejects ``typing.TypedDict`` before Python 3.12."""
    from ._pydantic import dict_schema  # noqa: PLC0415

    return dict_schema(kind, handler)


for _one in list(vars().values()):
    if isinstance(_one, type) and hasattr(_one, "__required_keys__"):
        _one.__get_pydantic_core_schema__ = classmethod(_schema)  # type: ignore[attr-defined]
