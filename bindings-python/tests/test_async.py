"""The client for event loops: task and context of the caller, cancellation, wake-ups, leaks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import json
import logging
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Callable

import pytest
from actpass import ActPassArgumentError, ActPassClient, ActPassConfigError, ActPassError, AsyncActPassClient
from support import (
    ACTION,
    ALLOW,
    MODES,
    PASSPORT,
    Callback,
    Gateway,
    Hostile,
    answer,
    echoing,
    new_async_client,
    run_loop,
    run_python,
    together,
    within,
)

HANG = {"do": "hang", "at": "request"}
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
Call = Callable[[AsyncActPassClient], Coroutine[Any, Any, Any]]

#: Every call that sends a request.
CALLS: dict[str, Call] = {
    "preflight": lambda client: client.preflight(passport=PASSPORT, **ACTION),
    "guard": lambda client: client.guard(execute_fn=lambda _: None, mode="monitor", **ACTION),
    "authorize": lambda client: client.authorize(mode="monitor", **ACTION),
    "resume": lambda client: client.resume(
        {"approval_request_id": "a", "goal": "g", "tool": "t", "args": {}}, lambda _: None
    ),
    "wait_for_approval": lambda client: client.wait_for_approval("apr_1", 20),
    "issue_passport": lambda client: client.issue_passport("mcp://stripe", "refund", ["stripe.refund.create"]),
    "verify_passport": lambda client: client.verify_passport(PASSPORT, "mcp://stripe"),
    "verify_passport_offline": lambda client: client.verify_passport_offline(
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImEiLCJ0eXAiOiJKV1QifQ.e30.AA", "mcp://stripe"
    ),
    "revoke_passport": lambda client: client.revoke_passport("ap_1", "over"),
    "record_evidence": lambda client: client.record_evidence("refund.sent", "case_1"),
}


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    for name, value in inspect.getmembers(ActPassClient):
        if name.startswith("_"):
            continue
        other = inspect.getattr_static(AsyncActPassClient, name)
        assert isinstance(inspect.getattr_static(ActPassClient, name), property) == isinstance(other, property), name
        if inspect.isfunction(value) and not isinstance(inspect.getattr_static(ActPassClient, name), staticmethod):
            assert list(inspect.signature(value).parameters) == list(inspect.signature(other).parameters), name
            assert inspect.iscoroutinefunction(other) == (
                name not in {"bind", "protect", "protect_tools", "with_options"}
            ), name
            assert inspect.getdoc(other), name
    assert inspect.signature(ActPassClient) == inspect.signature(AsyncActPassClient)
    methods = {name for name in vars(AsyncActPassClient) if not name.startswith("_")}
    assert methods == CALLS.keys() | {"protect", "protect_tools", "close", "aclose"}


@pytest.mark.parametrize("plain", [True, False])
def test_function_runs_in_callers_task(hostile: Hostile, plain: bool) -> None:
    result = object()

    def note(context: Any) -> Any:
        seen.append((asyncio.current_task(), threading.get_ident(), VARIABLE.get(), context["decision"]["decision"]))
        VARIABLE.set("the function's")
        return result

    async def note_later(context: Any) -> Any:
        await asyncio.sleep(0)
        return note(context)

    seen: list[Any] = []

    async def main() -> None:
        VARIABLE.set("the caller's")
        async with new_async_client(gateway.base_url) as client:
            out: Any = await client.guard(execute_fn=note if plain else note_later, **ACTION)
        assert out["result"] is result
        assert (out["executed"], "error" in out) == (True, False)
        assert seen == [(asyncio.current_task(), threading.get_ident(), "the caller's", "allow")]
        assert VARIABLE.get() == "the function's", "the function ran in a copy of the caller's context"

    with hostile.play(answer(ALLOW)) as gateway:
        run_loop(main())


@pytest.mark.parametrize("plain", [True, False])
def test_error_is_same_exception(hostile: Hostile, plain: bool) -> None:
    error = ValueError("mine")

    def fail(_: Any) -> Any:
        raise error

    async def fail_later(_: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            out: Any = await client.guard(execute_fn=fail if plain else fail_later, **ACTION)
        assert (out["executed"], "result" in out) == (True, False)
        assert out["error"] is error

    with hostile.play(answer(ALLOW)) as gateway:
        run_loop(main())


def test_denied_action_does_not_run(hostile: Hostile) -> None:
    callback = Callback()

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            for mode in MODES:
                out: Any = await client.guard(execute_fn=callback, mode=mode, **ACTION)
                assert out["executed"] is (mode == "monitor")

    with hostile.play(*[answer({"decision": "deny"})] * 4) as gateway:
        run_loop(main())
    assert callback.runs == 1


def test_rejects_generators_before_sending(hostile: Hostile) -> None:
    def generator_function(_: Any) -> Any:
        yield pytest.fail("it ran")

    async def asynchronous(_: Any) -> Any:
        yield pytest.fail("it ran")

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            old_style: Any = types.coroutine(lambda _: (yield from asyncio.sleep(0, 7).__await__()))
            for function in (generator_function, asynchronous, old_style):
                with pytest.raises(ActPassArgumentError, match="found a generator function"):
                    await client.guard(execute_fn=function, mode="monitor", **ACTION)
            assert gateway.seen() == []

    with hostile.play(answer(ALLOW)) as gateway:
        run_loop(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
def test_works_in_eager_tasks(hostile: Hostile) -> None:
    callback = Callback()

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with new_async_client(gateway.base_url, timeout=30) as client:
            outs: Any = await asyncio.gather(*[client.guard(execute_fn=callback, **ACTION) for _ in range(4)])
            assert [out["result"] is callback.result for out in outs] == [True] * 4
            task = asyncio.ensure_future(client.guard(execute_fn=callback, **ACTION))
            while len(gateway.seen()) < 5:
                await asyncio.sleep(0.01)
            task.cancel()
            with within(0.2), pytest.raises(asyncio.CancelledError):
                await task

    with hostile.play(*[answer(ALLOW)] * 4, HANG) as gateway:
        run_loop(main())
    assert callback.runs == 4


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """Accept connections and never respond; the events are set when a request arrives and its connection closes."""
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked, closed
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("call", CALLS)
def test_cancelled_task_ends_its_call_immediately(call: str) -> None:
    async def main() -> None:
        async with listening() as (base_url, asked, closed), new_async_client(base_url, timeout=30) as client:
            task = asyncio.ensure_future(CALLS[call](client))
            await asyncio.wait_for(asked.wait(), 5)
            assert not closed.is_set()
            with within(0.2):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with within(1):  # The request ends too, long before its deadline.
                await closed.wait()

    run_loop(main())


def test_cancelled_task_runs_nothing_even_if_allowed(hostile: Hostile) -> None:
    callback = Callback()

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            task = asyncio.ensure_future(client.guard(execute_fn=callback, **ACTION))
            while not gateway.seen():
                await asyncio.sleep(0.01)
            time.sleep(0.5)  # The response is queued but not yet delivered by the loop.
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.1)
            # Cancelled before it began: nothing is sent.
            task = asyncio.ensure_future(client.guard(execute_fn=callback, **ACTION))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(gateway.seen()) == 1

    with hostile.play(answer(ALLOW, delay_ms=200)) as gateway:
        run_loop(main())
    assert callback.runs == 0


def test_error_during_cancellation_logs_nothing() -> None:
    async def main() -> None:
        async with new_async_client("http://127.0.0.1:9") as client:
            task = asyncio.ensure_future(client.preflight(**ACTION))
            await asyncio.sleep(0)
            time.sleep(0.2)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, ActPassError)):
                await task

    run_loop(main())


def test_callers_timeout_ends_the_call(hostile: Hostile) -> None:
    async def main() -> None:
        async with new_async_client(gateway.base_url, timeout=30) as client:
            with within(1), pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.preflight(**ACTION), 0.2)
            if sys.version_info >= (3, 11):
                with within(1), pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await client.guard(execute_fn=callback, **ACTION)
            out: Any = await client.guard(execute_fn=callback, **ACTION)
            assert out["executed"]

    callback = Callback()
    hangs = 2 if sys.version_info >= (3, 11) else 1
    with hostile.play(*[HANG] * hangs, answer(ALLOW)) as gateway:
        run_loop(main())
    assert callback.runs == 1


def test_cancellation_inside_function_propagates_and_is_recorded(hostile: Hostile) -> None:
    async def hang(_: Any) -> None:
        running.set()
        await asyncio.sleep(60)

    async def main() -> None:
        global running
        running = asyncio.Event()
        async with new_async_client(gateway.base_url) as client:
            task = asyncio.ensure_future(client.guard(execute_fn=hang, record_outcome=True, **ACTION))
            await asyncio.wait_for(running.wait(), 5)
            task.cancel()
            with within(0.2), pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: len(gateway.seen()) == 2)

    recorded = answer({"event_id": "ev_2", "current_event_hash": "00"})
    with hostile.play(answer(ALLOW), recorded) as gateway:
        run_loop(main())
        evidence = gateway.seen()[1]
    assert evidence["path"] == "/api/v1/evidence/events"
    assert '"action.outcome"' in evidence["body"]
    assert json.loads(evidence["body"])["metadata"]["ended"] == "cancelled"


running: asyncio.Event


def test_recording_is_not_cancelled_with_the_task() -> None:
    over: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = {"/api/v1/actions/preflight": ALLOW, "/api/v1/evidence/events": {"event_id": "ev_2"}}
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            path = head.split()[1]
            if path.endswith("/events"):
                recording.set()
                try:
                    await asyncio.wait_for(reader.read(1), 0.5)
                    over.append("hung up")
                except asyncio.TimeoutError:
                    over.append("waits")
            body = json.dumps(said[path]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            if over:
                writer.close()
                return

    async def main() -> None:
        global recording
        recording = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, new_async_client(base_url) as client:
            call = client.guard(execute_fn=lambda _: 1, record_outcome=True, **ACTION)
            task = asyncio.ensure_future(call)
            await asyncio.wait_for(recording.wait(), 5)
            task.cancel()
            with within(0.3), pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: bool(over))
            await asyncio.sleep(0.1)
        assert over == ["waits"]

    run_loop(main())


recording: asyncio.Event


async def until(done: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until ``done`` returns true; fail after ``seconds``."""
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, f"not done within {seconds} s"
        await asyncio.sleep(0.01)


