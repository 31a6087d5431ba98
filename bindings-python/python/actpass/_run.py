"""Run a guarded function between the verdict and the report, on the caller's thread."""

from __future__ import annotations

import contextvars
import itertools
import os
import sys
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, WrapperDescriptorType

from ._errors import ActPassArgumentError, ActPassConfigError
from ._telemetry import carry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from inspect import Signature
    from typing import Any, Callable, Literal

    from . import _native
    from ._outcome import GuardOutcome
    from ._telemetry import CallSpan
    from ._types import ExecutionContext

    Shape = Literal["coroutine function", "generator function", "function"]


#: Code flags as defined in ``inspect``.
_VARARGS, _GENERATOR, _COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x04, 0x20, 0x80, 0x100, 0x200
#: Flags of functions whose body runs after their call returned, for a blocking and an asynchronous client.
_LATER, _LATER_AWAITED = _GENERATOR | _ASYNC_GENERATOR | _COROUTINE, _GENERATOR | _ASYNC_GENERATOR
#: The maximum number of wrapper layers to inspect.
_LAYERS = 64


def check_callable(found: Any, called: str, awaited: bool) -> None:
    """Reject, before anything is sent, a callable that does not accept the context or would run later, unguarded."""
    # The common case: a function or method without attributes whose parameters are positional. It is decided from
    # the present code and defaults, without a cache, because both can be replaced.
    function, given = found, 1
    if type(found) is MethodType:
        function, given = found.__func__, 2
    if type(function) is FunctionType and not function.__dict__:
        code = function.__code__
        most = code.co_argcount
        if (
            not code.co_flags & (_LATER_AWAITED if awaited else _LATER)
            and given <= most
            and not code.co_kwonlyargcount
            and (most == given or most - len(function.__defaults__ or ()) <= given)
        ):
            return
    problem = _problem_of(found, awaited=awaited)
    if problem is not None:
        raise wrong(problem, "execute_fn", called)


def _problem_of(found: object, *, awaited: bool) -> str | None:
    if not callable(found):
        return f"expected a callable, found {type(found).__name__}"
    shape = shape_of(found)
    if shape == "coroutine function" and not awaited:
        return "expected a function that finishes when it returns, found async def: use AsyncActPassClient"
    if shape == "generator function":
        return (
            "expected a function that finishes when it returns, found a generator function, whose call runs nothing: "
            "return its items as a list"
        )
    if not _takes_the_context(found):
        return (
            f"expected a function that accepts the execution context as its only argument, found {_name(found)}"
            f"{_parameters(found)}: write lambda ctx: …"
        )
    return None


def shape_of(function: Any) -> Shape:
    """Classify ``function`` by inspecting it and its wrapper layers."""
    if type(function) is FunctionType and not function.__dict__:
        return _shape_of_layer(function)
    for layer, is_called in _layers(function, _LAYERS):
        shape = _shape_of_layer(layer)
        # A wrapper may run the coroutine function itself; its result is checked after the call.
        if shape == "generator function" or (shape == "coroutine function" and is_called):
            return shape
    return "function"


def _shape_of_layer(layer: object) -> Shape:
    flags = _get(_get(layer, "__code__"), "co_flags")
    flags = flags if isinstance(flags, int) else 0
    if flags & (_GENERATOR | _ASYNC_GENERATOR):
        return "generator function"
    return "coroutine function" if flags & _COROUTINE or _is_marked(layer) else "function"


def _is_marked(function: object) -> bool:
    """Return whether ``function`` is marked as a coroutine function, by ``inspect`` or by ``asyncio`` before 3.12."""
    inspect = sys.modules.get("inspect")
    if inspect is not None and _get(function, "_is_coroutine_marker") is not None:
        return bool(inspect.iscoroutinefunction(function))
    mark = getattr(sys.modules.get("asyncio.coroutines"), "_is_coroutine", None)
    return mark is not None and _get(function, "_is_coroutine") is mark


def _layers(found: Any, most: int) -> Iterator[tuple[Any, bool]]:
    """Yield each layer of ``found``: with ``True`` if a call reaches it, ``False`` if it is only ``__wrapped__``."""
    import functools  # noqa: PLC0415

    is_called = True
    while found is not None and most > 0:
        most -= 1
        yield found, is_called
        method = _get(found, "__partialmethod__") or _get(found, "_partialmethod")
        if isinstance(found, functools.partial) or isinstance(method, functools.partialmethod):
            found = found.func if isinstance(found, functools.partial) else method.func
        elif isinstance(found, (MethodType, staticmethod)):
            found = found.__func__
        else:
            call = _get(type(found), "__call__")
            if not isinstance(call, (WrapperDescriptorType, BuiltinFunctionType)):
                for layer, is_calls in _layers(call, most):
                    yield layer, is_called and is_calls
            found, is_called = _get(found, "__wrapped__"), False


