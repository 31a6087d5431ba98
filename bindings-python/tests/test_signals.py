"""Ctrl-C ends a pending call immediately, and nothing runs; a waiting thread never blocks other threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path
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
    sys.stdin.readline()
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
    assert took < 15, f"the interrupt took {took:.2f} s, and the call has 30 s"
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
        done = run_python(WAITING, gateway.base_url, call, how, cues=[gateway.has_seen(1)])
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize(
    "call", ["enforce", "strict", "warn", "monitor", "preflight", "verify_passport", "record_evidence"]
)
def test_interrupt_ends_hanging_call(hostile: Hostile, call: str) -> None:
    interrupted(hostile, HANGS["request"], call)


@pytest.mark.parametrize("stage", [name for name in HANGS if name != "request"])
def test_interrupt_ends_call_at_any_stage(hostile: Hostile, stage: str) -> None:
    interrupted(hostile, HANGS[stage], "monitor")


def test_interrupt_main_ends_hanging_call(hostile: Hostile) -> None:
    interrupted(hostile, HANGS["request"], "enforce", "interrupt_main")


#: The main thread is interrupted while another thread waits on the same client; that thread still gets its response.
WITH_A_WORKER = """
import os, signal, sys, threading, time
from support import new_client

base_url, first, interrupted = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
client = new_client(base_url, timeout=30)
answers = []
worker = threading.Thread(target=lambda: answers.append(client.preflight("worker", "tool", {})))
sent = []

def interrupt():
    sys.stdin.readline()
    if first == "main":
        worker.start()
    sys.stdin.readline()
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

if first == "worker":
    worker.start()
    sys.stdin.readline()
threading.Thread(target=interrupt, daemon=True).start()
try:
    client.preflight("main", "tool", {})
except KeyboardInterrupt:
    took = time.monotonic() - sent[0]
assert took < 15, f"the interrupt took {took:.2f} s, and the call has 30 s"
open(interrupted, "w").close()
worker.join(20)
assert answers[0]["decision"] == "deny"
print("interrupted")
"""


@pytest.mark.parametrize("first", ["worker", "main"])
def test_interrupt_of_one_thread_does_not_affect_others(hostile: Hostile, tmp_path: Path, first: str) -> None:
    interrupted = tmp_path / "interrupted"

    def release() -> bool:
        if interrupted.exists():
            gateway.release()
        return interrupted.exists()

    with hostile.play(answer({"decision": "deny"}, delay_ms=60_000)) as gateway:
        cues = [gateway.has_seen(1), *[gateway.has_seen(2)] * (2 if first == "worker" else 1), release]
        done = run_python(WITH_A_WORKER, gateway.base_url, first, str(interrupted), cues=cues)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


#: A signal handler that raises ends the call with its exception; a handler that returns does not affect the call.
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

def send():
    for number in (signal.SIGUSR1, signal.SIGTERM):
        sys.stdin.readline()
        os.kill(os.getpid(), number)

threading.Thread(target=send, daemon=True).start()
assert client.preflight("goal", "tool", {})["decision"] == "deny"
assert calls == [1]
try:
    client.guard("goal", "tool", {}, lambda _: sys.exit("ran"), mode="monitor")
except Stop:
    print("stopped")
"""


def test_raising_signal_handler_ends_call(hostile: Hostile) -> None:
    # The first response arrives long after the first signal.
    with hostile.play(answer({"decision": "deny"}, delay_ms=3_000), HANGS["request"]) as gateway:
        done = run_python(HANDLERS, gateway.base_url, cues=[gateway.has_seen(1), gateway.has_seen(2)])
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_waiting_thread_releases_the_interpreter(hostile: Hostile) -> None:
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
        steps = 0
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.002)
            steps += 1
    assert len(ended) == len(threads)
    # If the waiting threads held the interpreter, this thread would make about three steps.
    assert steps > 20


def test_deadline_of_one_thread_does_not_affect_others(hostile: Hostile) -> None:
    with echoing() as base_url, new_client(base_url, timeout=0.5) as client:
        answers: list[Any] = []
        late = threading.Thread(target=lambda: answers.append(client.guard("late", "t", {"delay": 60}, Callback())))
        late.start()
        with within(30):
            while late.is_alive():
                name = f"{len(answers)}"
                decision: Any = client.preflight(name, "t", {})
                assert decision["asked"]["goal"] == name
    [out] = answers
    assert (out["executed"], out["decision"]["reason_code"]) == (False, "actpass.timeout")


