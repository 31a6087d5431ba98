"""Blocking calls of an asynchronous client: the calling thread waits while the background thread performs the I/O."""

from __future__ import annotations

import threading
from typing import Any, Callable, cast

from . import _native, _run
from ._gevent import GUARDING, WAITING


def waiting(native: _native.Client) -> _native.Client:
    """Return a wrapper of ``native``, the client of an event loop, with calls that return their results."""
    return cast("_native.Client", _Client(native))


class _Client:
    __slots__ = ("_native",)

    def __init__(self, native: _native.Client) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._native, name)
        if name not in WAITING:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = _wait(lambda: found(*args, **kwargs))
            if name not in GUARDING:
                return answer
            session, blocked = answer
            return (None if session is None else _Session(session)), blocked

        return call


class _Session:
    """A session whose recording, a network call, is waited for."""

    __slots__ = ("_session",)

    def __init__(self, session: _native.GuardSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if name not in {"failed", "returned"}:
            return found

        def report(value: Any) -> tuple[Any, Any]:
            outcome: Any = None

            def ended() -> Any:
                nonlocal outcome
                outcome, recording = found(value)
                return recording

            try:
                recorded = _wait(ended)
            except Exception as error:
                if outcome is None:
                    raise
                recorded = {"evidence_error": error}
            return outcome, recorded

        return report


class _Answer:
    """The future of a call; the queue resolves it on the waiting thread."""

    __slots__ = ("_error", "_is_done", "_result")

    def __init__(self) -> None:
        self._is_done = False
        self._result: Any = None
        self._error: Any = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._is_done, self._result = True, result

    def set_exception(self, error: BaseException) -> None:
        self._is_done, self._error = True, error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


def _wait(start: Callable[[], Any]) -> Any:
    """Return the answer of the call that ``start`` starts; any other value unchanged."""
    queue, answer, ready = _native.CompletionQueue(), _Answer(), threading.Event()
    queue.set_waker(ready.set)
    token = _run.waiter.set((queue, answer))
    try:
        call = start()
    finally:
        _run.waiter.reset(token)
    if not isinstance(call, _native.Call):
        return call
    try:
        while not answer.done():
            ready.wait()
            ready.clear()
            queue.deliver()
    except BaseException:
        call.cancel()
        raise
    return answer.result()
