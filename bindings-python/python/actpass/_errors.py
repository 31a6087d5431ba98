"""The exceptions. Everything that the SDK raises is an :class:`ActPassError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._types import Decision, PendingApproval


class ActPassError(Exception):
    """The base of everything that the SDK raises or reports. When in doubt, treat it as "do not execute".

    Attributes:
        status: The HTTP status of an answer outside 2xx; ``None`` where there was no such answer.
        body: The text of an answer outside 2xx, every secret taken out; ``None`` where there was none, where it was
            larger than 64 KiB, or where a secret in it could not be ruled out.
        code: The stable name of what happened, such as ``actpass.unreachable``: branch and alert on it.
        kind: The short name of the kind, such as ``connection``.
        operation: The call that failed, such as ``preflight``; ``None`` before there was one.
        request_id: The ``x-request-id`` that the gateway gave the call.
        retry_after: For how many seconds the gateway asked to be left alone.
        retryable: Whether the same call may succeed later. The client has already retried what it could.
    """

    kind: str = "internal"
    operation: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    retryable: bool = False

    def __init__(
        self,
        message: str,
        status: int | None = None,
        body: str | None = None,
        code: str | None = None,
    ) -> None:
        """Keep ``message`` and what the gateway answered."""
        super().__init__(message)
        self.status = status
        self.body = body
        self.code = code


class ActPassConfigError(ActPassError, ValueError):
    """A setting is missing or wrong; the message names it. Nothing was sent."""

    kind = "config"


class ActPassArgumentError(ActPassConfigError, TypeError):
    """An argument is wrong: not JSON, nested too deep, empty, of the wrong type. If raised, nothing was sent or run.

    As the ``error`` of an outcome: the function ran, and what it returned is no result but a body that has not run.
    """

    kind = "argument"


class ActPassConnectionError(ActPassError):
    """The gateway could not be reached: name, connection, TLS, or a connection that was reset."""

    kind = "connection"


class ActPassTimeoutError(ActPassError):
    """The deadline passed before there was an answer."""

    kind = "timeout"


class ActPassStatusError(ActPassError):
    """The gateway answered with an error status. Redirects count as such: they are never followed."""

    kind = "status"


class ActPassAuthenticationError(ActPassStatusError):
    """401: the gateway does not know the API key."""

    kind = "authentication"


class ActPassPermissionError(ActPassStatusError):
    """403: the API key may not do this."""

    kind = "permission"


class ActPassRateLimitError(ActPassStatusError):
    """429, still so after the last retry; ``retry_after`` says how long to wait if the gateway said so."""

    kind = "rate_limit"


class ActPassResponseError(ActPassError):
    """A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold."""

    kind = "response"


class ActPassInternalError(ActPassError):
    """A defect of the SDK; please report it."""

    kind = "internal"


class ActionBlocked(ActPassError):  # noqa: N818
    """A protected function did not run. Its text is written for a model: what happened, why, and what to do now.

    Attributes:
        message: That text, which ``str`` gives too.
        tool: The tool that the function is.
        decision: The decision, the gateway's or the one that the SDK made because the gate failed. Its ``reason_code``
            is also ``code``.
        approval: What to give to ``resume`` once a person has approved; ``None`` where nobody is asked.
        retryable: Whether the same call may succeed later without any change: the gate failed in a way that may pass.
            A decision is not such a failure.

    ``__cause__`` is how the gate failed, an :class:`ActPassError`, or ``None`` where it decided.
    """

    kind = "blocked"
    message: str
    tool: str
    decision: Decision
    approval: PendingApproval | None

    def __init__(self, tool: str, outcome: Mapping[str, Any]) -> None:
        """Say what a guard's ``outcome`` means to whoever wanted to use ``tool``."""
        failure = outcome.get("error")
        decision = outcome["decision"]
        code = decision.get("reason_code")
        self.retryable = failure is not None and bool(failure.retryable)
        self.message = _for_a_model(tool, outcome, retryable=self.retryable)
        super().__init__(
            self.message,
            getattr(failure, "status", None),
            None,
            code if isinstance(code, str) else None,
        )
        self.tool = tool
        self.decision = decision
        self.approval = outcome.get("approval")
        self.operation = "guard"
        self.request_id = getattr(failure, "request_id", None)
        self.retry_after = getattr(failure, "retry_after", None)
        self.__cause__ = failure

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what is needed to cross to another process."""
        outcome = {"decision": self.decision, "approval": self.approval, "error": self.__cause__}
        return type(self), (self.tool, outcome)


def _for_a_model(tool: str, outcome: Mapping[str, Any], *, retryable: bool) -> str:
    decision = outcome["decision"]
    explain = decision.get("explain")
    explain = explain if isinstance(explain, dict) else {}
    why = decision.get("reason_code")
    said = [f"{tool} was not run: {decision['decision']}{f' ({why})' if isinstance(why, str) else ''}."]
    if isinstance(explain.get("summary"), str) and explain["summary"]:
        said.append(_sentence(explain["summary"]))
    steps = explain.get("next_steps")
    said += [_sentence(step) for step in steps if isinstance(step, str) and step] if isinstance(steps, list) else []
    approval = outcome.get("approval")
    if approval is not None:
        said.append(
            f"A person has to approve this first (approval {approval['approval_request_id']}): "
            "do not call it again until they have."
        )
    elif retryable:
        said.append("This may pass: the same call may be tried again later.")
    elif outcome.get("error") is not None:
        said.append(_UNTIL_FIXED)
    else:
        said.append(_AGAIN.get(why if isinstance(why, str) else "") or _AGAIN.get(decision["decision"], _NEVER))
    return " ".join(said)


_NEVER = "Do not call it again with the same arguments: it would be blocked again."
_UNTIL_FIXED = "Do not call it again until that is fixed."
#: Whether the same call can help, by the reason code or else by the word of the decision.
_AGAIN = {
    "actpass.replayed": "Do not call it again before it is known whether it ran.",
    "actpass.unrecorded": _UNTIL_FIXED,
    "approval.expired": "The same call asks for approval again.",
    "require_approval": "A person has to approve this first: do not call it again until they have.",
    "require_tool_reapproval": "The tool has to be approved again first: do not call it again until it has been.",
}


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."
