"""Cooperation with gevent: where its patches are in, a call that waits for the network lets other greenlets run.

The native half waits in the operating system, which would hold up the hub and every greenlet. So it waits on a thread,
and the greenlet waits for the thread. The guarded function still runs in the greenlet that called.
"""

from __future__ import annotations

import contextvars
import sys
import weakref
from typing import TYPE_CHECKING, Any, Callable, cast

if TYPE_CHECKING:
    from . import _native

#: The calls of a client that wait for the network.
_WAITING = frozenset(
    (
        "authorize",
        "guard",
        "issue_passport",
        "preflight",
        "record_evidence",
        "resume",
        "revoke_passport",
        "verify_passport",
        "verify_passport_offline",
        "wait_for_approval",
    )
)
#: Those that may give a session.
_GUARDING = frozenset(("authorize", "guard", "resume"))
#: How many calls of a hub wait at once; more take turns. gevent's own pool has ten threads, which also look up names.
_THREADS = 100

_pools: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def cooperative(native: _native.Client) -> _native.Client:
    """Return ``native``, or a client that calls it without holding up the hub if gevent has patched this process."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return native
    return cast("_native.Client", _Client(native))


class _Client:
    __slots__ = ("_native",)

    def __init__(self, native: _native.Client) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._native, name)
        if name not in _WAITING:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = _wait(found, *args, **kwargs)
            return _cooperative(answer) if name in _GUARDING else answer

        return call


def _cooperative(verdict: Any) -> Any:
    """Return a verdict whose session, if there is one that records, does so without holding up the hub."""
    session, blocked = verdict
    return (session if session is None or not session.records_outcome else _Session(session)), blocked


class _Session:
    """A session whose outcome is recorded: that is a call, too."""

    __slots__ = ("_session",)

    def __init__(self, session: _native.GuardSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        return (lambda *args: _wait(found, *args)) if name in ("failed", "returned") else found


def _wait(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` on a thread in the context of the caller."""
    hub = sys.modules["gevent"].get_hub()
    pool = _pools.get(hub)
    if pool is None:
        pool = _pools[hub] = hub.threadpool_class(_THREADS, hub=hub)
    returned, value = pool.apply(_caught, (contextvars.copy_context(), function, args, kwargs))
    if returned:
        return value
    raise value


def _caught(
    context: contextvars.Context, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, Any]:
    """Return whether ``function`` returned, and what it returned or raised: gevent prints what a thread raises."""
    try:
        return True, context.run(function, *args, **kwargs)
    except BaseException as error:
        return False, error
