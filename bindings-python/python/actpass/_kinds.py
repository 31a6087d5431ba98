"""Code specific to the blocking or the asynchronous client; `_async` has all other code once."""

from __future__ import annotations

import sys

from . import _run
from ._call import answer
from ._settings import Settings
from ._telemetry import TRACE, instrument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    from ._outcome import GuardOutcome
    from ._types import ExecutionContext, Limits


class Awaited(Settings):
    """Base of the asynchronous client; a background thread performs the I/O."""

    __slots__ = ()

    _background = True

    async def _guard(
        self,
        action: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], Any],
        default: Optional[Callable[[Any], Any]],
        record_outcome: object,
        options: Limits,
        now: Optional[Callable[[], tuple[object, ...]]] = None,
        suspends: tuple[type[BaseException], ...] = (),
    ) -> GuardOutcome[Any]:
        """Guard ``action``; ``now`` returns its members that may have changed, right before it runs."""
        _run.check_callable(execute_fn, "guard", True)
        converter = self._default if default is None else self._converter(default, "guard")
        tool = action["tool"]
        if TRACE in sys.modules:
            with instrument("guard", tool, action.get("mode"), self) as span:
                session, blocked = await answer(self._native.guard(action, record_outcome, converter, options))
                return await _run.run_async(session, blocked, tool, execute_fn, span, now, suspends)
        call = self._native.guard(action, record_outcome, converter, options)
        try:  # As `answer`, without a coroutine.
            session, blocked = await call.future
        except BaseException:
            call.cancel()
            raise
        return await _run.run_async(session, blocked, tool, execute_fn, None, now, suspends)

    def _asynchronous(self) -> Awaited:
        """Return the client that protected ``async def`` functions use."""
        return self

    def _synchronous(self) -> Blocking:
        """Return a blocking client with the same connections, for adapters of plain functions."""
        from ._waiting import waiting  # noqa: PLC0415

        beside = Blocking.__new__(Blocking)
        beside._hold(waiting(self._native), self._default, self._scope)
        return beside


class Blocking(Settings):
    """Base of the blocking client; the calling thread performs the I/O."""

    __slots__ = ("_beside",)

    _beside: Awaited

    def _guard(
        self,
        action: dict[str, Any],
        execute_fn: Callable[[ExecutionContext], Any],
        default: Optional[Callable[[Any], Any]],
        record_outcome: object,
        options: Limits,
        now: Optional[Callable[[], tuple[object, ...]]] = None,
        suspends: tuple[type[BaseException], ...] = (),
    ) -> GuardOutcome[Any]:
        """Guard ``action``; ``now`` returns its members that may have changed, right before it runs."""
        _run.check_callable(execute_fn, "guard", False)
        converter = self._default if default is None else self._converter(default, "guard")
        tool = action["tool"]
        if TRACE in sys.modules:
            with instrument("guard", tool, action.get("mode"), self) as span:
                session, blocked = self._native.guard(action, record_outcome, converter, options)
                return _run.run(session, blocked, tool, execute_fn, span, now, suspends)
        session, blocked = self._native.guard(action, record_outcome, converter, options)
        return _run.run(session, blocked, tool, execute_fn, None, now, suspends)

    def _asynchronous(self) -> Awaited:
        """Return the client that protected ``async def`` functions use."""
        try:
            return self._beside
        except AttributeError:
            beside = Awaited.__new__(Awaited)
            beside._hold(self._native.background(), self._default, self._scope)
            self._beside = beside
            return beside

    def _synchronous(self) -> Blocking:
        """Return the client itself."""
        return self

    def _close(self) -> None:
        super()._close()
        beside = getattr(self, "_beside", None)
        if beside is not None:
            beside._close()
