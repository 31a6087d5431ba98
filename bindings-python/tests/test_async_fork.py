"""The client for event loops on both sides of ``os.fork()``, in worker pools and in a server that forks its workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actpass import AsyncActPassClient
from support import PACKAGE, TESTS, WATCH, Child, echoing, new_async_client, run_python, stop

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

inherited: AsyncActPassClient | None = None


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable logging: if threads write to log files, a forked child can hang in Python's file object."""
    monkeypatch.setattr(logging.getLogger("actpass"), "disabled", True)


@pytest.fixture
def client() -> Iterator[AsyncActPassClient]:
    """Give a client that has a background thread and an open connection."""
    with echoing() as base_url:
        client = new_async_client(base_url)
        asyncio.run(ask(client, "warm"))
        yield client
        asyncio.run(client.close())


async def ask(client: AsyncActPassClient, name: str) -> Any:
    """Make each kind of call once; fail on a response to another call."""
    name = f"{name} of {os.getpid()}"
    decision: Any = await client.preflight(name, "tool", {"name": name})
    assert (decision["asked"]["goal"], decision["asked"]["args"]) == (name, {"name": name})
    out: Any = await client.guard(f"{name} guard", "tool", {}, lambda ctx: ctx["decision"]["asked"]["goal"])
    assert out["result"] == f"{name} guard"
    assert (await client.record_evidence("event", name))["event_id"] == f"ev_{name}"
    return decision["connection"]


def ask_often(client: AsyncActPassClient, name: str, rounds: int = 10, at_once: int = 8) -> None:
    async def main() -> None:
        for at in range(rounds):
            await asyncio.gather(*[ask(client, f"{name} {at} {n}") for n in range(at_once)])

    asyncio.run(main())


def test_parent_and_children_call_concurrently(client: AsyncActPassClient) -> None:
    children = [Child(lambda: ask_often(client, "child")) for _ in range(4)]
    ask_often(client, "parent")
    for child in children:
        child.ended_well()
    ask_often(client, "parent again", 2)


def test_forked_grandchild_can_call(client: AsyncActPassClient) -> None:
    def in_child() -> None:
        ask_often(client, "child", 2)
        grandchild = Child(lambda: ask_often(client, "grandchild", 3))
        ask_often(client, "child", 3)
        grandchild.ended_well()

    child = Child(in_child)
    ask_often(client, "parent", 3)
    child.ended_well()


def test_fork_during_calls_blocks_no_child(client: AsyncActPassClient) -> None:
    """Forks at random points of the background thread's work; no child waits for a lock of that thread."""
    over = threading.Event()
    errors: list[BaseException] = []

    def traffic() -> None:
        async def main() -> None:
            while not over.is_set():
                await asyncio.gather(*[ask(client, f"traffic {n}") for n in range(8)])

        try:
            asyncio.run(main())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for _ in range(8):
            children = [Child(lambda: ask_often(client, "child", 2, 4)) for _ in range(3)]
            for child in children:
                child.ended_well()
    finally:
        over.set()
        thread.join(30)
    assert errors == []


def test_fork_inside_task_keeps_parents_call(client: AsyncActPassClient) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(client.preflight("waiting", "tool", {"delay": 0.5}))
        await asyncio.sleep(0.1)

        def in_child() -> None:
            # The child drops its copies of the parent's objects, including a pending call; the parent's call continues.
            nonlocal waiting
            waiting.cancel()
            del waiting
            ask_often(client, "child", 2)

        Child(in_child).ended_well()
        answered: Any = await waiting
        assert answered["asked"]["goal"] == "waiting"
        await ask(client, "parent")

    asyncio.run(main())


ENDS_AS_PROGRAMS_DO = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from support import new_async_client
client = new_async_client(sys.argv[1])

async def connection(name):
    return (await client.preflight(name, "tool", {}))["connection"]

before = asyncio.run(connection("before"))
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "used":
        assert asyncio.run(connection("child")) != before
    if sys.argv[2] == "closed":
        asyncio.run(client.close())
    sys.exit(0)  # The interpreter finalizes every object.
