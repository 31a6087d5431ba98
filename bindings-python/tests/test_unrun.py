"""An unrun body is not a result; a function that cannot take the context is rejected before sending."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import io
import itertools
import json
import operator
import re
import sys
import types
import unittest.mock
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any, Callable

import pytest
from actpass import (
    ActPassArgumentError,
    ActPassClient,
    ActPassConfigError,
    AsyncActPassClient,
    _run,
    canonical_outcome,
)
from support import ACTION, CapturingServer, capturing, new_async_client, new_client, run_loop

PENDING: Any = {"approval_request_id": "a", "goal": "g", "tool": "t", "args": {}}
NAMES: dict[str, Any] = {"tool": "t", "goal": "g"}

#: Names of the bodies that ran.
RAN: list[str] = []


async def pay(*_: Any) -> str:
    RAN.append("pay")
    return "paid"


def steps(*_: Any) -> Iterator[str]:
    RAN.append("steps")
    yield "step"


async def async_steps(*_: Any) -> AsyncIterator[str]:
    RAN.append("async_steps")
    yield "step"


class Pay:
    async def __call__(self, *_: Any) -> str:
        return await pay()

    async def method(self, *_: Any) -> str:
        return await pay()

    @classmethod
    async def of_the_class(cls, *_: Any) -> str:
        return await pay()

    @staticmethod
    async def static(*_: Any) -> str:
        return await pay()

    partly = functools.partialmethod(method, 5)


class PayPartly:
    """A callable whose ``__call__`` is a partial method."""

    async def method(self, *_: Any) -> str:
        return await pay()

    __call__ = functools.partialmethod(method, 5)


class PayStatic:
    __call__ = staticmethod(pay)


class PayByAnother:
    __call__ = Pay()


class Steps:
    def __call__(self, *_: Any) -> Iterator[str]:
        return (yield from steps())


class AsyncSteps:
    async def __call__(self, *_: Any) -> AsyncIterator[str]:
        async for step in async_steps():
            yield step


class Meta(type):
    async def __call__(cls, *_: Any) -> str:  # type: ignore[override]
        return await pay()


class Made(metaclass=Meta):
    pass


def cython(flags: int) -> Any:
    """Return an object like a compiled function: code flags, but not a Python function."""

    class Compiled:
        __code__ = types.SimpleNamespace(co_flags=flags)

        def __call__(self, *_: Any) -> Any:
            return pay()

    return Compiled()


def marked() -> Any:
    def later(*_: Any) -> Any:
        return pay()

    if sys.version_info >= (3, 12):
        import inspect

        return inspect.markcoroutinefunction(later)
    later._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return later


SHOWN_ASYNC: dict[str, Any] = {
    "async def": pay,
    "partial": functools.partial(pay, 5),
    "partial of a partial": functools.partial(functools.partial(pay, 5), 6),
    "method": Pay().method,
    "partial of a method": functools.partial(Pay().method, 5),
    "partial method": Pay().partly,
    "class method": Pay.of_the_class,
    "static method": Pay.static,
    "callable object": Pay(),
    "its __call__": Pay().__call__,
    "partial of a callable object": functools.partial(Pay(), 5),
    "callable object with a partial method": PayPartly(),
    "callable object with a static method": PayStatic(),
    "callable object with a callable object": PayByAnother(),
    "class of a metaclass": Made,
    "compiled": cython(0x80),
    "marked": marked(),
    "double of a test": unittest.mock.AsyncMock(),
    **({"staticmethod": staticmethod(pay)} if sys.version_info >= (3, 10) else {}),
}
SHOWN_GENERATORS: dict[str, Any] = {
    "generator function": steps,
    "asynchronous generator function": async_steps,
    "partial": functools.partial(steps, 5),
    "partial of asynchronous": functools.partial(async_steps, 5),
    "callable object": Steps(),
    "asynchronous callable object": AsyncSteps(),
    "contextmanager": contextlib.contextmanager(steps),
    "asynccontextmanager": contextlib.asynccontextmanager(async_steps),
    "cached": functools.lru_cache(steps),
    "compiled": cython(0x20),
    "types.coroutine": types.coroutine(lambda *_: (yield)),
}


@functools.wraps(pay)
def decorated(*args: Any) -> Any:
    return pay(*args)


@functools.wraps(pay)
def runs_it(*args: Any) -> Any:
    return asyncio.run(pay(*args))


class Awaits:
    """An awaitable that is not a coroutine."""

    def __await__(self) -> Any:
        RAN.append("awaits")
        yield


class Iterates:
    def __aiter__(self) -> Iterates:
        return self

    async def __anext__(self) -> str:
        RAN.append("iterates")
        return "step"


class Ordered(type):
    """A metaclass whose classes can be neither hashed nor compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        raise TypeError


