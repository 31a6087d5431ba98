"""The outcome of ``guard``: a dict with methods to unwrap and to serialize it."""

from __future__ import annotations

from ._errors import ActionBlockedError, error_data, errors

TYPE_CHECKING = False
if not TYPE_CHECKING:
    from ._lazy import Generic, _types, _variables, abc, typing
else:
    import typing
    from collections import abc
    from typing import Generic, overload

    from . import _types, _variables

_ERRORS = ("error", "evidence_error")


class GuardOutcome(dict[str, "typing.Any"], Generic["_variables.T"]):
    """The outcome of ``guard`` and ``resume``: a dict.

    ``decision`` and ``executed`` are always present. ``result`` is present if the function returned; ``error`` if it
    raised (the same exception object) or if the gate failed (an :class:`~actpass.ActPassError`); ``approval`` if the
    action needs human approval; ``evidence`` or ``evidence_error`` with ``record_outcome``.

    Attributes:
        request_id: The ``x-request-id`` of the gateway's response; ``None`` if it sent none.

    >>> from actpass import ActPassClient
    >>> client = ActPassClient(api_key="apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
    >>> out = client.guard("demo", "demo.tool", {}, lambda ctx: print("ran"))
    >>> out["executed"], out["decision"]["reason_code"], out.to_dict()["error"]["retryable"]
    (False, 'actpass.unreachable', True)
    """

    # The native module creates outcomes without `__init__`, and sets no attribute that has its default.
    request_id: typing.Optional[str] = None
    _tool: str = ""
    #: The core's messages of a block, for a model and for a developer.
    _texts: typing.Optional[tuple[str, str, bool]] = None

    def __init__(
        self, members: abc.Mapping[str, typing.Any] = {}, /, *, tool: str = "", request_id: typing.Optional[str] = None
    ) -> None:
        """Create an outcome from ``members``; the error of :meth:`unwrap` names ``tool``."""
        super().__init__(members)
        self.request_id = request_id
        self._tool = tool

    def unwrap(self) -> _variables.T:
        """Return the function's result or raise its error.

        Raises:
            ActionBlockedError: The function did not run.
            Exception: The same exception object that the function raised.

        >>> GuardOutcome({"decision": {"decision": "allow"}, "executed": True, "result": 7}).unwrap()
        7
        """
        if not self["executed"]:
            raise ActionBlockedError(self._tool, self)
        if "result" in self:
            result: _variables.T = self["result"]
            return result
        error: Exception = self["error"]
        raise error

    def to_dict(self) -> dict[str, typing.Any]:
        """Return the outcome as a plain dict, with ``error`` and ``evidence_error`` as JSON data.

        ``result`` is the object that the function returned; if it is not JSON, convert it or pass ``default`` to
        :meth:`to_json`. ``request_id`` is present if the gateway sent one.

        >>> failed = GuardOutcome({"decision": {"decision": "allow"}, "executed": True, "error": KeyError("ch_1")})
        >>> failed.to_dict()["error"]["type"]
        'KeyError'
        """
        data = {name: _as_data(name, value) for name, value in self.items()}
        return data if self.request_id is None else {**data, "request_id": self.request_id}

    #: The method that some JSON encoders, such as Celery's, call.
    __json__ = to_dict

    def to_json(self, *, default: typing.Optional[typing.Callable[[typing.Any], typing.Any]] = None) -> str:
        """Return :meth:`to_dict` as JSON text.

        Args:
            default: Converts values in ``result`` that are not JSON, as for ``json.dumps``.

        Raises:
            ActPassArgumentError: ``result`` is not JSON; the message names the path and a conversion.

        >>> GuardOutcome({"decision": {"decision": "allow"}, "executed": True, "result": {1}}).to_json(default=list)
        '{"decision": {"decision": "allow"}, "executed": true, "result": [1]}'
        """
        from . import _native  # noqa: PLC0415

        return _native.json_text("outcome", self.to_dict(), default)

    def copy(self) -> GuardOutcome[_variables.T]:
        """Return a shallow copy."""
        return _made(type(self), self._members(), vars(self))

    def __reduce__(self) -> tuple[typing.Any, ...]:
        """Pickle the members and the attributes."""
        return _made, (type(self), self._members(), vars(self))

    def _members(self) -> dict[str, typing.Any]:
        return super().copy()

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __getitem__(self, name: typing.Literal["decision"], /) -> _types.Decision: ...
        @overload
        def __getitem__(self, name: typing.Literal["executed"], /) -> bool: ...
        @overload
        def __getitem__(self, name: typing.Literal["result"], /) -> _variables.T: ...
        @overload
        def __getitem__(self, name: typing.Literal["error", "evidence_error"], /) -> Exception: ...
        @overload
        def __getitem__(self, name: typing.Literal["approval"], /) -> _types.PendingApproval: ...
        @overload
        def __getitem__(self, name: typing.Literal["evidence"], /) -> _types.RecordedEvidence: ...
        def __getitem__(self, name: str, /) -> typing.Any: ...

        @overload  # type: ignore[override]
        def get(self, name: typing.Literal["decision"], default: object = ..., /) -> _types.Decision: ...
        @overload
        def get(self, name: typing.Literal["executed"], default: object = ..., /) -> bool: ...
        @overload
        def get(self, name: typing.Literal["result"], /) -> typing.Optional[_variables.T]: ...
        @overload
        def get(
            self, name: typing.Literal["result"], default: _variables.D, /
        ) -> typing.Union[_variables.T, _variables.D]: ...
        @overload
        def get(self, name: typing.Literal["error", "evidence_error"], /) -> typing.Optional[Exception]: ...
        @overload
        def get(
            self, name: typing.Literal["error", "evidence_error"], default: _variables.D, /
        ) -> typing.Union[Exception, _variables.D]: ...
        @overload
        def get(self, name: typing.Literal["approval"], /) -> typing.Optional[_types.PendingApproval]: ...
        @overload
        def get(
            self, name: typing.Literal["approval"], default: _variables.D, /
        ) -> typing.Union[_types.PendingApproval, _variables.D]: ...
        @overload
        def get(self, name: typing.Literal["evidence"], /) -> typing.Optional[_types.RecordedEvidence]: ...
        @overload
        def get(
            self, name: typing.Literal["evidence"], default: _variables.D, /
        ) -> typing.Union[_types.RecordedEvidence, _variables.D]: ...
        def get(self, name: str, default: typing.Any = None, /) -> typing.Any: ...

    @classmethod
    def __get_pydantic_core_schema__(cls, source: typing.Any, handler: typing.Any) -> typing.Any:
        """Return the pydantic schema: validates the members, serializes by :meth:`to_dict`."""
        from ._pydantic import outcome_schema  # noqa: PLC0415

        types = {
            "decision": _types.Decision,
            "approval": _types.PendingApproval,
            "evidence": _types.RecordedEvidence,
        }
        return outcome_schema(cls, source, handler, errors(), types)


def _made(
    kind: type[GuardOutcome[typing.Any]], members: dict[str, typing.Any], attributes: dict[str, typing.Any]
) -> GuardOutcome[typing.Any]:
    outcome = kind(members)
    vars(outcome).update(attributes)
    return outcome


def _as_data(name: str, value: typing.Any) -> typing.Any:
    return error_data(value) if name in _ERRORS and isinstance(value, BaseException) else value