def echo(base_url: str, calls: int = 64, rounds: int = 3) -> Coroutine[Any, Any, None]:
    async def one(client: AsyncActPassClient, name: str) -> None:
        out: Any = await client.guard(name, "tool", {"name": name}, lambda ctx: ctx["decision"]["asked"]["goal"])
        assert (out["result"], out["decision"]["asked"]["args"]) == (name, {"name": name})

    async def main() -> None:
        async with new_async_client(base_url) as client:
            for at in range(rounds):
                await asyncio.gather(*[one(client, f"{os.getpid()} {id(client)} {at} {n}") for n in range(calls)])

    return main()


def test_concurrent_calls_receive_their_own_responses() -> None:
    with echoing() as base_url:
        run_loop(echo(base_url))


def test_one_client_works_in_many_loops() -> None:
    with echoing() as base_url:
        together(8, lambda _: asyncio.run(echo(base_url, 8)))


class Counting(asyncio.SelectorEventLoop):
    """A loop that counts its wake-ups."""

    wakes = 0

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        def counted() -> None:
            self.wakes += 1
            callback(*args)

        super().add_reader(fd, counted)


def test_many_completions_need_one_wakeup(hostile: Hostile) -> None:
    calls = 40

    async def main() -> None:
        async with new_async_client(gateway.base_url) as client:
            tasks = [asyncio.ensure_future(client.preflight(**ACTION)) for _ in range(calls)]
            await asyncio.sleep(0)
            with within(10):
                while len(gateway.seen()) < calls:
                    time.sleep(0.05)  # The loop is blocked: nothing is delivered.
            time.sleep(0.3)
            await asyncio.gather(*tasks)

    loop = Counting()
    with hostile.play(*[answer(ALLOW)] * calls) as gateway:
        run_loop(main(), lambda: loop)
    assert 1 <= loop.wakes <= 3


