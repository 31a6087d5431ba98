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
#: The calls that make a permit, and which argument says whether its outcome is recorded.
_RECORDS = {"authorize": 1, "resume": 3}
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
            at = _RECORDS.get(name)
            if at is None or not args[at]:
                return answer
            return _cooperative(answer)

        return call


def _cooperative(verdict: Any) -> Any:
    """Return a verdict whose permit, if there is one, records without holding up the hub."""
    permit, blocked = verdict
    return (permit if permit is None else _Permit(permit)), blocked


class _Permit:
    """A permit whose outcome is recorded: that is a call, too."""

    __slots__ = ("_permit",)

    def __init__(self, permit: _native.Permit) -> None:
        self._permit = permit

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._permit, name)
        if name == "arguments_changed":
            return lambda: _cooperative(found())
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
