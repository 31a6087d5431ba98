"""A client on both sides of ``os.fork()``: no response reaches the wrong process, and nothing hangs."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actpass import ActPassArgumentError, ActPassClient, ActPassInternalError
from support import Child, echoing, new_client, run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

CALLS = 50
inherited: ActPassClient | None = None


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable logging: if threads write to log files, a forked child can hang in Python's file object."""
    monkeypatch.setattr(logging.getLogger("actpass"), "disabled", True)


@pytest.fixture
def client() -> Iterator[ActPassClient]:
    """Give a client with an open connection to a gateway that echoes each request."""
    with echoing() as base_url, new_client(base_url) as client:
        client.preflight("warm", "up", {})
        yield client


def goal_of(context: Any) -> Any:
    return context["decision"]["asked"]["goal"]


def ask(client: ActPassClient, name: str) -> None:
    """Make each kind of call once; fail on a response to another call."""
    name = f"{name} of {os.getpid()}"
    decision: Any = client.preflight(name, "tool", {"name": name}, idempotency_key=f"{name} preflight")
    asked = decision["asked"]
    assert (asked["goal"], asked["args"], asked["idempotency_key"]) == (name, {"name": name}, f"{name} preflight")
    out: Any = client.guard(f"{name} guard", "tool", {}, goal_of)
    assert (out["result"], out["decision"]["asked"]["goal"]) == (f"{name} guard", f"{name} guard")
    assert client.record_evidence("event", name)["event_id"] == f"ev_{name}"


def ask_often(client: ActPassClient, name: str, count: int = CALLS) -> None:
    for at in range(count):
        ask(client, f"{name} {at}")


def test_parent_and_child_call_concurrently(client: ActPassClient) -> None:
    child = Child(lambda: ask_often(client, "child"))
    ask_often(client, "parent")
    child.ended_well()
    ask_often(client, "parent again", 5)


def test_many_children_call_concurrently(client: ActPassClient) -> None:
    children = [Child(lambda: ask_often(client, "child", 20)) for _ in range(6)]
    ask_often(client, "parent", 20)
    for child in children:
        child.ended_well()


def test_forked_grandchild_can_call(client: ActPassClient) -> None:
    def in_child() -> None:
        ask_often(client, "child", 5)
        grandchild = Child(lambda: ask_often(client, "grandchild"))
        ask_often(client, "child")
        grandchild.ended_well()
        Child(lambda: Child(lambda: ask_often(client, "deepest", 5)).ended_well()).ended_well()

    child = Child(in_child)
    ask_often(client, "parent")
    child.ended_well()


def test_fork_during_calls_of_other_threads_hangs_nothing(client: ActPassClient) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    rounds = [0] * 4

    def run(at: int) -> None:
        try:
            while not stop.is_set():
                ask(client, f"thread {at}")
                rounds[at] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(rounds))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            children = [Child(lambda: ask_often(client, "child", 5)) for _ in range(3)]
            ask_often(client, "parent", 5)
            for child in children:
                child.ended_well()
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []
    assert min(rounds) > 0
    assert not any(thread.is_alive() for thread in threads)


def test_threads_of_forked_child_can_call(client: ActPassClient) -> None:
    def in_child() -> None:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                ask_often(client, f"thread {threading.get_ident()}", 10)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    Child(in_child).ended_well()


def test_close_in_child_keeps_parents_connection_open(client: ActPassClient) -> None:
    before: Any = client.preflight("before", "tool", {})

    def in_child() -> None:
        ask(client, "child")
        client.close()

    Child(in_child).ended_well()
    Child(client.close).ended_well()
    after: Any = client.preflight("after", "tool", {})
    assert after["connection"] == before["connection"], "the child's close reached the parent's connection"


ENDS_AS_PROGRAMS_DO = """
import os, sys
from support import new_client
client = new_client(sys.argv[1])
before = client.preflight("before", "tool", {})["connection"]
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "used":
        client.preflight("child", "tool", {})
    sys.exit(0)  # The interpreter finalizes every object.
assert os.waitpid(pid, 0)[1] == 0, "the child failed"
assert client.preflight("after", "tool", {})["connection"] == before, "the child's end reached the parent's connection"
"""


