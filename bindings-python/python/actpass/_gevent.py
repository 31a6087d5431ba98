"""gevent support: in a patched process, calls that wait for the network yield to other greenlets.

The native module blocks in system calls, which would block the hub. So it runs on a thread of a pool while the greenlet
waits. The guarded function runs in the calling greenlet.
"""

from __future__ import annotations

import contextvars
import sys
import weakref
from typing import TYPE_CHECKING, Any, Callable, cast

if TYPE_CHECKING:
    from . import _native

#: Methods of a client that wait for the network.
WAITING = frozenset(
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
#: Methods that may return a session.
GUARDING = frozenset(("authorize", "guard", "resume"))
#: The maximum number of concurrent calls of a hub. gevent's own pool has ten threads, shared with DNS lookups.
_THREADS = 100

_pools: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def cooperative(native: _native.Client) -> _native.Client:
    """Return ``native``; in a process patched by gevent, a wrapper that does not block the hub."""
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
        if name not in WAITING:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = _wait(found, *args, **kwargs)
            return _cooperative(answer) if name in GUARDING else answer

        return call


def _cooperative(verdict: Any) -> Any:
    """Wrap the session of a verdict, if it records the outcome, so that it does not block the hub."""
    session, blocked = verdict
    return (session if session is None or not session.records_outcome else _Session(session)), blocked


class _Session:
    """A session that records its outcome, which is a network call."""

    __slots__ = ("_session",)

    def __init__(self, session: _native.GuardSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        return (lambda *args: _wait(found, *args)) if name in ("failed", "returned") else found


def _wait(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` on a pool thread, in a copy of the caller's context."""
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
    """Return whether ``function`` returned, and its result or exception; gevent prints uncaught exceptions."""
    try:
        return True, context.run(function, *args, **kwargs)
    except BaseException as error:
        return False, error