#: Like the first program, but repeated in one process: milliseconds of each interrupt, sorted ascending.
HOW_FAST = """
import os, signal, sys, threading, time
from support import ACTION, new_client

signal.signal(signal.SIGINT, signal.default_int_handler)
client = new_client(sys.argv[1], timeout=30)
took = []
for at in range(12):
    sent = []

    def interrupt():
        sys.stdin.readline()
        time.sleep(at * 0.007)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        client.guard(execute_fn=lambda _: sys.exit("ran"), mode="monitor", **ACTION)
    except KeyboardInterrupt:
        took.append(1000 * (time.monotonic() - sent[0]))
print(*sorted(took))
"""


def test_repeated_interrupts_each_end_one_call(hostile: Hostile) -> None:
    with hostile.play(*[HANGS["request"]] * 12) as gateway:
        done = run_python(HOW_FAST, gateway.base_url, cues=[gateway.has_seen(at + 1) for at in range(12)])
    took = [float(word) for word in done.stdout.split()]
    assert len(took) == 12, done.stderr
    # The fastest only: the others depend on the machine's load. A call that does not check for signals takes 30 s.
    assert took[0] < 100, took
    assert took[-1] < 15_000, took


ENDS = """
import sys, threading, time
from support import ACTION, new_client

client = new_client(sys.argv[1], timeout=30)
for _ in range(3):
    threading.Thread(target=lambda: client.guard(execute_fn=print, **ACTION), daemon=True).start()
sys.stdin.readline()
"""


def test_waiting_thread_does_not_delay_exit(hostile: Hostile) -> None:
    with hostile.play(*[HANGS["request"]] * 3) as gateway, within(25):
        done = run_python(ENDS, gateway.base_url, cues=[gateway.has_seen(3)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


#: Calls at each point of the interpreter's exit: in exit handlers, in finalizers, on a running daemon thread.
AT_THE_END = """
import asyncio, atexit, sys, threading, time
from actpass import ActPassError
from support import new_async_client, new_client

client, awaiting = new_client(sys.argv[1]), new_async_client(sys.argv[1])

def ask(name):
    out = client.guard(name, "tool", {}, lambda ctx: ctx["decision"]["asked"]["goal"])
    print(out["result"], flush=True)

async def ask_later(name):
    print((await awaiting.guard(name, "tool", {}, lambda ctx: ctx["decision"]["asked"]["goal"]))["result"], flush=True)

class Last:
    def __del__(self):
        try:
            ask("finalizer")
        except (ImportError, TypeError, AttributeError, ActPassError):  # The interpreter may have cleared the modules.
            print("too late", flush=True)

def endless():
    while True:
        client.preflight("thread", "tool", {})

async def endless_later():
    while True:
        await awaiting.preflight("thread", "tool", {})

last = Last()
asyncio.run(ask_later("loop"))
atexit.register(ask, "exit handler")
atexit.register(lambda: asyncio.run(ask_later("loop of an exit handler")))
threading.Thread(target=endless, daemon=True).start()
threading.Thread(target=lambda: asyncio.run(endless_later()), daemon=True).start()
time.sleep(0.2)
sys.modules["kept until the end"] = last
"""


def test_calls_work_during_interpreter_exit() -> None:
    with echoing() as base_url:
        for _ in range(3):
            done = run_python(AT_THE_END, base_url, timeout=30)
            said = done.stdout.splitlines()
            assert (done.returncode, done.stderr) == (0, "")
            assert said[:3] == ["loop", "loop of an exit handler", "exit handler"]
            assert said[3:] in ([], ["finalizer"], ["too late"])


IN_ANOTHER_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
from support import new_client
client = new_client("http://127.0.0.1:9")
for _ in range(3):
    another = interpreters.create()
    code = f'''
import sys
sys.path[:] = {sys.path!r}
try:
    import actpass
except ImportError as error:
    print("threads or processes instead of subinterpreters" in str(error))
else:
    print(actpass.ActPassClient("apk", base_url="http://127.0.0.1:9", max_retries=0).guard(
        "g", "t", {{}}, print)["executed"])
'''
    run = getattr(interpreters, "run_string")
    run(another, code)
    interpreters.destroy(another)
assert client.guard("g", "t", {}, print)["executed"] is False
"""


def test_rejects_subinterpreters() -> None:
    done = run_python(IN_ANOTHER_INTERPRETER, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3, done.stderr