def _get(found: object, name: str) -> Any:
    """Return an attribute of a foreign object; ``None`` if missing or if reading it fails."""
    try:
        return getattr(found, name, None)
    except Exception:
        return None


def _takes_the_context(found: Any) -> bool:
    """Return whether ``found`` accepts one positional argument; ``True`` if unknown."""
    function, given = (found.__func__, 2) if type(found) is MethodType else (found, 1)
    if type(function) is FunctionType and (plain := _takes(function, given)) is not None:
        return plain
    try:
        signature = signature_of(found)
    except Exception:  # Without a readable signature.
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _takes(function: FunctionType, given: int) -> bool | None:
    """Return whether a Python function accepts ``given`` arguments; ``None`` if it forwards them to another."""
    code = function.__code__
    if code.co_flags & _VARARGS and not function.__dict__.keys().isdisjoint(("__wrapped__", "__signature__")):
        return None
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    needed = code.co_argcount - len(function.__defaults__ or ())
    may = code.co_argcount >= given or code.co_flags & _VARARGS
    return bool(may) and needed <= given and all(name in (function.__kwdefaults__ or {}) for name in named)


def _name(found: object) -> str:
    name = _get(found, "__qualname__")
    return name if isinstance(name, str) else type(found).__qualname__


def signature_of(function: Callable[..., Any]) -> Signature:
    """Return the signature of ``function`` without evaluating its annotations."""
    import inspect  # noqa: PLC0415

    if sys.version_info >= (3, 14):
        from annotationlib import Format  # noqa: PLC0415

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def _parameters(found: Any) -> str:
    """Return the parameters of ``found`` as text, without defaults and annotations, which may hold secrets."""
    try:
        signature = signature_of(found)
        plain = [one.replace(default=one.empty, annotation=one.empty) for one in signature.parameters.values()]
        return str(signature.replace(parameters=plain, return_annotation=signature.empty))
    except Exception:
        return ""


def wrong(problem: str, member: str, called: str | None = None) -> ActPassArgumentError:
    """Return the error of an invalid parameter of the method ``called``."""
    error = ActPassArgumentError(f"{member}: {problem}", code="actpass.invalid_argument")
    error._complete(operation=called)
    return error


def _ids(*kinds: type) -> frozenset[int]:
    """Return the ids of these immortal types. Ids work for types that cannot be hashed or compared."""
    return frozenset(map(id, kinds))


#: Lazy iterators: they call user code only when iterated.
_LAZY = _ids(
    map,
    filter,
    type(iter(int, 1)),
    itertools.dropwhile,
    itertools.filterfalse,
    itertools.starmap,
    itertools.takewhile,
)
#: Types without a body.
_PLAIN = _ids(type(None), bool, int, float, str, bytes)
#: Results whose items are checked.
_CONTAINERS = _ids(dict, frozenset, list, set, tuple)

_ADVICE = {
    "execute_fn": "await it in the function, with an AsyncActPassClient",
    "protect": "put @protect directly above the async def",
}


def unrun(result: Any, member: str = "execute_fn") -> ActPassArgumentError | None:
    """Return the error for a result that is, or contains, a body that has not run; close such bodies.

    Bodies are recognized by type only: attributes of foreign objects may be dynamic or raise.
    """
    kind = type(result)
    if id(kind) in _PLAIN:
        return None
    is_container = id(kind) in _CONTAINERS
    bodies = _inside(result.values() if kind is dict else result) if is_container else [result]
    bodies = [body for body in bodies if _is_unrun(body)]
    if not bodies:
        return None
    where = f" in a {kind.__name__}" if is_container else ""
    found = type(bodies[0])
    problem = wrong(
        f"expected a result, found {found.__name__}{where}, which has not run: {_advice(found, member)}",
        member,
    )
    for body in bodies:
        try:
            _close(body)
        except Exception as error:
            problem.__cause__ = error
            problem._complete()
    return problem


def _inside(given: Any) -> list[Any]:
    """Return the items of a container that may be bodies."""
    items = list(given)  # A copy, safe from other threads.
    try:
        kinds = set(map(type, items))
    except TypeError:  # An unhashable type.
        return items
    return items if any(_advice(kind) is not None for kind in kinds) else []


def _is_unrun(result: Any) -> bool:
    kind = type(result)
    if _advice(kind) is None:
        return False
    if _is_future(kind):
        return not result.done()
    if _is_context_manager(kind):
        generator = result.gen
        return _get(generator, "gi_frame") is not None or _get(generator, "ag_frame") is not None
    return True


def _is_context_manager(kind: type) -> bool:
    """Return whether ``kind`` is the result type of ``contextlib.contextmanager`` functions: an unstarted generator."""
    contextlib = sys.modules.get("contextlib")
    return contextlib is not None and issubclass(kind, getattr(contextlib, "_GeneratorContextManagerBase", ()))


