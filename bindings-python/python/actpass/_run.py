"""How a guarded function is run: by the one who asked, between the verdict and the report."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Callable

from ._errors import ActPassArgumentError
from ._types import T

if TYPE_CHECKING:
    from . import _native
    from ._telemetry import Operation
    from ._types import ExecutionContext, GuardOutput


#: The flags of functions of which a call runs nothing, as ``inspect`` numbers them.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


def check_callable(found: object, *, awaited: bool) -> None:
    """Refuse what cannot be called, or would run later and unguarded, before anything is sent."""
    if not callable(found):
        raise _wrong(f"expected a callable, found {type(found).__name__}")
    flags = getattr(getattr(found, "__code__", None), "co_flags", 0)
    if flags & _COROUTINE and not awaited:
        raise _wrong("expected a function that is done when it returns, found async def: use AsyncActPassClient")
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise _wrong("expected a function that is done when it returns, found a generator function")


def _wrong(problem: str) -> ActPassArgumentError:
    return ActPassArgumentError(f"execute_fn: {problem}", code="actpass.invalid_argument")


def spend(permit: _native.Permit, tool: str) -> ExecutionContext:
    """Return what the function is given. This is the last step before any guarded function runs."""
    context: ExecutionContext = permit.spend()
    return context


def shown(pending: Any) -> tuple[object, object]:
    """Return the tool and the mode of an action that waited, for whoever watches; it is checked later."""
    return (pending.get("tool"), pending.get("mode")) if isinstance(pending, dict) else (None, None)


def run(
    permit: _native.Permit | None,
    outcome: Any,
    tool: str,
    execute_fn: Callable[[ExecutionContext], T],
    told: Operation,
) -> GuardOutput[T]:
    """Run what may run, and return what is reported; ``outcome`` is that of what may not."""
    if permit is None:
        blocked: GuardOutput[T] = _blocked(outcome, told)
        return blocked
    context = spend(permit, tool)
    told.decided(context["decision"])
    try:
        result = execute_fn(context)
    except Exception as error:
        outcome, recorded = permit.failed(error)
    else:
        outcome, recorded = permit.returned(result)
    if recorded is not None:
        outcome.update(recorded)
    told.ended(outcome)
    reported: GuardOutput[T] = outcome
    return reported


async def run_async(
    permit: _native.Permit | None,
    outcome: Any,
    tool: str,
    execute_fn: Callable[[ExecutionContext], Any],
    told: Operation,
) -> Any:
    """Run what may run in the caller's task, and return what is reported."""
    if permit is None:
        return _blocked(outcome, told)
    context = spend(permit, tool)
    told.decided(context["decision"])
    try:
        result = execute_fn(context)
        if isinstance(result, Awaitable):
            result = await result
    except Exception as error:
        outcome, recording = permit.failed(error)
    except BaseException:
        permit.abandoned()
        raise
    else:
        outcome, recording = permit.returned(result)
    if recording is not None:
        # Not cancelled with the task: the action has run, and the ledger is to know.
        outcome.update(await recording.future)
    told.ended(outcome)
    return outcome


def _blocked(outcome: Any, told: Operation) -> Any:
    told.decided(outcome["decision"], outcome.get("error"))
    told.ended(outcome)
    return outcome


async def answer(call: _native.Call) -> Any:
    """Await a call; a task that does not wait any more ends it."""
    try:
        return await call.future
    except BaseException:
        call.cancel()
        raise