class Odd(metaclass=Ordered):
    pass


class Proxy:
    """An object that raises on any attribute access, including ``__class__``."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("working outside of a request")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")


def callback(*_: Any) -> None:
    RAN.append("callback")


#: Functions with an unrun result, which their type does not reveal.
HIDDEN: dict[str, Callable[[Any], Any]] = {
    "lambda of a coroutine": lambda _: pay(),
    "decorated": decorated,
    "generic": functools.singledispatch(pay),
    "lambda of a generator": lambda _: steps(),
    "generator expression": lambda _: (callback() for _ in "ab"),
    "lambda of an asynchronous generator": lambda _: async_steps(),
    "asynchronous generator expression": lambda _: (step async for step in async_steps()),
    "step of an asynchronous generator": lambda _: async_steps().asend(None),
    "awaitable": lambda _: Awaits(),
    "asynchronous iterator": lambda _: Iterates(),
    "map": lambda _: map(callback, "ab"),
    "filter": lambda _: filter(callback, "ab"),
    "starmap": lambda _: itertools.starmap(callback, ["ab"]),
    "takewhile": lambda _: itertools.takewhile(callback, "ab"),
    "iterator that calls": lambda _: iter(callback, 1),
    "context of a generator": lambda _: contextlib.contextmanager(steps)(),
    "context of an asynchronous generator": lambda _: contextlib.asynccontextmanager(async_steps)(),
    "list of coroutines": lambda _: [pay(), pay()],
    "tuple": lambda _: (1, pay()),
    "set": lambda _: {steps()},
    "dict": lambda _: {"ch_1": pay(), "ch_2": steps()},
    "list with an unhashable type": lambda _: [Odd(), pay()],
}
#: Results that the client for event loops does not await: nested in another value, or returned by an awaited value.
AWAITED = {"lambda of a coroutine", "decorated", "generic", "step of an asynchronous generator", "awaitable"}


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    """Fail if a warning reports a coroutine that was never awaited."""
    RAN.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []


@pytest.fixture(scope="module")
def server() -> Iterator[CapturingServer]:
    with capturing() as server:
        yield server


@pytest.fixture
def gateway(server: CapturingServer) -> CapturingServer:
    server.take()
    return server


@functools.cache
def client_of(base_url: str) -> ActPassClient:
    return new_client(base_url)


@functools.cache
def async_client_of(base_url: str) -> AsyncActPassClient:
    return new_async_client(base_url)


def ended(gateway: CapturingServer) -> list[str]:
    sent = [one for one in gateway.take() if one.path.endswith("/evidence/events")]
    return [json.loads(one.body)["metadata"]["ended"] for one in sent]


def guard(gateway: CapturingServer, function: Any, **options: Any) -> Any:
    return client_of(gateway.base_url).guard(execute_fn=function, **{**ACTION, **options})


def guard_async(gateway: CapturingServer, function: Any, **options: Any) -> Any:
    async def main() -> Any:
        out = await async_client_of(gateway.base_url).guard(execute_fn=function, **{**ACTION, **options})
        for _ in range(3):  # The loop finalizes dropped asynchronous generators.
            await asyncio.sleep(0)
        return out

    return run_loop(main())


@pytest.mark.parametrize("what", SHOWN_ASYNC)
def test_blocking_client_rejects_async_functions(gateway: CapturingServer, what: str) -> None:
    function = SHOWN_ASYNC[what]
    client = client_of(gateway.base_url)
    for mode in ("enforce", "monitor"):
        with pytest.raises(ActPassArgumentError, match=r"\Aexecute_fn: .*found async def") as caught:
            client.guard(execute_fn=function, mode=mode, **ACTION)  # type: ignore[arg-type]
        assert (caught.value.kind, caught.value.code) == ("argument", "actpass.invalid_argument")
    with pytest.raises(ActPassArgumentError, match="found async def"):
        client.resume(PENDING, function)
    assert (gateway.captured, RAN) == ([], [])


@pytest.mark.parametrize("what", SHOWN_GENERATORS)
def test_both_clients_reject_generators(gateway: CapturingServer, what: str) -> None:
    function = SHOWN_GENERATORS[what]
    with pytest.raises(ActPassArgumentError, match="found a generator function"):
        guard(gateway, function)
    with pytest.raises(ActPassArgumentError, match="found a generator function"):
        guard_async(gateway, function, mode="monitor")
    for client in (client_of(gateway.base_url), async_client_of(gateway.base_url)):
        with pytest.raises(ActPassConfigError, match=r"protect: expected a function .* would run later"):
            client.protect(**NAMES)(function)
    assert (gateway.captured, RAN) == ([], [])


@pytest.mark.parametrize("what", [one for one in SHOWN_ASYNC if one not in {"compiled", "marked", "double of a test"}])
def test_async_client_runs_async_functions(gateway: CapturingServer, what: str) -> None:
    out = guard_async(gateway, SHOWN_ASYNC[what], record_outcome=True)
    assert (out["result"], RAN, ended(gateway)) == ("paid", ["pay"], ["returned"])


@pytest.mark.parametrize("what", HIDDEN)
def test_rejects_result_that_has_not_run(gateway: CapturingServer, what: str) -> None:
    out = guard(gateway, HIDDEN[what], record_outcome=True)
    error = out["error"]
    assert isinstance(error, ActPassArgumentError)
    assert re.match(r"execute_fn: expected a result, found \w+.*, which has not run: ", str(error))
    assert ("result" in out, out["executed"], out["decision"]["decision"]) == (False, True, "allow")
    assert json.loads(canonical_outcome(out))["error"] == {"kind": "argument", "status": None}
    assert (RAN, ended(gateway)) == ([], ["failed"])


@pytest.mark.parametrize("what", HIDDEN)
def test_rejects_unawaited_result(gateway: CapturingServer, what: str) -> None:
    out = guard_async(gateway, HIDDEN[what], record_outcome=True)
    if what in AWAITED:
        assert ("error" in out, len(RAN), ended(gateway)) == (False, 1, ["returned"])
        RAN.clear()

    async def returns(_: Any) -> Any:
        return HIDDEN[what](_)

    out = guard_async(gateway, returns, record_outcome=True)
    assert isinstance(out["error"], ActPassArgumentError)
    assert ("result" in out, out["executed"]) == (False, True)
    assert (RAN, ended(gateway)[-1]) == ([], "failed")


@pytest.mark.parametrize("what", HIDDEN)
def test_protected_functions_reject_unrun_results(gateway: CapturingServer, what: str) -> None:
    hidden = HIDDEN[what]

    def plain() -> Any:
        return hidden(None)

    async def asynchronous() -> Any:
        return hidden(None)

    client = client_of(gateway.base_url)
    with pytest.raises(ActPassArgumentError, match=r"protect: expected a result, found .*, which has not run"):
        client.protect(**NAMES, record_outcome=True)(plain)()
    with pytest.raises(ActPassArgumentError, match=r"protect: expected a result, found .*, which has not run"):
        run_loop(client.protect(**NAMES, record_outcome=True)(asynchronous)())
    assert (RAN, ended(gateway)) == ([], ["failed", "failed"])


def test_cancels_unawaited_tasks(gateway: CapturingServer) -> None:
    async def main() -> None:
        blocking, client = new_client(gateway.base_url), new_async_client(gateway.base_url)
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def start(_: Any) -> Any:
            made.append(loop.create_task(pay()))
            return made[-1]

        async def starts(_: Any) -> Any:
            return start(_)

        async def gathers(_: Any) -> Any:
            return asyncio.gather(start(_), start(_))

        for out in (
            blocking.guard(execute_fn=start, **ACTION),
            blocking.guard(execute_fn=lambda _: [start(_), start(_)], **ACTION),
            await client.guard(execute_fn=starts, **ACTION),
            await client.guard(execute_fn=gathers, **ACTION),
            await client.guard(execute_fn=lambda _: (start(_), 1), **ACTION),
        ):
            assert isinstance(out["error"], ActPassArgumentError)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (RAN, {one.cancelled() for one in made}) == ([], {True})
        # A task returned directly is awaited; a finished task has run.
        assert (await client.guard(execute_fn=start, **ACTION))["result"] == "paid"
        done = made[-1]
        for out in (
            blocking.guard(execute_fn=lambda _: done, **ACTION),
            await client.guard(execute_fn=lambda _: [done], **ACTION),
        ):
            assert "error" not in out
        blocking.close()
        await client.close()

    run_loop(main())


def test_cancels_task_in_its_own_loop(gateway: CapturingServer) -> None:
    async def main() -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        out = await asyncio.get_running_loop().run_in_executor(None, lambda: guard(gateway, lambda _: task))
        assert isinstance(out["error"], ActPassArgumentError)
        assert out["error"].__cause__ is None  # Cancelling from another thread would raise in debug mode.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        assert task.cancelled()

    run_loop(main())
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    assert isinstance(guard(gateway, lambda _: future)["error"], ActPassArgumentError)


def test_error_of_closing_body_is_the_cause(gateway: CapturingServer) -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("of the body")

    def act(_: Any) -> Any:
        begun = stubborn()
        next(begun)
        return begun

    error = guard(gateway, act, record_outcome=True)["error"]
    assert isinstance(error, ActPassArgumentError)
    assert isinstance(error.__cause__, KeyError)
    assert ended(gateway) == ["failed"]


@contextlib.contextmanager
def finished() -> Iterator[None]:
    yield


def test_returns_results_that_resemble_unrun_bodies(gateway: CapturingServer, tmp_path: Any) -> None:
    """Including results whose attributes cannot be read."""

    class Reader:
        """An object like asyncio's streams and asynchronous files."""

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            return b""

        async def read(self) -> bytes:
            return b""

    class Connection:
        def send(self) -> None:
            pass

        def close(self) -> None:
            pass

    context = finished()
    with context:
        pass
    file = tmp_path / "rows"
    file.write_text("a\nb\n", encoding="utf-8")
    with file.open(encoding="utf-8") as opened, concurrent.futures.ThreadPoolExecutor(1) as pool:
        results: list[Any] = [
            opened,
            io.BytesIO(b"a\n"),
            iter([1, 2]),
            zip([1], [2]),
            enumerate("ab"),
            reversed([1]),
            range(3),
            {"a": 1}.items(),
            itertools.chain([1]),
            Reader(),
            (Reader(), Connection()),
            Connection(),
            context,
            contextlib.nullcontext(),
            Odd(),
            [Odd(), 1],
            Proxy(),
            [Proxy()],
            Proxy,
            pay,
            steps,
            functools.partial(pay, 5),
            unittest.mock.MagicMock(),
            unittest.mock.Mock(),
            [unittest.mock.MagicMock()],
            pool.submit(lambda: 1),
            [],
            {},
            None,
            Exception("returned"),
        ]
        for result in results:
            out = guard(gateway, lambda _, result=result: result)
            assert "error" not in out, type(result)
            assert out["result"] is result
            out = guard_async(gateway, lambda _, result=result: result)
            assert "error" not in out, type(result)
            assert out["result"] is result