class WithoutReaders(asyncio.SelectorEventLoop):
    """A loop without ``add_reader``, like Windows' proactor loop."""

    def add_reader(self, *_: Any) -> None:
        raise NotImplementedError


def test_works_in_loop_without_add_reader() -> None:
    with echoing() as base_url:
        run_loop(echo(base_url), WithoutReaders)
        run_loop(echo(base_url), WithoutReaders)


def test_works_in_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with echoing() as base_url:
        run_loop(echo(base_url), uvloop.new_event_loop)

    async def cancelled() -> None:
        async with listening() as (base_url, asked, closed), new_async_client(base_url, timeout=30) as client:
            task = asyncio.ensure_future(client.preflight(**ACTION))
            await asyncio.wait_for(asked.wait(), 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), 1)

    run_loop(cancelled(), uvloop.new_event_loop)


def test_works_with_anyio_on_asyncio(hostile: Hostile) -> None:
    anyio = pytest.importorskip("anyio")
    callback = Callback()

    async def main() -> None:
        async with new_async_client(gateway.base_url, timeout=30) as client:
            with within(1), anyio.move_on_after(0.2) as scope:
                await client.guard(execute_fn=callback, **ACTION)
            assert scope.cancel_called
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: client.guard(execute_fn=callback, **ACTION))

    with hostile.play(HANG, answer(ALLOW)) as gateway:
        anyio.run(main, backend="asyncio")
    assert callback.runs == 1


