"""The exceptions. Everything that the SDK raises is an :class:`ActPassError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from ._types import Decision, ErrorData, PendingApproval


class ActPassError(Exception):
    """The base of everything that the SDK raises or reports. When in doubt, treat it as "do not execute".

    An error survives ``pickle``, ``copy``, process pools and Celery's serializers with its members and its cause.
    :meth:`to_dict` is its form for JSON.

    Attributes:
        message: The text, which ``str`` gives too.
        status: The HTTP status of an answer outside 2xx; ``None`` where there was no such answer.
        body: The text of an answer outside 2xx, every secret taken out; ``None`` where there was none, where it was
            larger than 64 KiB, or where a secret in it could not be ruled out.
        code: The stable name of what happened, such as ``actpass.unreachable``: branch and alert on it.
        kind: The short name of the kind, such as ``connection``.
        operation: The method that failed, such as ``guard``; ``None`` outside of a call.
        request_id: The ``x-request-id`` that the gateway gave the call.
        retry_after: Value of the ``Retry-After`` header, in seconds.
        retryable: Whether the same call may succeed later. The client has already retried what it could.

    >>> error = ActPassError("the gateway is away", code="actpass.unreachable")
    >>> str(error), error.code, error.retryable
    ('the gateway is away', 'actpass.unreachable', False)
    """

    kind: str = "internal"
    operation: Optional[str] = None
    request_id: Optional[str] = None
    retry_after: Optional[float] = None
    retryable: bool = False

    def __init__(
        self,
        message: str,
        status: Optional[int] = None,
        body: Optional[str] = None,
        code: Optional[str] = None,
    ) -> None:
        """Keep ``message`` and what the gateway answered."""
        super().__init__(message)
        self.message = message
        self.status = status
        self.body = body
        self.code = code
        if isinstance(status, Mapping):  # The second of `args`, from a serializer that keeps nothing else.
            self._restore(status)
        elif code is not None:  # As the SDK makes it.
            self._complete()

    def to_dict(self) -> ErrorData:
        """Return the error as data for JSON: its type, text and members, and its causes.

        No key, passport or credential is in it.

        >>> error = ActPassTimeoutError("no answer within 30 s", code="actpass.timeout")
        >>> error.to_dict()["type"], error.to_dict()["message"], error.to_dict()["code"]
        ('ActPassTimeoutError', 'no answer within 30 s', 'actpass.timeout')
        """
        return error_data(self)

    #: The method by which some JSON encoders, such as Celery's, ask an object for its form.
    __json__ = to_dict

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0]) if self.args else ""

    def __repr__(self) -> str:
        """Return the class and the message."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep every member and the cause, whatever the parameters of a subclass are."""
        state = {
            **vars(self),
            "__cause__": _portable(self.__cause__),
            "__suppress_context__": self.__suppress_context__,
        }
        return _made, (type(self), self.args), state

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Tell pydantic, if the program uses it: an instance, serialized as :meth:`to_dict` does."""
        from ._pydantic import error_schema  # noqa: PLC0415

        return error_schema(cls, handler, errors())

    def _complete(self, **members: Any) -> None:
        """Set members, and let `args` have all of them: some serializers keep nothing else of an exception."""
        for name, value in members.items():
            setattr(self, name, value)
        self.args = (*self.args[:1], self._members())

    def _members(self) -> dict[str, Any]:
        members = {name: getattr(self, name, None) for name in _MEMBERS}
        kept = {name: value for name, value in members.items() if value is not None}
        if self.__cause__ is not None:
            kept["cause"] = _described(self.__cause__)
        return kept

    def _restore(self, members: Mapping[str, Any]) -> None:
        for name in ("status", "body", "code"):
            setattr(self, name, None)
        for name in _MEMBERS:
            if name in members:
                setattr(self, name, members[name])
        if isinstance(members.get("cause"), Mapping):
            self.__cause__ = error_of(members["cause"])
        self.args = (*self.args[:1], dict(members))


class ActPassConfigError(ActPassError, ValueError):
    """A setting is missing or wrong; the message names it. Nothing was sent.

    >>> from actpass import ActPassClient
    >>> try:
    ...     ActPassClient("apk_dev", timeout=0)
    ... except ActPassConfigError as error:
    ...     print(error.code, error)
    actpass.invalid_config timeout: expected seconds above 0 and at most 86400, found 0
    """

    kind = "config"


class ActPassArgumentError(ActPassConfigError, TypeError):
    """An argument is wrong: not JSON, nested too deep, empty, of the wrong type. If raised, nothing was sent or run.

    As the ``error`` of an outcome: the function ran, and what it returned is no result but a body that has not run.

    >>> from actpass import ActPassClient
    >>> try:
    ...     ActPassClient("apk_dev").preflight("demo", "demo.tool", {"order": {"price": float("nan")}})
    ... except ActPassArgumentError as error:
    ...     print(error.code, error)
    actpass.invalid_argument args.order.price: expected a finite number, found NaN
    """

    kind = "argument"


class ActPassConnectionError(ActPassError):
    """The gateway could not be reached: name, connection, TLS, or a connection that was reset.

    >>> from actpass.testing import ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.unreachable()
    ...     out = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")
    >>> type(out["error"]).__name__, out["error"].retryable, out["executed"]
    ('ActPassConnectionError', True, False)
    """

    kind = "connection"


class ActPassTimeoutError(ActPassError):
    """The deadline passed before there was an answer.

    >>> from socket import create_server
    >>> from actpass import ActPassClient
    >>> with create_server(("127.0.0.1", 0)) as silent:
    ...     url = "http://127.0.0.1:%d" % silent.getsockname()[1]
    ...     out = ActPassClient("apk_dev", base_url=url, timeout=0.1).guard("demo", "demo.tool", {}, lambda ctx: "ran")
    >>> type(out["error"]).__name__, out["decision"]["reason_code"], out["executed"]
    ('ActPassTimeoutError', 'actpass.timeout', False)
    """

    kind = "timeout"


class ActPassStatusError(ActPassError):
    """The gateway answered with an error status. Redirects count as such: they are never followed.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=503))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassStatusError', 503, 'actpass.gateway_error', True)
    """

    kind = "status"


class ActPassAuthenticationError(ActPassStatusError):
    """401: the gateway does not know the API key.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=401))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassAuthenticationError', 401, 'actpass.unauthenticated', False)
    """

    kind = "authentication"


class ActPassPermissionError(ActPassStatusError):
    """403: the API key may not do this.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=403))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassPermissionError', 403, 'actpass.forbidden', False)
    """

    kind = "permission"


class ActPassRateLimitError(ActPassStatusError):
    """429, still so after the last retry; ``retry_after`` says how long to wait if the gateway said so.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=429))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retry_after
    ('ActPassRateLimitError', 429, 'actpass.rate_limited', None)
    """

    kind = "rate_limit"


class ActPassResponseError(ActPassError):
    """A 2xx answer that cannot be used: not JSON, cut short, too large, or without what it must hold.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": 7}))
    ...     out = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")
    >>> type(out["error"]).__name__, out["decision"]["reason_code"], out["executed"]
    ('ActPassResponseError', 'actpass.invalid_response', False)
    """

    kind = "response"


class ActPassInternalError(ActPassError):
    """A defect of the SDK; please report it.

    >>> error = ActPassInternalError("a call panicked", code="actpass.internal")
    >>> error.kind, error.code, error.retryable
    ('internal', 'actpass.internal', False)
    """

    kind = "internal"


class ActionBlockedError(ActPassError):
    """An action did not run. The text is for a model: what was not done, why, and whether the same call can help later.

    How the gateway is reached or run is not in it, nor the API key or the passport. Every language has the same texts.

    Attributes:
        message: The text for a model, which ``str`` gives too.
        developer_text: The text for a developer: what failed, at which hop, and what to check.
        tool: The tool that was not used.
        decision: The decision, the gateway's or the one that the SDK made because the gate failed. Its ``reason_code``
            is also ``code``.
        approval: What to give to ``resume`` once a person has approved; ``None`` where nobody is asked.
        retryable: Whether the same call may succeed later without any change: the gate failed in a way that may pass.
            A decision is not such a failure.

    ``__cause__`` is how the gate failed, an :class:`ActPassError`, or ``None`` where it decided.

    >>> from actpass.testing import ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.deny(reason_code="crm.closed")
    ...     @gateway.client().protect(tool="crm.note.add", goal="demo")
    ...     def add_note(text: str) -> str:
    ...         return text
    ...     try:
    ...         add_note("called twice")
    ...     except ActionBlockedError as blocked:
    ...         print(blocked.tool, blocked.code, blocked.retryable, blocked.__cause__)
    crm.note.add crm.closed False None
    """

    kind = "blocked"
    tool: str
    decision: Decision
    approval: Optional[PendingApproval]
    developer_text: str

    def __init__(self, tool: str, outcome: Mapping[str, Any]) -> None:
        """Say what a guard's ``outcome`` means to whoever wanted to use ``tool``.

        >>> blocked = ActionBlockedError("crm.note.add", {"decision": {"decision": "deny", "reason_code": "crm.closed"}})
        >>> print(blocked)  # doctest: +ELLIPSIS
        crm.note.add was not run: deny (crm.closed). Do not call it again with the same arguments: ...
        >>> print(blocked.developer_text)
        crm.note.add was not run: deny (crm.closed).
        """
        failure = outcome.get("error")
        if isinstance(failure, Mapping):
            failure = error_of(failure)
        decision = outcome["decision"]
        code = decision.get("reason_code")
        self.retryable = bool(getattr(failure, "retryable", False))
        self.approval = outcome.get("approval")
        if isinstance(outcome.get("tool"), str):  # The second of `args`: see `ActPassError`.
            message, tool, self.developer_text = tool, outcome["tool"], outcome["developer_text"]
        else:
            texts = getattr(outcome, "_texts", None)
            message, self.developer_text = texts or _texts(tool, decision, failure, self.approval)
        self.tool = tool
        self.decision = decision
        super().__init__(
            message,
            getattr(failure, "status", None),
            None,
            code if isinstance(code, str) else None,
        )
        self.operation = "guard"
        of_outcome = getattr(outcome, "request_id", None) or outcome.get("request_id")
        self.request_id = of_outcome or getattr(failure, "request_id", None)
        self.retry_after = getattr(failure, "retry_after", None)
        self.__cause__ = failure
        self._complete()

    def _members(self) -> dict[str, Any]:
        error = None if self.__cause__ is None else _described(self.__cause__)
        members = {"tool": self.tool, "decision": self.decision, "approval": self.approval}
        return {**members, "developer_text": self.developer_text, "error": error, "request_id": self.request_id}


def _texts(tool: str, decision: Any, failure: Any, approval: Any) -> tuple[str, str]:
    """Return the texts of a block whose outcome was made up, or came as data from another process."""
    from . import _native  # noqa: PLC0415

    failed = None
    if failure is not None:
        is_of_an_argument = getattr(failure, "kind", None) == ActPassArgumentError.kind
        failed = str(failure), bool(getattr(failure, "retryable", False)), is_of_an_argument
    return _native.block_texts(tool, decision, failed, None if approval is None else approval["approval_request_id"])


#: The members of every error that its class does not have.
_MEMBERS = ("status", "body", "code", "kind", "operation", "request_id", "retry_after", "retryable")
#: How many causes are followed.
_CAUSES = 8


def error_data(error: BaseException, causes: int = _CAUSES) -> ErrorData:
    """Return an exception, also one of the program's, as data for JSON."""
    if isinstance(error, _OfAnotherProcess):
        return error.args[1]  # type: ignore[no-any-return]
    ours = isinstance(error, ActPassError)
    cause = error.__cause__
    try:
        message = str(error)
    except Exception:  # An exception of the program's may fail at that.
        message = ""
    data: ErrorData = {
        "type": type(error).__name__,
        "message": message,
        "kind": error.kind if isinstance(error, ActPassError) else "action",
        "code": error.code if isinstance(error, ActPassError) else None,
        "operation": error.operation if isinstance(error, ActPassError) else None,
        "status": error.status if isinstance(error, ActPassError) else None,
        "request_id": error.request_id if isinstance(error, ActPassError) else None,
        "retry_after": error.retry_after if isinstance(error, ActPassError) else None,
        "retryable": ours and bool(getattr(error, "retryable", False)),
        "cause": {**error_data(cause, causes - 1)} if cause is not None and causes > 0 else None,
    }
    return data