def test_function_that_runs_its_coroutine_is_accepted(gateway: CapturingServer) -> None:
    assert guard(gateway, runs_it)["result"] == "paid"
    assert guard(gateway, lambda _: asyncio.run(pay()))["result"] == "paid"


def test_awaits_generator_based_coroutines(gateway: CapturingServer) -> None:
    old = types.coroutine(lambda: (yield from asyncio.sleep(0, 7).__await__()))
    assert guard_async(gateway, lambda _: old())["result"] == 7


class Takes:
    def nothing(self) -> None:
        pytest.fail("it ran")

    def two(self, a: Any, b: Any) -> None:
        pytest.fail("it ran")

    def __call__(self) -> None:
        pytest.fail("it ran")

    def one(self, context: Any) -> Any:
        return context


class Refund:
    def __init__(self, charge: str, amount: int) -> None:
        pytest.fail("it ran")


def nothing() -> None:
    pytest.fail("it ran")


def two(a: Any, b: Any) -> None:
    pytest.fail("it ran")


def by_name(*, context: Any) -> None:
    pytest.fail("it ran")


def one_and_by_name(context: Any, *, amount: int) -> None:
    pytest.fail("it ran")


@functools.wraps(nothing)
def passes_on(*args: Any, **kwargs: Any) -> Any:
    return nothing(*args, **kwargs)


