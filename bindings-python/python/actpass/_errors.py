"""Exceptions. Every exception that the SDK raises is an :class:`ActPassError`."""

from __future__ import annotations

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import _types, abc, typing
else:
    import typing
    from collections import abc

    from . import _types


class ActPassError(Exception):
    """Base class of all errors of the SDK. When in doubt, treat it as "do not execute".

    Errors keep their members and cause through ``pickle``, ``copy``, process pools and Celery's serializers.
    :meth:`to_dict` returns JSON.

    Attributes:
        message: The message, equal to ``str(error)``.
        status: The HTTP status of a response outside 2xx; ``None`` without such a response.
        body: The body of a response outside 2xx, with secrets redacted; ``None`` without one, if it is larger than 64
            KiB, or if it may still contain a secret.
        code: The stable error code, such as ``actpass.unreachable``: branch and alert on it.
        kind: The short name of the class, such as ``connection``.
        operation: The method that failed, such as ``guard``; ``None`` outside a call.
        request_id: The ``x-request-id`` of the gateway's response.
        retry_after: The value of the ``Retry-After`` header, in seconds.
        retryable: Whether the same call may succeed later. The client has already used its retries.

    >>> error = ActPassError("connection refused", code="actpass.unreachable")
    >>> str(error), error.code, error.retryable
    ('connection refused', 'actpass.unreachable', False)
    """

    kind: str = "internal"
    operation: typing.Optional[str] = None
    request_id: typing.Optional[str] = None
    retry_after: typing.Optional[float] = None
    retryable: bool = False

    def __init__(
        self,
        message: str,
        status: typing.Optional[int] = None,
        body: typing.Optional[str] = None,
        code: typing.Optional[str] = None,
    ) -> None:
        """Create an error with ``message`` and, if any, the gateway's response."""
        super().__init__(message)
        self.message = message
        self.status = status
        self.body = body
        self.code = code
        if status is not None and isinstance(
            status, abc.Mapping
        ):  # The second of `args`, from a serializer that keeps only these.
            self._restore(status)
        elif code is not None:  # Created by the SDK.
            self._complete()

    def to_dict(self) -> _types.ErrorData:
        """Return the error as JSON data: type, message, members and causes.

        The data contains no API key, passport or credential.

        >>> error = ActPassTimeoutError("no answer within 30 s", code="actpass.timeout")
        >>> error.to_dict()["type"], error.to_dict()["message"], error.to_dict()["code"]
        ('ActPassTimeoutError', 'no answer within 30 s', 'actpass.timeout')
        """
        return error_data(self)

    #: The method that some JSON encoders, such as Celery's, call.
    __json__ = to_dict

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0]) if self.args else ""

    def __repr__(self) -> str:
        """Return the class and the message."""
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[typing.Any, ...]:
        """Pickle all members and the cause, independent of a subclass's parameters."""
        state = {
            **vars(self),
            "__cause__": _portable(self.__cause__),
            "__suppress_context__": self.__suppress_context__,
        }
        return _made, (type(self), self.args), state

    @classmethod
    def __get_pydantic_core_schema__(cls, source: typing.Any, handler: typing.Any) -> typing.Any:
        """Return the pydantic schema: an instance, serialized by :meth:`to_dict`."""
        from ._pydantic import error_schema  # noqa: PLC0415

        return error_schema(cls, handler, errors())

    def _complete(self, **members: typing.Any) -> None:
        """Set members and copy all of them to `args`, which is all that some serializers keep of an exception."""
        for name, value in members.items():
            setattr(self, name, value)
        self.args = (*self.args[:1], self._members())

    def _members(self) -> dict[str, typing.Any]:
        members = {name: getattr(self, name, None) for name in _MEMBERS}
        kept = {name: value for name, value in members.items() if value is not None}
        if self.__cause__ is not None:
            kept["cause"] = _described(self.__cause__)
        return kept

    def _restore(self, members: abc.Mapping[str, typing.Any]) -> None:
        for name in ("status", "body", "code"):
            setattr(self, name, None)
        for name in _MEMBERS:
            if name in members:
                setattr(self, name, members[name])
        if isinstance(members.get("cause"), abc.Mapping):
            self.__cause__ = error_of(members["cause"])
        self.args = (*self.args[:1], dict(members))


