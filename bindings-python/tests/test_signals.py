"""Ctrl-C ends a waiting call at once, and nothing runs; other threads are never held up by one that waits."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from actpass import ActPassTimeoutError
from support import ACTION, ALLOW, Callback, Hostile, answer, echoing, new_client, run_python, within

#: A program that is interrupted while it waits. A child may start with SIGINT ignored, so it sets the handler itself.
WAITING = """
import _thread, os, signal, sys, threading, time
from support import ACTION, CALLS, Callback, new_client

base_url, call, how = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
client = new_client(base_url, timeout=30, max_retries=1)
callback = Callback()
sent = []

def interrupt():
    time.sleep(0.3)
    sent.append(time.monotonic())
    if how == "kill":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        _thread.interrupt_main()

threading.Thread(target=interrupt, daemon=True).start()
try:
    if call in CALLS and call != "guard":
        CALLS[call](client)
    else:
        client.guard(execute_fn=callback, mode=call, **ACTION)
except KeyboardInterrupt:
    took = time.monotonic() - sent[0]
    assert took < 1, f"the interrupt took {took:.2f} s"
else:
    sys.exit("the call was not interrupted")
assert callback.runs == 0, "the function ran"
out = client.guard(execute_fn=callback, **ACTION)
assert (out["executed"], callback.runs) == (True, 1), "the client does not work afterwards"
print("interrupted")
"""

HANGS: dict[str, dict[str, Any]] = {
    "request": {"do": "hang", "at": "request"},
    "headers": {"do": "hang", "at": "headers"},
    "body": {"do": "hang", "at": "body"},
    "trickle": {"do": "trickle", "body": '{"decision":"allow"}', "interval_ms": 400},
    "back_off": answer({}, status=503, headers={"retry-after": "20"}),
}


def interrupted(hostile: Hostile, step: dict[str, Any], call: str, how: str = "kill") -> None:
    with hostile.play(step, answer(ALLOW)) as gateway:
        done = run_python(WAITING, gateway.base_url, call, how, timeout=40)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize(
    "call", ["enforce", "strict", "warn", "monitor", "preflight", "verify_passport", "record_evidence"]
)
def test_an_interrupt_ends_a_hanging_call(hostile: Hostile, call: str) -> None:
    interrupted(hostile, HANGS["request"], call)


@pytest.mark.parametrize("stage", [name for name in HANGS if name != "request"])
def test_an_interrupt_ends_a_call_at_any_stage(hostile: Hostile, stage: str) -> None:
    interrupted(hostile, HANGS[stage], "monitor")


def test_an_interrupt_of_the_interpreters_own(hostile: Hostile) -> None:
    interrupted(hostile, HANGS["request"], "enforce", "interrupt_main")


#: The main thread is interrupted while another thread waits on the same client; it gets its answer all the same.
WITH_A_WORKER = """
import os, signal, sys, threading, time
from support import new_client

base_url, first = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
client = new_client(base_url, timeout=30)
answers = []
worker = threading.Thread(target=lambda: answers.append(client.preflight("worker", "tool", {"delay": 1.2})))
sent = []

def interrupt():
    time.sleep(0.4)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

if first == "worker":
    worker.start()
    time.sleep(0.1)
else:
    threading.Timer(0.1, worker.start).start()
threading.Thread(target=interrupt, daemon=True).start()
try:
    client.preflight("main", "tool", {"delay": 20})
except KeyboardInterrupt:
    took = time.monotonic() - sent[0]
assert took < 1, f"the interrupt took {took:.2f} s"
worker.join(10)
assert answers[0]["asked"]["goal"] == "worker"
print("interrupted")
"""


@pytest.mark.parametrize("first", ["worker", "main"])
def test_an_interrupt_of_one_thread_leaves_the_others_calls_alone(first: str) -> None:
    with echoing() as base_url:
        done = run_python(WITH_A_WORKER, base_url, first, timeout=40)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


#: A handler that raises ends the call with its own exception; one that returns leaves it alone.
HANDLERS = """
import os, signal, sys, threading, time
from support import new_client

class Stop(BaseException):
    pass

def stop(*_):
    raise Stop

calls = []
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, lambda *_: calls.append(1))
client = new_client(sys.argv[1], timeout=30)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
assert client.preflight("goal", "tool", {"delay": 0.6})["asked"]["goal"] == "goal"
assert calls == [1]
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
try:
    client.guard("goal", "tool", {"delay": 20}, lambda _: sys.exit("ran"), mode="monitor")
except Stop:
    print("stopped")
"""


def test_other_signals() -> None:
    with echoing() as base_url:
        done = run_python(HANDLERS, base_url, timeout=15)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_a_waiting_thread_does_not_hold_up_the_others(hostile: Hostile) -> None:
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            client.preflight(**ACTION)
        except ActPassTimeoutError as error:
            ended.append(error)

    with hostile.play(HANGS["body"]) as gateway, new_client(gateway.base_url, timeout=1) as client:
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        longest, steps = 0.0, 0
        while any(thread.is_alive() for thread in threads):
            before = time.monotonic()
            time.sleep(0.002)
            longest, steps = max(longest, time.monotonic() - before), steps + 1
    assert len(ended) == len(threads)
    assert steps > 100
    assert longest < 0.4


def test_a_deadline_that_passes_in_one_thread_leaves_the_others_alone(hostile: Hostile) -> None:
    with echoing() as base_url, new_client(base_url, timeout=0.5) as client:
        answers: list[Any] = []
        late = threading.Thread(target=lambda: answers.append(client.guard("late", "t", {"delay": 5}, Callback())))
        late.start()
        with within(3):
            while late.is_alive():
                name = f"{len(answers)}"
                decision: Any = client.preflight(name, "t", {})
                assert decision["asked"]["goal"] == name
    [out] = answers
    assert (out["executed"], out["decision"]["reason_code"]) == (False, "actpass.timeout")