def _is_future(kind: type) -> bool:
    return _has(kind, "_asyncio_future_blocking", "get_loop", "cancel", "done")


def _advice(kind: type, member: str = "execute_fn") -> str | None:
    """Return the advice for a body of this type; ``None`` if the type is not a body."""
    if id(kind) in _PLAIN or id(kind) in _CONTAINERS:
        return None
    if _has(kind, "__await__"):
        return _ADVICE[member]
    if _is_context_manager(kind):
        return "enter it in the function"
    if _has(kind, "__anext__") and (_has(kind, "asend", "athrow") or _only_iterates(kind)):
        return "return its items as a list: [item async for item in items]"
    if _has(kind, "__next__") and (_has(kind, "send", "throw", "close") or id(kind) in _LAZY):
        return "return its items as a list"
    return None


def _only_iterates(kind: type) -> bool:
    """Return whether a class only supports ``async for``; an open file, for example, can also be read."""
    names = {name for base in kind.__mro__ for name in vars(base) if not name.startswith("_")}
    return names <= {"aclose", "close"}


def _has(kind: type, *names: str) -> bool:
    for name in names:
        for base in kind.__mro__:
            if name in base.__dict__:
                break
        else:
            return False
    return True


def _close(body: Any) -> None:
    """Close a body so that it never runs, without a "never awaited" warning."""
    kind = type(body)
    if _is_context_manager(kind):
        body, kind = body.gen, type(body.gen)
    if _is_future(kind):
        _cancel(body)
    elif _has(kind, "send", "throw", "close"):
        body.close()
    # An unstarted async generator needs no closing.


def _cancel(future: Any) -> None:
    def cancel() -> None:
        future.cancel()
        # Retrieve its error, else the loop logs it.
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    loop = future.get_loop()
    if loop is sys.modules["asyncio"]._get_running_loop():
        cancel()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(cancel)


def _is_awaitable(result: Any) -> bool:
    """Return whether ``result`` is awaitable, including generators of ``types.coroutine``."""
    kind = type(result)
    return _has(kind, "__await__") or (kind is GeneratorType and bool(result.gi_code.co_flags & _ITERABLE_COROUTINE))


def begin(session: _native.GuardSession, tool: str, now: tuple[object, ...] = ()) -> tuple[Any, Any]:
    """Spend the permit: return the context or the blocked outcome. The last step before a guarded function runs.

    ``now`` are the arguments of the native ``begin``.
    """
    context, outcome = session.begin(*now) if now else session.begin()
    if journals and context is not None:
        note(tool, context["decision"], session.request_id, ran=True)
    return context, outcome


#: Environment variable that passes the path of a test gateway's journal to child processes.
JOURNAL = "ACTPASS_TEST_JOURNAL"
#: Files in which :mod:`actpass.testing` records executions. Empty outside tests.
journals: list[str] = [path for path in [os.environ.get(JOURNAL)] if path]


def note(tool: str, decision: Any, request_id: str | None = None, *, ran: bool) -> None:
    """Record in the journals that a guarded function is about to run, or that a call ended without running one.

    Raises:
        ActPassConfigError: A journal is not writable. Nothing ran: a test must not miss an execution.
    """
    if not journals:
        return
    import json  # noqa: PLC0415

    line = {"ran": ran, "tool": tool, "event": decision.get("evidence_event_id"), "request": request_id}
    text = (json.dumps(line) + "\n").encode()
    for path in list(journals):
        try:
            opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:  # Its gateway is closed.
            continue
        except OSError as error:
            raise _unwritable(error) from error
        try:
            if os.write(opened, text) != len(text):
                raise _unwritable("the disk is full")
        except OSError as error:
            raise _unwritable(error) from error
        finally:
            os.close(opened)


def _unwritable(problem: object) -> ActPassConfigError:
    return ActPassConfigError(
        f"{JOURNAL}: expected a writable file, found {problem}; nothing ran", code="actpass.invalid_config"
    )


def shown(pending: Any) -> tuple[object, object]:
    """Return the tool and the mode of a pending action, for telemetry; it is validated later."""
    return (pending.get("tool"), pending.get("mode")) if isinstance(pending, dict) else (None, None)