def test_rejects_trio_with_clear_error() -> None:
    trio = pytest.importorskip("trio")
    callback = Callback()

    async def main() -> None:
        client = new_async_client("http://127.0.0.1:9")
        for mode in MODES:
            with pytest.raises(ActPassConfigError, match=r"expected a task of asyncio .* found trio"):
                await client.guard(execute_fn=callback, mode=mode, **ACTION)

    trio.run(main)
    assert callback.runs == 0


def test_requires_running_event_loop() -> None:
    call = new_async_client("http://127.0.0.1:9").preflight(**ACTION)
    with pytest.raises(ActPassConfigError, match="found none"):
        call.send(None)


def test_rejects_call_from_loop_callback() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def call() -> None:
            with pytest.raises(ActPassConfigError, match="expected a task of asyncio"):
                new_async_client("http://127.0.0.1:9").preflight(**ACTION).send(None)
            over.set_result(None)

        loop.call_soon(call)
        await asyncio.wait_for(over, 5)

    run_loop(main())


def test_loop_releases_context_of_its_first_caller() -> None:
    class Mine:
        pass

    async def first(client: AsyncActPassClient) -> Any:
        mine = Mine()
        VARIABLE.set(mine)  # type: ignore[arg-type]
        await client.preflight("g", "t", {})
        return weakref.ref(mine)

    async def main() -> None:
        async with new_async_client(base_url) as client:
            known = await asyncio.ensure_future(first(client))
            await client.preflight("g", "t", {})
            gc.collect()
            assert known() is None

    with echoing() as base_url:
        run_loop(main())


def test_closed_client_rejects_every_call() -> None:
    async def main() -> None:
        client = new_async_client("http://127.0.0.1:9")
        await client.close()
        for call in CALLS.values():
            with pytest.raises(ActPassConfigError, match="closed"):
                await call(client)

    run_loop(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, WithoutReaders])
def test_releases_closed_loop(monkeypatch: pytest.MonkeyPatch, new_loop: Callable[[], Any]) -> None:
    monkeypatch.setattr(
        logging.getLogger("asyncio"), "disabled", True
    )  # Captured log records would keep their loops alive.

    class Mine:
        pass

    async def main() -> None:
        mine = Mine()
        VARIABLE.set(mine)  # type: ignore[arg-type]
        alive.append(weakref.ref(mine))
        alive.append(weakref.ref(asyncio.get_running_loop()))
        async with new_async_client(base_url) as client:
            await client.preflight("g", "t", {})

    alive: list[Any] = []
    with echoing() as base_url:
        for _ in range(3):
            contextvars.Context().run(run_loop, main(), new_loop)
    gc.collect()
    assert [one() for one in alive] == [None] * 6


def test_releases_loop_closed_during_a_call(monkeypatch: pytest.MonkeyPatch, hostile: Hostile) -> None:
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)

    async def leave() -> None:
        asyncio.ensure_future(client.preflight(**ACTION))  # noqa: RUF006
        await asyncio.sleep(0.1)

    with hostile.play(HANG) as gateway:
        client = new_async_client(gateway.base_url, timeout=30)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # The loop reports the abandoned task.
        loop.run_until_complete(leave())
        loop.close()
        known = weakref.ref(loop)
        del loop
        gc.collect()
        assert known() is None