async def async_nothing() -> None:
    pytest.fail("it ran")


async def async_two(a: Any, b: Any) -> None:
    pytest.fail("it ran")


CANNOT: dict[str, Any] = {
    "lambda": lambda: pytest.fail("it ran"),
    "function": nothing,
    "two": two,
    "by name": by_name,
    "one and by name": one_and_by_name,
    "method": Takes().nothing,
    "method of two": Takes().two,
    "callable object": Takes(),
    "class": Refund,
    "partial": functools.partial(two, 1, 2),
    "partial by name": functools.partial(nothing),
    "partial of a method": functools.partial(Takes().two),
    "decorated": passes_on,
    "cached": functools.lru_cache(nothing),
    "double of a test": unittest.mock.create_autospec(nothing),
    "method of a type": str.join,
}
CANNOT_ASYNC: dict[str, Any] = {
    "async def": async_nothing,
    "async def of two": async_two,
    "partial of async def": functools.partial(async_two, 1, 2),
}


@pytest.mark.parametrize("what", CANNOT)
def test_rejects_functions_without_context_before_sending(gateway: CapturingServer, what: str) -> None:
    client = client_of(gateway.base_url)
    for mode in ("enforce", "strict", "monitor"):
        with pytest.raises(
            ActPassArgumentError, match="accepts the execution context as its only argument, found"
        ) as caught:
            client.guard(execute_fn=CANNOT[what], mode=mode, **ACTION)  # type: ignore[arg-type]
        assert caught.value.code == "actpass.invalid_argument"
    with pytest.raises(ActPassArgumentError, match="only argument, found"):
        client.resume(PENDING, CANNOT[what])
    with pytest.raises(ActPassArgumentError, match="only argument, found"):
        guard_async(gateway, CANNOT[what])
    assert gateway.captured == []