assert os.waitpid(pid, 0)[1] == 0, "the child failed"
assert asyncio.run(connection("after")) == before, "the child's end reached the parent's connection"
"""


@pytest.mark.parametrize("child", ["used", "unused", "closed"])
def test_exit_of_child_keeps_parents_connection_open(child: str) -> None:
    with echoing() as base_url:
        done = run_python(ENDS_AS_PROGRAMS_DO, base_url, child, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def ask_inherited(at: int) -> int:
    assert inherited is not None
    ask_often(inherited, f"task {at}", 1, 4)
    return os.getpid()


@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_forked_worker_pools_can_call(client: AsyncActPassClient, kind: str) -> None:
    global inherited
    inherited = client
    context = multiprocessing.get_context("fork")
    if kind == "pool":
        with context.Pool(4) as pool:
            running = pool.map_async(ask_inherited, range(24), chunksize=2)
            ask_often(client, "parent", 3)
            workers = set(running.get(timeout=60))
    else:
        with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as executor:
            workers = set(executor.map(ask_inherited, range(24), timeout=60))
            ask_often(client, "parent", 3)
    inherited = None
    assert os.getpid() not in workers


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not list its threads")
def test_starts_one_thread_with_the_first_call(client: AsyncActPassClient) -> None:
    code = """
import asyncio, os, sys
from support import new_async_client
def threads():
    return len(os.listdir("/proc/self/task"))
clients = [new_async_client(sys.argv[1]) for _ in range(5)]
made = threads()
for client in clients:
    asyncio.run(client.preflight("g", "t", {}))
print(made, threads())
"""
    done = run_python(code, client.base_url)
    assert done.stdout.split() == ["1", "2"], done.stderr


#: Both clients are created and used before the workers are forked.
APPLICATION = """
import asyncio, json, os, sys, warnings
from support import new_async_client, new_client
warnings.simplefilter("ignore")
blocking, awaiting = new_client(os.environ["GATE"]), new_async_client(os.environ["GATE"])
used = [blocking.preflight("master", "t", {})["connection"]]
used.append(asyncio.run(awaiting.preflight("master", "t", {}))["connection"])

async def ask(name):
    return await asyncio.gather(*[
        awaiting.guard(f"{name} {n}", "t", {}, lambda ctx: ctx["decision"]["asked"]["goal"]) for n in range(4)
    ])

def app(environ, start_response):
    name = f"{environ['PATH_INFO']} of {os.getpid()}"
    outs = [blocking.guard(name, "t", {}, lambda ctx: ctx["decision"]["asked"]["goal"]), *asyncio.run(ask(name))]
    said = {
        "pid": os.getpid(),
        "own": [out["result"] for out in outs] == [name] + [f"{name} {n}" for n in range(4)],
        "shared": [out["decision"]["connection"] for out in outs if out["decision"]["connection"] in used],
    }
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(said).encode()]
"""


def test_works_in_gunicorn_with_preload(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(APPLICATION, encoding="utf-8")
    log = tmp_path / "log"
    with echoing() as base_url:
        path = os.pathsep.join([str(PACKAGE), str(TESTS), str(tmp_path)])
        environment = {**os.environ, "PYTHONPATH": path, "GATE": base_url}
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--bind", "127.0.0.1:0"]
        command += ["--worker-tmp-dir", str(tmp_path), "--no-control-socket"] if has_control_socket() else []
        with log.open("wb") as out:
            server = subprocess.Popen(
                [*command, "application:app"], env=environment, cwd=tmp_path, stdout=out, stderr=out
            )
        try:
            url = address(server, log)
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                said = list(pool.map(lambda at: get(f"{url}/{at}"), range(60)))
        finally:
            server.send_signal(signal.SIGTERM)
            stop(server)
            WATCH.note(log.read_text(encoding="utf-8"))
    assert [one for one in said if not one["own"] or one["shared"]] == []
    assert server.pid not in {one["pid"] for one in said}
    assert len({one["pid"] for one in said}) > 1


def has_control_socket() -> bool:
    shown = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    return "--no-control-socket" in shown.stdout


def address(server: subprocess.Popen[Any], log: Path) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if "Listening at: " in line:
                return line.split("Listening at: ")[1].split()[0]
        time.sleep(0.05)
    pytest.fail(f"gunicorn does not listen:\n{log.read_text()}")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)
