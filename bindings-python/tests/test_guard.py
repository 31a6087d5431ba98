"""``guard`` and the functions that it runs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import threading
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from actpass import ActPassArgumentError, ActPassClient, canonical_outcome
from support import (
    ACTION,
    ALLOW,
    BOUND,
    CREDENTIAL,
    EXPLAIN,
    MODES,
    Callback,
    Child,
    Hostile,
    Played,
    answer,
    capturing,
    everything_shown,
    new_client,
    request_hash,
    whole,
)

WITH_CREDENTIAL = {**ALLOW, "credential": {"token": CREDENTIAL, "expires_at": "2030-01-01T00:00:00Z", "more": [1]}}
WORDS = ("allow", "warn", "deny", "require_approval", "require_tool_reapproval", "quarantine")
RUNS = {
    ("enforce", "allow"),
    ("strict", "allow"),
    ("warn", "allow"),
    ("warn", "warn"),
    *(("monitor", word) for word in WORDS),
}


@pytest.fixture
def allowing(hostile: Hostile) -> Iterator[Played]:
    with hostile.play(answer(ALLOW)) as gateway:
        yield gateway


@pytest.fixture
def client(allowing: Played) -> Iterator[ActPassClient]:
    with new_client(allowing.base_url) as client:
        yield client


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("word", WORDS)
def test_mode_and_decision_determine_execution(hostile: Hostile, mode: Any, word: str) -> None:
    decision = {"decision": word, "reason_code": "some.reason", "evidence_event_id": "ev_1", "new": {"member": 1.50}}
    callback = Callback()
    with (
        hostile.play(answer({**decision, "request_hash": "{{request_hash}}"})) as gateway,
        new_client(gateway.base_url) as client,
    ):
        out: Any = client.guard(execute_fn=callback, mode=mode, **ACTION)
        [request] = gateway.seen()
    runs = (mode, word) in RUNS
    assert (callback.runs, out["executed"]) == (runs, runs)
    assert out["decision"].pop("request_hash") == request_hash(request["body"].encode())
    assert out["decision"] == whole(decision)
    assert set(out) == ({"decision", "executed", "result"} if runs else {"decision", "executed"})
    assert f'"mode": "{mode}"' in request["body"]


@pytest.mark.parametrize("mode", MODES)
def test_client_mode_is_the_default_of_calls(hostile: Hostile, mode: Any) -> None:
    with hostile.play(answer({"decision": "deny"})) as gateway, new_client(gateway.base_url, mode=mode) as client:
        assert client.mode == mode
        assert client.guard(execute_fn=lambda _: None, **ACTION)["executed"] is (mode == "monitor")
        assert not client.guard(execute_fn=lambda _: None, mode="enforce", **ACTION)["executed"]
        assert [f'"mode": "{mode}"' in one["body"] for one in gateway.seen()] == [True, mode == "enforce"]


def test_environment_never_changes_the_mode(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACTPASS_MODE", "ACTPASS_DEFAULT_MODE", "ACTPASS_GUARD_MODE", "MODE"):
        monkeypatch.setenv(name, "monitor")
    with hostile.play(answer({"decision": "deny"})) as gateway, new_client(gateway.base_url) as client:
        assert not client.guard(execute_fn=lambda _: None, **ACTION)["executed"]


class Odd:
    """An object that raises when copied, compared or truth-tested."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("truth-tested")

    def __reduce__(self) -> Any:
        raise AssertionError("copied")


@pytest.mark.parametrize(
    "result", [None, object(), Odd(), float("nan"), {1: {2}}, ActPassClient, ValueError("returned")]
)
def test_result_is_same_object(client: ActPassClient, result: Any) -> None:
    out = client.guard(execute_fn=lambda _: result, **ACTION)
    assert out["result"] is result
    assert "error" not in out
    assert out["executed"] is True