@pytest.mark.parametrize("what", CANNOT_ASYNC)
def test_rejects_coroutine_functions_without_context(gateway: CapturingServer, what: str) -> None:
    with pytest.raises(ActPassArgumentError, match="only argument, found"):
        guard_async(gateway, CANNOT_ASYNC[what])
    assert gateway.captured == []


def made() -> Any:
    """Return a new function that accepts the context."""

    def takes(context: Any, amount: Any = 1) -> str:
        return "ran"

    return takes


class Changed:
    """A callable whose class the tests change."""

    def __call__(self, context: Any) -> str:
        return "ran"

    def method(self, context: Any) -> str:
        return "ran"


def code_of(function: Any) -> types.CodeType:
    return function.__code__  # type: ignore[no-any-return]


def of_one() -> Any:
    return lambda context: "ran"


#: Changes to a function that was accepted before, after which it must be rejected.
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "code of a generator": (made, lambda it: setattr(it, "__code__", code_of(steps))),
    "code of an async def": (made, lambda it: setattr(it, "__code__", code_of(pay))),
    "code without parameters": (made, lambda it: setattr(it, "__code__", code_of(nothing))),
    "code of two parameters": (of_one, lambda it: setattr(it, "__code__", code_of(two))),
    "code with a keyword": (of_one, lambda it: setattr(it, "__code__", code_of(one_and_by_name))),
    "no defaults": (made, lambda it: setattr(it, "__defaults__", None)),
    "fewer defaults": (made, lambda it: setattr(it, "__defaults__", ())),
    "wrapped generator": (made, lambda it: setattr(it, "__wrapped__", steps)),
    "marked": (made, lambda it: it.__dict__.update(marked().__dict__)),
    "__call__ of its class": (Changed, lambda it: setattr(type(it), "__call__", steps)),
    "method of its class": (lambda: Changed().method, lambda it: setattr(it.__func__, "__code__", code_of(steps))),
    "signature of its class": (Changed, lambda it: setattr(it, "__signature__", inspect.signature(nothing))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_rejects_function_that_changed_after_it_was_accepted(gateway: CapturingServer, what: str) -> None:
    make, change = CHANGES[what]
    kept = dict(vars(Changed)), Changed.method.__code__
    function = make()
    try:
        for _ in range(20):  # The interpreter specializes code that runs often.
            assert guard(gateway, function)["result"] == "ran"
        gateway.take()
        change(function)
        with pytest.raises(ActPassArgumentError, match="execute_fn: expected a function"):
            guard(gateway, function, mode="monitor")
        assert (gateway.captured, RAN) == ([], [])
    finally:
        Changed.__call__, Changed.method.__code__ = kept[0]["__call__"], kept[1]  # type: ignore[method-assign]


def test_closures_of_one_code_are_checked_by_their_own_defaults(gateway: CapturingServer) -> None:
    def closure(*defaults: Any) -> Any:
        def takes(context: Any, amount: Any = 1) -> str:
            return "ran"

        takes.__defaults__ = defaults
        return takes

    for _ in range(3):
        assert guard(gateway, closure(1))["result"] == "ran"
        with pytest.raises(ActPassArgumentError, match="only argument, found"):
            guard(gateway, closure())
        assert guard_async(gateway, closure(2))["result"] == "ran"
        with pytest.raises(ActPassArgumentError, match="only argument, found"):
            guard_async(gateway, closure())


def shapes() -> Iterator[tuple[str, Any]]:
    """Yield functions of many shapes, with their source."""
    positional = ["", "a", "a=1", "a, b", "a, b=1", "a=1, b=1", "a, b, c", "a, b, c=1", "a, /", "a, b=1, /"]
    rest = ["", "*args", "*, k", "*, k=1", "*args, k", "**kwargs", "*args, k=1, **kwargs"]
    bodies = ["def f({}): pass", "def f({}): yield", "async def f({}): pass", "async def f({}): yield"]
    for first, second, body in itertools.product(positional, rest, bodies):
        source = body.format(", ".join(part for part in (first, second) if part))
        names: dict[str, Any] = {}
        exec(source, names)
        yield source, names["f"]
        yield f"method: {source}", types.MethodType(names["f"], object())


def test_fast_check_accepts_nothing_that_the_full_check_rejects() -> None:
    accepted = 0
    for (source, function), awaited in itertools.product(shapes(), (False, True)):
        problem = _run._problem_of(function, awaited=awaited)
        try:
            _run.check_callable(function, "guard", awaited)
        except ActPassArgumentError as error:
            assert problem is not None and problem in str(error), source
        else:
            assert problem is None, source
            accepted += 1
    assert accepted > 100


def test_error_names_function_and_its_parameters(gateway: CapturingServer) -> None:
    def pay_out(charge: str = "a_secret", *, amount: int) -> None:
        pass

    with pytest.raises(ActPassArgumentError) as caught:
        guard(gateway, pay_out)
    assert str(caught.value).endswith("pay_out(charge, *, amount): write lambda ctx: …")


class Unreadable:
    """A callable with an unreadable signature."""

    @property
    def __signature__(self) -> Any:
        raise RuntimeError

    @property
    def __code__(self) -> Any:
        raise RuntimeError

    def __call__(self, _: Any) -> int:
        return 7


CAN: dict[str, Any] = {
    "lambda": lambda ctx: 7,
    "default": lambda ctx, amount=7: amount,
    "only a default": lambda amount=7: 7,
    "any": lambda *_: 7,
    "any and names": lambda *_, **__: 7,
    "positional only": eval("lambda ctx, /: 7"),
    "by name with a default": lambda ctx, *, amount=7: amount,
    "method": Takes().one,
    "partial": functools.partial(lambda a, b: 7, 1),
    "partial by name": functools.partial(lambda ctx, amount: amount, amount=7),
    "builtin": bool,
    "builtin without a signature": print,
    "type": dict,
    "itemgetter": operator.itemgetter("decision"),
    "method of a type": str,
    "unreadable": Unreadable(),
    "double of a test": unittest.mock.Mock(return_value=7),
}


@pytest.mark.parametrize("what", CAN)
def test_functions_with_context_run(gateway: CapturingServer, what: str) -> None:
    assert guard(gateway, CAN[what])["executed"] is True
    out = guard_async(gateway, CAN[what])
    assert "error" not in out, out


def test_type_error_of_function_stays_its_own(gateway: CapturingServer) -> None:
    raised = TypeError("takes 0 positional arguments but 1 was given")

    def act(_: Any) -> None:
        raise raised

    assert guard(gateway, act)["error"] is raised
    assert isinstance(guard(gateway, lambda _: nothing(1))["error"], TypeError)  # type: ignore[call-arg]


def test_ignores_overridden_signature(gateway: CapturingServer) -> None:
    """The called object decides: a Python function behaves as its code flags declare."""
    import inspect

    def act(ctx: Any) -> int:
        return 7

    act.__signature__ = inspect.signature(nothing)  # type: ignore[attr-defined]
    act.__wrapped__ = nothing  # type: ignore[attr-defined]
    assert guard(gateway, act)["result"] == 7


def test_binds_arguments_before_sending(gateway: CapturingServer) -> None:
    class Desk:
        def refund(self, charge: str, *, amount: int) -> Any:
            return charge, amount

        @classmethod
        def of_the_class(cls, charge: str) -> str:
            return charge

        @staticmethod
        def static(charge: str) -> str:
            return charge

        def __call__(self, charge: str) -> str:
            return charge

    client = client_of(gateway.base_url)
    protect = client.protect(**NAMES)
    for function in (
        Desk().refund,
        Desk.of_the_class,
        Desk.static,
        Desk(),
        functools.partial(Desk().refund, amount=1),
        functools.lru_cache(Desk.static),
    ):
        protected: Any = protect(function)
        for args, kwargs in (((), {}), (("a", "b", "c"), {}), (("a",), {"other": 1})):
            with pytest.raises(TypeError):
                protected(*args, **kwargs)
    assert gateway.captured == []
    assert protect(Desk.static)("ch_1") == "ch_1"
    with pytest.raises(ActPassConfigError, match="protect: expected a function with a signature"):
        protect(type("Slots", (), {"__call__": operator.itemgetter(0), "__signature__": 7})())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they are written")
def test_accepts_undefined_annotations() -> None:
    namespace: dict[str, Any] = {}
    exec("def refund(charge: Unknown) -> Unknown: return charge", namespace)
    new_client("http://127.0.0.1:9").protect(**NAMES)(namespace["refund"])