def run(
    session: _native.GuardSession | None,
    outcome: Any,
    tool: str,
    execute_fn: Callable[[ExecutionContext], Any],
    span: CallSpan | None,
    now: Callable[[], tuple[object, ...]] | None = None,
    suspends: tuple[type[BaseException], ...] = (),
) -> GuardOutcome[Any]:
    """Run a permitted function and return its outcome; without a session, return ``outcome`` as blocked.

    ``now`` returns the arguments of :func:`begin`. Exceptions of the types in ``suspends`` are control flow of a
    framework: recorded as ``suspended``, and raised.
    """
    if session is None:
        return blocked(outcome, tool, span)
    context, outcome = session.begin() if now is None else session.begin(*now())
    if context is None:
        return blocked(outcome, tool, span)
    if journals:
        note(tool, context["decision"], session.request_id, ran=True)
    if span is not None:
        span.decided(context["decision"])
    try:
        result = execute_fn(context)
    except suspends:
        session.suspended()
        raise
    except Exception as error:
        outcome, recorded = session.failed(error)
    except BaseException:
        session.cancelled()
        raise
    else:
        problem = None if id(type(result)) in _PLAIN else unrun(result)
        outcome, recorded = session.returned(result) if problem is None else session.failed(problem)
    if recorded is not None:
        outcome.update(recorded)
    outcome._tool = tool
    if span is not None:
        span.ended(outcome)
    return outcome  # type: ignore[no-any-return]


async def run_async(
    session: _native.GuardSession | None,
    outcome: Any,
    tool: str,
    execute_fn: Callable[[ExecutionContext], Any],
    span: CallSpan | None,
    now: Callable[[], tuple[object, ...]] | None = None,
    suspends: tuple[type[BaseException], ...] = (),
) -> GuardOutcome[Any]:
    """Like :func:`run`, in the caller's task."""
    if session is None:
        return blocked(outcome, tool, span)
    context, outcome = session.begin() if now is None else session.begin(*now())
    if context is None:
        return blocked(outcome, tool, span)
    if journals:
        note(tool, context["decision"], session.request_id, ran=True)
    if span is not None:
        span.decided(context["decision"])
    try:
        result = execute_fn(context)
        if id(type(result)) not in _PLAIN and _is_awaitable(result):
            result = await result
    except suspends:
        session.suspended()
        raise
    except Exception as error:
        outcome, recording = session.failed(error)
    except BaseException:
        session.cancelled()
        raise
    else:
        problem = None if id(type(result)) in _PLAIN else unrun(result)
        outcome, recording = session.returned(result) if problem is None else session.failed(problem)
    if recording is not None:
        outcome = await reported_async((outcome, recording))
    outcome._tool = tool
    if span is not None:
        span.ended(outcome)
    return outcome  # type: ignore[no-any-return]


def returned(session: _native.GuardSession, result: Any) -> tuple[Any, Any]:
    """Return the outcome of a function that returned ``result``, and its recording."""
    problem = unrun(result)
    return session.returned(result) if problem is None else session.failed(problem)


def failed(session: _native.GuardSession, error: Any) -> tuple[Any, Any]:
    """Return the outcome of an action that raised ``error``, and its recording."""
    if not isinstance(error, Exception):
        raise wrong(f"expected an exception, found {type(error).__name__}", "error", "authorize")
    return session.failed(error)


def reported(ended: tuple[Any, Any]) -> Any:
    """Return an outcome with the result of its recording."""
    outcome, recorded = ended
    if recorded is not None:
        outcome.update(recorded)
    return outcome


async def reported_async(ended: tuple[Any, Any]) -> Any:
    """Like :func:`reported`; awaits the recording."""
    outcome, recording = ended
    if recording is not None:
        # Not cancelled with the task: the action ran and must be recorded.
        try:
            outcome.update(recording if isinstance(recording, dict) else await recording.future)
        except Exception as error:
            outcome["evidence_error"] = error
        except BaseException as stop:
            carry(stop, outcome)
            raise
    return outcome


def blocked(outcome: Any, tool: str, span: CallSpan | None) -> GuardOutcome[Any]:
    """Return the outcome of an action that did not run."""
    # A denial made by the SDK has no request id and is not counted.
    if outcome.request_id or "evidence_event_id" in outcome["decision"]:
        note(tool, outcome["decision"], outcome.request_id, ran=False)
    outcome._tool = tool
    if span is not None:
        span.decided(outcome["decision"], outcome.get("error"))
        span.ended(outcome)
    return outcome  # type: ignore[no-any-return]


#: The completion queue and the answer of a thread that waits for a call of an asynchronous client: see ``_waiting``.
waiter: contextvars.ContextVar[Any] = contextvars.ContextVar("actpass._run.waiter", default=None)


def running() -> tuple[_native.CompletionQueue, Any]:
    """Return the completion queue of the running event loop and a new future; called by the native module.

    The first call imports ``asyncio``. The import is static, so that program bundlers find it.
    """
    own: tuple[_native.CompletionQueue, Any] | None = waiter.get()
    return _running() if own is None else own


def _import_and_run() -> tuple[_native.CompletionQueue, Any]:
    global _running  # noqa: PLW0603
    from . import _loop  # noqa: PLC0415

    _running = _loop.running
    return _running()


_running: Callable[[], tuple[_native.CompletionQueue, Any]] = _import_and_run