class ActPassConfigError(ActPassError, ValueError):
    """A setting is missing or invalid; the message names it. Nothing was sent.

    >>> from actpass import ActPassClient
    >>> try:
    ...     ActPassClient("apk_dev", timeout=0)
    ... except ActPassConfigError as error:
    ...     print(error.code, error)
    actpass.invalid_config timeout: expected seconds above 0 and at most 86400, found 0
    """

    kind = "config"


class ActPassArgumentError(ActPassConfigError, TypeError):
    """An argument is invalid: not JSON, nested too deeply, empty or of the wrong type. Nothing was sent or run.

    As the ``error`` of an outcome, it means that the function ran but returned a body that has not run, such as a
    generator.

    >>> from actpass import ActPassClient
    >>> try:
    ...     ActPassClient("apk_dev").preflight("demo", "demo.tool", {"order": {"price": float("nan")}})
    ... except ActPassArgumentError as error:
    ...     print(error.code, error)
    actpass.invalid_argument args.order.price: expected a finite number, found NaN
    """

    kind = "argument"


class ActPassConnectionError(ActPassError):
    """The gateway is unreachable: name resolution, connection or TLS failed, or the connection was reset.

    >>> from actpass.testing import ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.unreachable()
    ...     out = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")
    >>> type(out["error"]).__name__, out["error"].retryable, out["executed"]
    ('ActPassConnectionError', True, False)
    """

    kind = "connection"


class ActPassTimeoutError(ActPassError):
    """The deadline expired before the gateway responded.

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
    """The gateway responded with an error status. Redirects are errors: the client never follows them.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=503))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassStatusError', 503, 'actpass.gateway_error', True)
    """

    kind = "status"


class ActPassAuthenticationError(ActPassStatusError):
    """401: the API key is unknown.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=401))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassAuthenticationError', 401, 'actpass.unauthenticated', False)
    """

    kind = "authentication"


class ActPassPermissionError(ActPassStatusError):
    """403: the API key lacks the permission.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=403))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retryable
    ('ActPassPermissionError', 403, 'actpass.forbidden', False)
    """

    kind = "permission"


class ActPassRateLimitError(ActPassStatusError):
    """429 after the last retry; ``retry_after`` is the requested wait in seconds, if the gateway sent one.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": "allow"}, status=429))
    ...     error = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")["error"]
    >>> type(error).__name__, error.status, error.code, error.retry_after
    ('ActPassRateLimitError', 429, 'actpass.rate_limited', None)
    """

    kind = "rate_limit"


class ActPassResponseError(ActPassError):
    """An invalid 2xx response: not JSON, truncated, too large, or without a required member.

    >>> from actpass.testing import Answer, ScriptedGateway
    >>> with ScriptedGateway() as gateway:
    ...     gateway.answer(Answer({"decision": 7}))
    ...     out = gateway.client().guard("demo", "demo.tool", {}, lambda ctx: "ran")
    >>> type(out["error"]).__name__, out["decision"]["reason_code"], out["executed"]
    ('ActPassResponseError', 'actpass.invalid_response', False)
    """

    kind = "response"


class ActPassInternalError(ActPassError):
    """A bug in the SDK; please report it.

    >>> error = ActPassInternalError("a call panicked", code="actpass.internal")
    >>> error.kind, error.code, error.retryable
    ('internal', 'actpass.internal', False)
    """

    kind = "internal"


class ActionBlockedError(ActPassError):
    """An action was blocked and did not run.

    The message is written for a model: the blocked tool, the reason, and whether to retry. It contains no
    infrastructure details, API key or passport, and is the same in every language.

    Attributes:
        message: The message for a model, equal to ``str(error)``.
        developer_text: The message for a developer: the failure with its context, and what to check.
        tool: The blocked tool.
        decision: The gateway's decision, or the denial that the SDK made because the gate failed. Its ``reason_code``
            equals ``code``.
        approval: Data to pass to ``resume`` after a human approval; ``None`` if no approval is pending.
        retryable: Whether the same call may succeed later unchanged, because the gate failed temporarily, or because a
            stop was issued between the decision and the run (``actpass.halted``). ``False`` for a decision of the
            gateway.

    ``__cause__`` is the :class:`ActPassError` of a failed gate; ``None`` if the gateway decided.

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
    decision: _types.Decision
    approval: typing.Optional[_types.PendingApproval]
    developer_text: str

    def __init__(self, tool: str, outcome: abc.Mapping[str, typing.Any]) -> None:
        """Create the error of a blocked call of ``tool`` from a guard's ``outcome``.

        >>> decision = {"decision": "deny", "reason_code": "crm.closed"}
        >>> blocked = ActionBlockedError("crm.note.add", {"decision": decision})
        >>> print(blocked)  # doctest: +ELLIPSIS
        crm.note.add was not run: deny (crm.closed). Do not call it again with the same arguments: ...
        >>> print(blocked.developer_text)
        crm.note.add was not run: deny (crm.closed).
        """
        failure = outcome.get("error")
        if isinstance(failure, abc.Mapping):
            failure = error_of(failure)
        decision = outcome["decision"]
        code = decision.get("reason_code")
        self.approval = outcome.get("approval")
        if isinstance(outcome.get("tool"), str):  # The second of `args`: see `ActPassError`.
            message, tool, self.developer_text = tool, outcome["tool"], outcome["developer_text"]
            self.retryable = _texts(tool, decision, failure, self.approval)[2]
        else:
            texts = getattr(outcome, "_texts", None) or _texts(tool, decision, failure, self.approval)
            message, self.developer_text, self.retryable = texts
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

    def _members(self) -> dict[str, typing.Any]:
        error = None if self.__cause__ is None else _described(self.__cause__)
        members = {"tool": self.tool, "decision": self.decision, "approval": self.approval}
        return {**members, "developer_text": self.developer_text, "error": error, "request_id": self.request_id}