def errors() -> Any:
    """Return how exceptions become data and come back, for pydantic."""
    from ._pydantic import Errors  # noqa: PLC0415

    return Errors(ErrorData, error_data, error_of)


def error_of(data: Mapping[str, Any], causes: int = _CAUSES) -> BaseException:
    """Return the exception that :func:`error_data` described; one of the program's as ``Exception`` with its text."""
    message = str(data.get("message", ""))
    kind = globals().get(str(data.get("type")))
    error: BaseException
    if isinstance(kind, type) and issubclass(kind, ActPassError) and kind is not ActionBlockedError:
        error = kind(message)
        error._complete(**{name: data[name] for name in _MEMBERS if name in data})
    else:
        error = _OfAnotherProcess(f"{data.get('type')}: {message}", dict(data))
    cause = data.get("cause")
    if isinstance(cause, Mapping) and causes > 0:
        error.__cause__ = error_of(cause, causes - 1)
    return error


class _OfAnotherProcess(Exception):  # noqa: N818
    """An exception of the program's that came as data."""

    def __str__(self) -> str:
        return str(self.args[0])


def _described(error: BaseException) -> dict[str, Any]:
    """Return an exception as data from which :func:`error_of` makes it again, with all of its members."""
    data = error_data(error)
    return {**data, **error._members()} if isinstance(error, ActPassError) else {**data}


def _made(kind: type[ActPassError], given: tuple[Any, ...]) -> ActPassError:
    return kind.__new__(kind, *given)


def _portable(cause: Optional[BaseException]) -> Optional[BaseException]:
    """Return a cause that can be pickled: one of the program's that cannot be is replaced by its text."""
    if cause is None or isinstance(cause, ActPassError):
        return cause
    import pickle  # noqa: PLC0415

    try:
        pickle.loads(pickle.dumps(cause))
    except Exception:
        return error_of(error_data(cause))
    return cause