@pytest.mark.parametrize("child", ["used", "unused"])
def test_exit_of_child_keeps_parents_connection_open(child: str) -> None:
    with echoing() as base_url:
        done = run_python(ENDS_AS_PROGRAMS_DO, base_url, child, timeout=30)
    assert done.returncode == 0, done.stderr


def test_idempotency_keys_are_unique_across_forks(client: ActPassClient, tmp_path: Path) -> None:
    def keys() -> list[str]:
        answers: list[Any] = [client.preflight("goal", "tool", {}) for _ in range(CALLS)]
        return [answer["asked"]["idempotency_key"] for answer in answers]

    def in_child(name: str) -> None:
        (tmp_path / name).write_text(json.dumps(keys()), encoding="utf-8")

    children = [Child(lambda name=name: in_child(name)) for name in ("a", "b")]  # type: ignore[misc]
    made = keys()
    for child in children:
        child.ended_well()
    for name in ("a", "b"):
        made += json.loads((tmp_path / name).read_text(encoding="utf-8"))
    assert len(made) == len(set(made)) == 3 * CALLS


def ask_inherited(at: int) -> int:
    assert inherited is not None
    ask(inherited, f"task {at}")
    return os.getpid()


def test_forked_worker_pools_can_call(client: ActPassClient) -> None:
    global inherited
    inherited = client
    with multiprocessing.get_context("fork").Pool(4) as pool:
        running = pool.map_async(ask_inherited, range(100), chunksize=5)
        ask_often(client, "parent", 20)
        workers = set(running.get(timeout=30))
    inherited = None
    assert os.getpid() not in workers
    assert len(workers) > 1


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not list its threads")
def test_blocking_client_starts_no_thread(client: ActPassClient) -> None:
    done = run_python(
        "import os, sys\nfrom support import new_client\nbefore = len(os.listdir('/proc/self/task'))\n"
        "client = new_client(sys.argv[1])\nclient.preflight('g', 't', {})\n"
        "print(before, len(os.listdir('/proc/self/task')))",
        client.base_url,
    )
    assert done.stdout.split() == ["1", "1"], done.stderr


FORKS_WHILE_TLS_IS_SET_UP = """
import os, signal, threading, time
from support import Child, new_client
setting_up = threading.Thread(target=new_client, args=("https://127.0.0.1:1",))
setting_up.start()
Child.LIMIT = 10
children = []
while setting_up.is_alive():
    children.append(Child(lambda: new_client("https://127.0.0.1:1")))
    time.sleep(0.003)
print(len(children))
for child in children:
    child.ended_well()
"""


def test_fork_during_first_client_construction_hangs_nothing(client: ActPassClient) -> None:
    started = time.monotonic()
    done = run_python(FORKS_WHILE_TLS_IS_SET_UP, timeout=60)
    assert done.returncode == 0, f"{time.monotonic() - started:.1f} s: {done.stderr}"
    assert int(done.stdout) > 0


def test_child_without_file_descriptors_blocks_except_in_monitor(client: ActPassClient) -> None:
    def starve() -> None:
        free = os.dup(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        os.close(free)
        ran: list[str] = []
        blocked = client.guard("goal", "tool", {}, lambda ctx: ran.append("enforce"))
        assert (blocked["executed"], blocked["decision"]["reason_code"]) == (False, "actpass.internal"), blocked
        assert isinstance(blocked["error"], ActPassInternalError)
        assert client.guard("goal", "tool", {}, lambda ctx: ran.append("monitor"), mode="monitor")["executed"]
        with pytest.raises(ActPassArgumentError):
            client.guard("", "tool", {}, lambda ctx: ran.append("argument"), mode="monitor")
        assert ran == ["monitor"]

    Child(starve).ended_well()
