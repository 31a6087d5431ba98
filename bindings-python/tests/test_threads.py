"""One client, many threads: each call receives its own response, and each function runs exactly once."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from actpass import ActPassConfigError
from support import Callback, echoing, new_client, together, within

THREADS = 64
CALLS = 50


def test_each_call_runs_its_own_function_once() -> None:
    with echoing() as base_url, new_client(base_url, timeout=30) as client, within(40):
        runs: list[list[Any]] = [[] for _ in range(THREADS)]

        def run(at: int) -> None:
            for call in range(CALLS):
                name = f"{at}/{call}"

                def execute(context: Any) -> Any:
                    runs[at].append(context["decision"]["asked"]["args"]["name"])
                    return threading.get_ident(), context["decision"]["request"]

                out: Any = client.guard("goal", "tool", {"name": name}, execute, idempotency_key=name)
                assert out["result"] == (threading.get_ident(), out["decision"]["request"])
                assert out["decision"]["asked"]["idempotency_key"] == name

        together(THREADS, run)
    assert runs == [[f"{at}/{call}" for call in range(CALLS)] for at in range(THREADS)]


@pytest.mark.parametrize("guarded", [False, True])
def test_waiting_threads_do_not_block_each_other(guarded: bool) -> None:
    """64 responses that take 300 ms each arrive after one such delay, and Python code runs during the wait."""
    delay, counted = 0.3, []
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.005):
            counted.append(time.monotonic())

    with echoing() as base_url, new_client(base_url, timeout=30) as client:

        def run(at: int) -> Any:
            arguments = {"delay": delay, "name": at}
            if not guarded:
                answer: Any = client.preflight("goal", "tool", arguments)
                return answer["asked"]["args"]["name"]
            return client.guard("goal", "tool", arguments, lambda ctx: ctx["decision"]["asked"]["args"]["name"])[
                "result"
            ]

        counter = threading.Thread(target=count)
        counter.start()
        try:
            started = time.monotonic()
            assert together(THREADS, run) == list(range(THREADS))
            took = time.monotonic() - started
        finally:
            over.set()
            counter.join()
    # Sequential calls take 19 s.
    assert took < THREADS * delay / 4, f"{took:.1f} s"
    assert len(counted) > 10
    longest = max(later - sooner for sooner, later in zip(counted, counted[1:]))
    assert longest < delay, f"no Python code ran for {longest:.2f} s"


def test_each_thread_may_have_its_own_client() -> None:
    with echoing() as base_url:

        def run(at: int) -> None:
            for call in range(5):
                with new_client(base_url) as client:
                    answer: Any = client.preflight(f"{at}/{call}", "tool", {})
                    assert answer["asked"]["goal"] == f"{at}/{call}"

        together(16, run)


def test_close_during_calls_of_other_threads_is_clean() -> None:
    with echoing() as base_url:
        client = new_client(base_url)
        started = threading.Barrier(9, timeout=10)

        def run(at: int) -> int:
            if at == 0:
                started.wait()
                client.close()
                return 1
            calls = 0
            while True:
                callback = Callback(lambda context: context["decision"]["asked"]["goal"])
                name = f"{at}/{calls}"
                try:
                    out: Any = client.guard(name, "tool", {"delay": 0.01}, callback)
                except ActPassConfigError as error:
                    assert "closed" in str(error)
                    assert callback.runs == 0
                    return calls
                assert out.get("result") == name, out
                calls += 1
                if calls == 1:
                    started.wait()

        with within(20):
            assert min(together(9, run)) >= 1
        client.close()
