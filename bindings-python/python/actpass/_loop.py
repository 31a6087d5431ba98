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
_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_native.CompletionQueue]] = (
    weakref.WeakKeyDictionary()
)
_kept: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _native.CompletionQueue] = weakref.WeakKeyDictionary()


def running() -> tuple[_native.CompletionQueue, asyncio.Future[Any]]:
    """Return the completion queue of the running event loop, and a new future."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise _no_loop() from None
    if asyncio.current_task(loop) is None:
        raise _no_loop()
    known = _mailboxes.get(loop)
    mailbox = known() if known is not None else None
    if mailbox is None or not mailbox.is_current_process():
        mailbox = _open(loop)
    return mailbox, loop.create_future()


def _open(loop: asyncio.AbstractEventLoop) -> _native.CompletionQueue:
    mailbox = _native.CompletionQueue()
    try:
        # In an empty context: the loop keeps the context of this call, with the first caller's variables.
        contextvars.Context().run(loop.add_reader, mailbox.fileno(), mailbox.deliver)
    except NotImplementedError:
        mailbox.set_waker(_bell(loop, mailbox))
        _kept[loop] = mailbox
    _mailboxes[loop] = weakref.ref(mailbox)
    return mailbox


def _bell(loop: asyncio.AbstractEventLoop, mailbox: _native.CompletionQueue) -> Callable[[], None]:
    """Return a waker for a loop that cannot watch a file descriptor, such as Windows' proactor loop."""
    to_loop, to_mailbox, context = weakref.ref(loop), weakref.ref(mailbox), contextvars.Context()

    def ring() -> None:
        live, letters = to_loop(), to_mailbox()
        if live is not None and letters is not None:
            with contextlib.suppress(RuntimeError):  # It is closed.
                live.call_soon_threadsafe(letters.deliver, context=context)

    return ring


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