class OddError(Exception):
    """An exception that raises when copied or printed."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__()
        self.kept = (one, two)

    def __str__(self) -> str:
        raise AssertionError("shown")

    def __reduce__(self) -> Any:
        raise AssertionError("copied")


@pytest.mark.parametrize("error", [ValueError("x"), OddError(1, 2), StopIteration(3), TimeoutError(), MemoryError()])
def test_error_is_same_exception_object(client: ActPassClient, error: Exception) -> None:
    def fail(_: Any) -> None:
        raise error

    callback = Callback(fail)
    out = client.guard(execute_fn=callback, **ACTION)
    assert callback.runs == 1
    assert out["error"] is error
    assert "result" not in out
    assert out["executed"] is True
    assert out["decision"] == ALLOW
    names = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names[-1] == "fail", "the traceback is lost"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("mode", MODES)
def test_base_exceptions_propagate(hostile: Hostile, kind: Any, mode: Any) -> None:
    stop = kind("stop")

    def fail(_: Any) -> None:
        raise stop

    callback = Callback(fail)
    with hostile.play(answer(BOUND)) as gateway, new_client(gateway.base_url) as client:
        with pytest.raises(kind) as raised:
            client.guard(execute_fn=callback, mode=mode, **ACTION)
        assert client.guard(execute_fn=lambda _: 1, **ACTION)["executed"], "the client stopped working"
    assert (raised.value, callback.runs) == (stop, 1)
    assert raised.value is stop


def test_runs_on_calling_thread_in_its_context(client: ActPassClient) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")

    def look(_: Any) -> Any:
        seen = (threading.get_ident(), variable.get())
        variable.set("inside")
        return seen

    found: list[Any] = []

    def call() -> None:
        variable.set("of a thread")
        found.append((client.guard(execute_fn=look, **ACTION)["result"], threading.get_ident()))

    assert client.guard(execute_fn=look, **ACTION)["result"] == (threading.get_ident(), "outside")
    assert variable.get() == "inside", "the function ran in a copy of the context"
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    [(seen, ident)] = found
    assert seen == (ident, "of a thread")


def test_runs_after_decision_and_sends_one_request(client: ActPassClient, allowing: Played) -> None:
    seen_inside = client.guard(execute_fn=lambda _: len(allowing.seen()), **ACTION)["result"]
    assert (seen_inside, len(allowing.seen())) == (1, 1)


def test_context_has_decision_credential_and_halt_only(client: ActPassClient) -> None:
    callback = Callback()
    client.guard(execute_fn=callback, **ACTION)
    [context] = callback.contexts
    assert type(context) is dict
    assert context == {"credential": None, "decision": ALLOW, "halt": context["halt"]}


def test_credential_is_only_in_context(hostile: Hostile) -> None:
    callback = Callback()
    with hostile.play(answer(WITH_CREDENTIAL)) as gateway, new_client(gateway.base_url) as client:
        out: Any = client.guard(execute_fn=callback, **ACTION)
        preflight = client.preflight(**ACTION)
    [context] = callback.contexts
    assert context["credential"] == WITH_CREDENTIAL["credential"]
    assert context["decision"] == out["decision"] == preflight == ALLOW
    shown = everything_shown([{**out, "result": None}, preflight, client, canonical_outcome(out)])
    assert CREDENTIAL not in shown


@pytest.mark.parametrize("word", [word for word in WORDS if word != "allow"])
def test_credential_without_allow_is_dropped(hostile: Hostile, word: str) -> None:
    callback = Callback()
    with hostile.play(answer({**WITH_CREDENTIAL, "decision": word})) as gateway, new_client(gateway.base_url) as client:
        for mode in MODES:
            out: Any = client.guard(execute_fn=callback, mode=mode, **ACTION)
            assert out["decision"] == {**ALLOW, "decision": word}
    assert [context["credential"] for context in callback.contexts] == [None] * callback.runs
    assert callback.runs == (2 if word == "warn" else 1)


def test_mutating_decision_does_not_change_outcome(hostile: Hostile) -> None:
    def change(context: Any) -> None:
        context["decision"]["decision"] = "deny"
        context["decision"]["explain"]["summary"] = "changed"
        context["decision"]["explain"]["matched_rules"].append("changed")
        context["decision"]["unknown"][0]["of"].append("changed")
        context["decision"]["unknown"].clear()
        context.clear()

    explain = {"summary": "original", "matched_rules": ["original"]}
    decision = {**ALLOW, "explain": explain, "unknown": [{"of": ["original"]}, 1.5, None]}
    with hostile.play(answer(decision)) as gateway, new_client(gateway.base_url) as client:
        said = {**decision, "explain": {**EXPLAIN, **explain}}
        assert client.guard(execute_fn=change, **ACTION)["decision"] == said


def test_outcomes_share_no_state(client: ActPassClient) -> None:
    first: Any = client.guard(execute_fn=lambda _: None, **ACTION)
    first["decision"]["decision"] = "deny"
    first["decision"].clear()
    assert client.guard(execute_fn=lambda _: None, **ACTION)["decision"] == ALLOW


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", [None, 1, "print", [print], {}])
def test_rejects_non_callable_before_sending(client: ActPassClient, allowing: Played, function: Any, mode: Any) -> None:
    with pytest.raises(ActPassArgumentError, match=f"execute_fn: .*{type(function).__name__}") as raised:
        client.guard(execute_fn=function, mode=mode, **ACTION)
    assert raised.value.code == "actpass.invalid_argument"
    assert allowing.seen() == []


async def coroutine_function(_: Any) -> None:
    pytest.fail("it ran")


def generator_function(_: Any) -> Any:
    yield pytest.fail("it ran")


async def asynchronous_generator_function(_: Any) -> Any:
    yield pytest.fail("it ran")


class Methods:
    async def later(self, _: Any) -> None:
        pytest.fail("it ran")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (coroutine_function, "found async def: use AsyncActPassClient"),
        (Methods().later, "found async def: use AsyncActPassClient"),
        (types.coroutine(lambda _: (yield)), "found a generator function"),
        (generator_function, "found a generator function"),
        (asynchronous_generator_function, "found a generator function"),
    ],
)
def test_rejects_deferred_functions_before_sending(
    client: ActPassClient, allowing: Played, function: Any, problem: str
) -> None:
    for mode in MODES:
        with pytest.raises(ActPassArgumentError, match=problem):
            client.guard(execute_fn=function, mode=mode, **ACTION)
    pending: Any = {"approval_request_id": "a", "goal": "g", "tool": "t", "args": {}}
    with pytest.raises(ActPassArgumentError, match=problem):
        client.resume(pending, function)
    assert allowing.seen() == []


def test_guards_can_be_nested(client: ActPassClient, allowing: Played) -> None:
    def nested(depth: int) -> Any:
        def run(_: Any) -> Any:
            return nested(depth - 1) if depth else "bottom"

        return client.guard(execute_fn=run, **ACTION)

    out = nested(20)
    for _ in range(20):
        out = out["result"]
    assert out["result"] == "bottom"
    assert len(allowing.seen()) == 21


def test_function_may_use_and_close_the_client(client: ActPassClient) -> None:
    def use(_: Any) -> Any:
        decision = client.preflight(**ACTION)
        client.close()
        return decision

    out = client.guard(execute_fn=use, **ACTION)
    assert out["result"] == ALLOW


def test_timeout_does_not_limit_the_function(allowing: Played) -> None:
    with new_client(allowing.base_url, timeout=0.2) as client:
        out = client.guard(execute_fn=lambda _: time.sleep(0.5), **ACTION)
    assert out["executed"]
    assert "error" not in out


def test_function_may_fork(client: ActPassClient) -> None:
    def fork(_: Any) -> Any:
        Child(lambda: client.preflight(**ACTION)).ended_well()
        return os.getpid()

    assert client.guard(execute_fn=fork, **ACTION)["result"] == os.getpid()
    assert client.guard(execute_fn=lambda _: 1, **ACTION)["executed"]


def test_releases_result_after_the_call(client: ActPassClient) -> None:
    class Thing:
        pass

    def run(_: Any) -> Thing:
        return Thing()

    out = client.guard(execute_fn=run, **ACTION)
    result = weakref.ref(out["result"])
    del out
    gc.collect()
    assert result() is None


def test_canonical_outcome_has_sorted_members(client: ActPassClient) -> None:
    ran: Any = client.guard(execute_fn=lambda _: object(), **ACTION)
    end = '"error":null,"executed":true}'
    explain = '"explain":{"matched_rules":[],"next_steps":[],"summary":""}'
    decision = f'"decision":"allow","evidence_event_id":"ev_1",{explain},"reason_code":"refund.small_in_scope"'
    assert canonical_outcome(ran) == f'{{"decision":{{{decision}}},{end}'
    failed: dict[str, Any] = {"decision": {"decision": "allow"}, "executed": True, "error": ValueError("x")}
    assert '"error":{"kind":"action","status":null}' in canonical_outcome(failed)


class Stopped(BaseException):
    """An application exception that stops a program."""


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, Stopped])
def test_base_exception_of_function_propagates_and_is_recorded(stop: type[BaseException]) -> None:
    raised = stop()

    def act(_: Any) -> None:
        raise raised

    with capturing() as server, new_client(server.base_url) as client:
        with pytest.raises(stop) as caught:
            client.guard(execute_fn=act, record_outcome=True, **ACTION)
        assert caught.value is raised
        until = time.monotonic() + 20
        while len(server.captured) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        decided, recorded = server.take()
    assert decided.path.endswith("/preflight")
    event = json.loads(recorded.body)
    assert (event["event_type"], event["metadata"]["ended"]) == ("action.outcome", "cancelled")


def test_cancellation_does_not_wait_for_recording(hostile: Hostile) -> None:
    """The gateway never responds to the recording; the exception propagates long before the client's timeout."""

    def act(_: Any) -> None:
        raise KeyboardInterrupt

    with hostile.play(answer(ALLOW), {"do": "hang", "at": "request"}) as gateway:
        client = new_client(gateway.base_url, timeout=600)
        with pytest.raises(KeyboardInterrupt):
            client.guard(execute_fn=act, record_outcome=True, **ACTION)


def test_cancellation_is_not_recorded_by_default(allowing: Played, client: ActPassClient) -> None:
    def act(_: Any) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        client.guard(execute_fn=act, **ACTION)
    assert len(allowing.seen()) == 1
