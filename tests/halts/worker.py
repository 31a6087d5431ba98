"""The Python clients of ``run.py``: half of them block in threads, half run in one event loop.

Usage: worker.py FIRST COUNT URL...; client n uses URL n modulo their number. Prints events as JSON lines until its
standard input ends: ``running`` (a long function began), ``told`` (its signal was set), ``ran`` (a short function
began) and the reason of each short function that did not run. Each client runs a long function while it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time

from actpass import ActPassClient, AsyncActPassClient

ENDED = threading.Event()
#: Seconds between the calls of a client.
PAUSE = 0.1
ACTION = {"goal": "load", "tool": "load.step", "args": {"amount": 1}}


def say(client: int, event: str, **more: object) -> None:
    """Print an event with the time in milliseconds."""
    line = json.dumps({"client": client, "event": event, "ms": time.time() * 1e3, **more}) + "\n"
    os.write(1, line.encode())


def block(number: int, url: str) -> None:
    """Run one blocking client: a long function in a thread, short ones in this."""
    client = ActPassClient("apk_load", agent_id=f"load_{number}", base_url=url, timeout=60)

    def long(ctx: object) -> None:
        say(number, "running", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]
        while not ENDED.is_set():
            if ctx["halt"].wait(timeout=1):  # type: ignore[index]
                say(number, "told")
                return

    def step(ctx: object) -> None:
        say(number, "ran", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]
        time.sleep(0.005)

    def run_long() -> None:
        while not ENDED.wait(PAUSE):
            client.guard(**ACTION, execute_fn=long)

    thread = threading.Thread(target=run_long, daemon=True)
    thread.start()
    while not ENDED.wait(PAUSE):
        out = client.guard(**ACTION, execute_fn=step)
        if not out["executed"]:
            say(number, out["decision"]["reason_code"])
    thread.join(10)


async def loop(number: int, url: str) -> None:
    """Run one asynchronous client, with the same functions as tasks."""
    client = AsyncActPassClient("apk_load", agent_id=f"load_{number}", base_url=url, timeout=60)

    async def long(ctx: object) -> None:
        say(number, "running", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]
        await ctx["halt"].wait_async()  # type: ignore[index]
        say(number, "told")

    async def step(ctx: object) -> None:
        say(number, "ran", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]
        await asyncio.sleep(0.005)

    async def run_long() -> None:
        while not ENDED.is_set():
            await asyncio.sleep(PAUSE)
            await client.guard(**ACTION, execute_fn=long)

    task = asyncio.ensure_future(run_long())
    while not ENDED.is_set():
        await asyncio.sleep(PAUSE)
        out = await client.guard(**ACTION, execute_fn=step)
        if not out["executed"]:
            say(number, out["decision"]["reason_code"])
    task.cancel()


async def loops(numbers: list[int], urls: list[str]) -> None:
    """Run the asynchronous clients."""
    await asyncio.gather(*(loop(number, urls[number % len(urls)]) for number in numbers))


def main(first: int, count: int, urls: list[str]) -> None:
    """Run the clients until standard input ends."""
    numbers = range(first, first + count)
    threads = [threading.Thread(target=block, args=(number, urls[number % len(urls)])) for number in numbers[::2]]
    threads.append(threading.Thread(target=lambda: asyncio.run(loops(list(numbers[1::2]), urls))))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ENDED.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
