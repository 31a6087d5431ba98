"""The event loops of this process, and the completion queue of each."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import weakref
from typing import Any, Callable

from . import _native
from ._errors import ActPassConfigError

# The loop's reader callback keeps the queue alive, so both are freed at the same time.
_queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_native.CompletionQueue]] = (
    weakref.WeakKeyDictionary()
)
#: The loop of the last call and its queue, because most processes have one loop.
_last: tuple[Callable[[], Any], Callable[[], Any]] = (lambda: None), (lambda: None)
_kept: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _native.CompletionQueue] = weakref.WeakKeyDictionary()


def running() -> tuple[_native.CompletionQueue, asyncio.Future[Any]]:
    """Return the completion queue of the running event loop, and a new future."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise _no_loop() from None
    if asyncio.current_task(loop) is None:
        raise _no_loop()
    to_loop, to_queue = _last
    queue = to_queue() if to_loop() is loop else _queue_of(loop)
    if queue is None or not queue.is_current_process():
        queue = _open(loop)
    return queue, loop.create_future()


def _queue_of(loop: asyncio.AbstractEventLoop) -> _native.CompletionQueue | None:
    global _last  # noqa: PLW0603
    known = _queues.get(loop)
    if known is None:
        return None
    _last = weakref.ref(loop), known
    return known()


def _open(loop: asyncio.AbstractEventLoop) -> _native.CompletionQueue:
    global _last  # noqa: PLW0603
    queue = _native.CompletionQueue()
    try:
        # In an empty context: the loop keeps the context of this call, with the first caller's variables.
        contextvars.Context().run(loop.add_reader, queue.fileno(), queue.deliver)
    except NotImplementedError:
        queue.set_waker(_waker(loop, queue))
        _kept[loop] = queue
    _queues[loop] = weakref.ref(queue)
    _last = weakref.ref(loop), _queues[loop]
    return queue


def _waker(loop: asyncio.AbstractEventLoop, queue: _native.CompletionQueue) -> Callable[[], None]:
    """Return a waker for a loop that cannot watch a file descriptor, such as Windows' proactor loop."""
    to_loop, to_queue, context = weakref.ref(loop), weakref.ref(queue), contextvars.Context()

    def wake() -> None:
        live_loop, live_queue = to_loop(), to_queue()
        if live_loop is not None and live_queue is not None:
            with contextlib.suppress(RuntimeError):  # It is closed.
                live_loop.call_soon_threadsafe(live_queue.deliver, context=context)

    return wake


def _no_loop() -> ActPassConfigError:
    trio = sys.modules.get("trio")
    found = "none"
    if trio is not None:
        with contextlib.suppress(AttributeError, RuntimeError):
            trio.lowlevel.current_task()
            found = "trio, with which this client does not work: use ActPassClient in trio.to_thread.run_sync"
    return ActPassConfigError(
        f"AsyncActPassClient: expected a task of asyncio (or of uvloop or anyio on it), found {found}",
        code="actpass.invalid_config",
    )
