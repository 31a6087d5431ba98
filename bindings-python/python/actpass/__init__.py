"""ActPass: authorize every action of an agent before it runs.

:meth:`ActPassClient.preflight` requests a decision about an action from an ActPass gateway.
:meth:`ActPassClient.guard` requests the decision and runs your function only if it allows the action. After a denial, a
pending approval, a changed tool definition or an unreachable gateway, your function does not run.

    from actpass import ActPassClient

    client = ActPassClient(tenant_id="your-team-id", agent_id="support_agent")   # key from ACTPASS_API_KEY
    out = client.guard(
        goal="resolve_refund_request",
        tool="stripe.refund.create",
        args={"amount": 4900, "currency": "usd"},
        execute_fn=lambda ctx: refund("ch_123", 4900),
    )
    if out["executed"]:
        print(out.get("result"), out.get("error"))
    else:
        print("blocked:", out["decision"]["reason_code"])

:class:`AsyncActPassClient` is the client for asyncio. :meth:`~ActPassClient.protect` decorates tool functions.
:meth:`~ActPassClient.authorize` splits a guard into steps. :mod:`actpass.testing` tests agents without a gateway.
"""

# First, so that a native module that fails to load raises an error that explains why.
try:
    from . import _native as _native
except ImportError as _error:
    from ._load import explain as _explain

    raise _explain(_error) from _error

from ._async import AsyncActPassClient, AsyncPermit
from ._client import ActPassClient, Permit
from ._errors import (
    ActionBlockedError,
    ActPassArgumentError,
    ActPassAuthenticationError,
    ActPassConfigError,
    ActPassConnectionError,
    ActPassError,
    ActPassInternalError,
    ActPassPermissionError,
    ActPassRateLimitError,
    ActPassResponseError,
    ActPassStatusError,
    ActPassTimeoutError,
)
from ._functions import canonical_outcome, create_actpass, dpop_thumbprint
from ._halt import HaltedError, HaltSignal
from ._outcome import GuardOutcome
from ._settings import DEFAULT_BASE_URL
from ._tools import UNGUARDED, ToolAction

__version__: str = _native.VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._types import (
        Approval,
        BudgetUse,
        Credential,
        Decision,
        DecisionWord,
        ErrorData,
        ExecutionContext,
        Explain,
        IssuedPassport,
        Mode,
        PassportClaims,
        PassportRevocation,
        PassportVerification,
        PendingApproval,
        RecordedEvidence,
        RiskTier,
    )
else:

    def __getattr__(name: str) -> object:
        """Import the types of arguments and results when one is first used; see ``_lazy``."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _types  # noqa: PLC0415

        return globals().setdefault(name, getattr(_types, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


del TYPE_CHECKING

__all__ = [
    "DEFAULT_BASE_URL",
    "UNGUARDED",
    "ActPassArgumentError",
    "ActPassAuthenticationError",
    "ActPassClient",
    "ActPassConfigError",
    "ActPassConnectionError",
    "ActPassError",
    "ActPassInternalError",
    "ActPassPermissionError",
    "ActPassRateLimitError",
    "ActPassResponseError",
    "ActPassStatusError",
    "ActPassTimeoutError",
    "ActionBlockedError",
    "Approval",
    "AsyncActPassClient",
    "AsyncPermit",
    "BudgetUse",
    "Credential",
    "Decision",
    "DecisionWord",
    "ErrorData",
    "ExecutionContext",
    "Explain",
    "GuardOutcome",
    "HaltSignal",
    "HaltedError",
    "IssuedPassport",
    "Mode",
    "PassportClaims",
    "PassportRevocation",
    "PassportVerification",
    "PendingApproval",
    "Permit",
    "RecordedEvidence",
    "RiskTier",
    "ToolAction",
    "__version__",
    "canonical_outcome",
    "create_actpass",
    "dpop_thumbprint",
]