def _texts(tool: str, decision: typing.Any, failure: typing.Any, approval: typing.Any) -> tuple[str, str, bool]:
    """Return the texts of a block and whether it is retryable, for an outcome of a test or another process."""
    from . import _native  # noqa: PLC0415

    failed = None
    if failure is not None:
        is_of_an_argument = getattr(failure, "kind", None) == ActPassArgumentError.kind
        failed = str(failure), bool(getattr(failure, "retryable", False)), is_of_an_argument
    return _native.block_texts(tool, decision, failed, None if approval is None else approval["approval_request_id"])


#: The instance members of every error.
_MEMBERS = ("status", "body", "code", "kind", "operation", "request_id", "retry_after", "retryable")
#: The longest chain of causes that is serialized.
_CAUSES = 8


def error_data(error: BaseException, causes: int = _CAUSES) -> _types.ErrorData:
    """Return any exception as JSON data."""
    if isinstance(error, _OfAnotherProcess):
        return error.args[1]  # type: ignore[no-any-return]
    ours = isinstance(error, ActPassError)
    cause = error.__cause__
    try:
        message = str(error)
    except Exception:  # `__str__` of a foreign exception may fail.
        message = ""
    data: _types.ErrorData = {
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


def errors() -> typing.Any:
    """Return the conversions between exceptions and data, for pydantic."""
    from ._pydantic import Errors  # noqa: PLC0415

    return Errors(_types.ErrorData, error_data, error_of)


def error_of(data: abc.Mapping[str, typing.Any], causes: int = _CAUSES) -> BaseException:
    """Return the exception that :func:`error_data` serialized; a foreign one as ``Exception`` with its message."""
    message = str(data.get("message", ""))
    kind = globals().get(str(data.get("type")))
    error: BaseException
    if isinstance(kind, type) and issubclass(kind, ActPassError) and kind is not ActionBlockedError:
        error = kind(message)
        error._complete(**{name: data[name] for name in _MEMBERS if name in data})
    else:
        error = _OfAnotherProcess(f"{data.get('type')}: {message}", dict(data))
    cause = data.get("cause")
    if isinstance(cause, abc.Mapping) and causes > 0:
        error.__cause__ = error_of(cause, causes - 1)
    return error


class _OfAnotherProcess(Exception):  # noqa: N818
    """A foreign exception that was deserialized."""

    def __str__(self) -> str:
        return str(self.args[0])


def _described(error: BaseException) -> dict[str, typing.Any]:
    """Return an exception as data, with all members, for :func:`error_of`."""
    data = error_data(error)
    return {**data, **error._members()} if isinstance(error, ActPassError) else {**data}


def _made(kind: type[ActPassError], given: tuple[typing.Any, ...]) -> ActPassError:
    return kind.__new__(kind, *given)


def _portable(cause: typing.Optional[BaseException]) -> typing.Optional[BaseException]:
    """Return a cause that can be pickled; a foreign one that cannot is replaced by its message."""
    if cause is None or isinstance(cause, ActPassError):
        return cause
    import pickle  # noqa: PLC0415

    try:
        pickle.loads(pickle.dumps(cause))
    except Exception:
        return error_of(error_data(cause))
    return cause
