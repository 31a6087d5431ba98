"""The outcome of ``guard``: a dict with methods to unwrap and to serialize it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Dict, Generic, Literal, Optional, TypeVar, Union, overload  # noqa: UP035

from ._errors import ActionBlockedError, error_data, errors
from ._types import Decision, PendingApproval, RecordedEvidence, T

D = TypeVar("D")
_ERRORS = ("error", "evidence_error")


class GuardOutcome(Dict[str, Any], Generic[T]):  # noqa: UP006
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

    request_id: Optional[str]
    _tool: str
    #: The core's messages of a block, for a model and for a developer.
    _texts: Optional[tuple[str, str, bool]] = None

    def __init__(self, members: Mapping[str, Any] = {}, /, *, tool: str = "", request_id: Optional[str] = None) -> None:
        """Create an outcome from ``members``; the error of :meth:`unwrap` names ``tool``."""
        super().__init__(members)
        self.request_id = request_id
        self._tool = tool

    def unwrap(self) -> T:
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
            result: T = self["result"]
            return result
        error: Exception = self["error"]
        raise error

    def to_dict(self) -> dict[str, Any]:
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

    def to_json(self, *, default: Optional[Callable[[Any], Any]] = None) -> str:
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

    def copy(self) -> GuardOutcome[T]:
        """Return a shallow copy."""
        return _made(type(self), self._members(), vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the members and the attributes."""
        return _made, (type(self), self._members(), vars(self))

    def _members(self) -> dict[str, Any]:
        return super().copy()

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __getitem__(self, name: Literal["decision"], /) -> Decision: ...
        @overload
        def __getitem__(self, name: Literal["executed"], /) -> bool: ...
        @overload
        def __getitem__(self, name: Literal["result"], /) -> T: ...
        @overload
        def __getitem__(self, name: Literal["error", "evidence_error"], /) -> Exception: ...
        @overload
        def __getitem__(self, name: Literal["approval"], /) -> PendingApproval: ...
        @overload
        def __getitem__(self, name: Literal["evidence"], /) -> RecordedEvidence: ...
        def __getitem__(self, name: str, /) -> Any: ...

        @overload  # type: ignore[override]
        def get(self, name: Literal["decision"], default: object = ..., /) -> Decision: ...
        @overload
        def get(self, name: Literal["executed"], default: object = ..., /) -> bool: ...
        @overload
        def get(self, name: Literal["result"], /) -> Optional[T]: ...
        @overload
        def get(self, name: Literal["result"], default: D, /) -> Union[T, D]: ...
        @overload
        def get(self, name: Literal["error", "evidence_error"], /) -> Optional[Exception]: ...
        @overload
        def get(self, name: Literal["error", "evidence_error"], default: D, /) -> Union[Exception, D]: ...
        @overload
        def get(self, name: Literal["approval"], /) -> Optional[PendingApproval]: ...
        @overload
        def get(self, name: Literal["approval"], default: D, /) -> Union[PendingApproval, D]: ...
        @overload
        def get(self, name: Literal["evidence"], /) -> Optional[RecordedEvidence]: ...
        @overload
        def get(self, name: Literal["evidence"], default: D, /) -> Union[RecordedEvidence, D]: ...
        def get(self, name: str, default: Any = None, /) -> Any: ...

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Return the pydantic schema: validates the members, serializes by :meth:`to_dict`."""
        from ._pydantic import outcome_schema  # noqa: PLC0415

        types = {"decision": Decision, "approval": PendingApproval, "evidence": RecordedEvidence}
        return outcome_schema(cls, source, handler, errors(), types)


def _made(kind: type[GuardOutcome[Any]], members: dict[str, Any], attributes: dict[str, Any]) -> GuardOutcome[Any]:
    outcome = kind(members)
    vars(outcome).update(attributes)
    return outcome


def _as_data(name: str, value: Any) -> Any:
    return error_data(value) if name in _ERRORS and isinstance(value, BaseException) else value