def test_descriptors_do_not_grow() -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list its descriptors")

    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with echoing() as base_url:
        asyncio.run(echo(base_url, 1))
        before = count()
        for _ in range(20):
            asyncio.run(echo(base_url, 1, 1))
        time.sleep(0.2)
        assert count() <= before + 3


def test_idle_connection_closed_by_server_fails_no_call(hostile: Hostile) -> None:
    async def main() -> None:
        async with new_async_client(gateway.base_url, max_retries=0) as client:
            connections: set[int] = set()
            for at in range(3):
                await asyncio.gather(*[client.record_evidence("e", f"{at}{n}") for n in range(10)])
                await asyncio.get_running_loop().run_in_executor(None, gateway.close_connections)
                now = {one["connection"] for one in gateway.seen()[10 * at :]}
                assert len(gateway.seen()) == 10 * at + 10
                assert not connections & now
                connections |= now

    with hostile.play(answer({"event_id": "ev_1"})) as gateway:
        run_loop(main())


def test_real_gateway_handles_approvals_and_records(gateway: Gateway) -> None:
    refund: Any = {**ACTION, "args": {"amount": 25000, "currency": "usd"}}
    callback = Callback()

    async def main() -> None:
        client = AsyncActPassClient("apk_dev", agent_id="support_agent", base_url=gateway.base_url)
        out: Any = await client.guard(execute_fn=callback, **refund)
        pending = out["approval"]
        assert (await client.wait_for_approval(pending))["status"] == "pending"
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(client.wait_for_approval(pending, 20))
        path = f"/api/v1/approvals/{pending['approval_request_id']}/approve"
        await asyncio.sleep(0.2)
        await loop.run_in_executor(None, lambda: gateway.post(path, {}, operator=True))
        with within(10):
            assert (await waiting)["status"] == "approved"
        out = await client.resume(pending, callback, record_outcome=True)
        assert (out["executed"], callback.runs) == (True, 1)
        assert out["evidence"]["event_id"]
        again: Any = await client.resume(pending, callback)
        assert (again["executed"], callback.runs) == (False, 1)
        issued = await client.issue_passport("mcp://stripe", "refund", ["stripe.refund.create"])
        assert (await client.verify_passport(issued["token"], "mcp://stripe"))["valid"]
        assert (await client.verify_passport_offline(issued["token"], "mcp://stripe"))["valid"]
        assert (await client.revoke_passport(issued["jti"], "over"))["revoked"]

    run_loop(main())


INTERRUPTED = """
import asyncio, os, signal, sys, threading, time
from support import ACTION, new_async_client
signal.signal(signal.SIGINT, signal.default_int_handler)
sent = []

def interrupt():
    sys.stdin.readline()
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

async def main():
    threading.Thread(target=interrupt, daemon=True).start()
    client = new_async_client(sys.argv[1], timeout=30)
    await client.guard(execute_fn=lambda _: sys.exit("ran"), mode="monitor", **ACTION)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print(time.monotonic() - sent[0] < 15)
"""


def test_interrupt_ends_hanging_call(hostile: Hostile) -> None:
    with hostile.play(HANG) as gateway:
        done = run_python(INTERRUPTED, gateway.base_url, cues=[gateway.has_seen(1)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


ENDS = """
import asyncio, sys, threading, time
from support import ACTION, new_async_client

def in_thread():
    asyncio.run(new_async_client(sys.argv[1], timeout=30).guard(execute_fn=print, **ACTION))

threading.Thread(target=in_thread, daemon=True).start()
sys.stdin.readline()
"""


def test_pending_call_does_not_delay_exit(hostile: Hostile) -> None:
    with hostile.play(*[HANG] * 8) as gateway:
        for at in range(3):
            with within(25):  # Shorter than the call's timeout of 30 s.
                options = ("-X", "dev", "-W", "error")
                done = run_python(ENDS, gateway.base_url, options=options, cues=[gateway.has_seen(at + 1)])
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_loads_no_event_loop() -> None:
    code = "import sys, actpass; actpass.AsyncActPassClient('a'); print({*sys.modules} & set(sys.argv[1:]))"
    assert run_python(code, "asyncio", "inspect", "logging", "typing_extensions").stdout == "set()\n"
