"""The Python clients of ``run.py``: half of them block in threads, half run in one event loop.

Usage: worker.py FIRST COUNT URL...; client n uses URL n modulo their number. Prints events as JSON lines until its
standard input ends: ``running`` (a long function), ``told`` (its signal was set), ``ran`` and ``halted`` (short
functions).
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
ACTION = {"goal": "load", "tool": "load.step", "args": {"amount": 1}}


def say(client: int, event: str, **more: object) -> None:
    """Print an event with the time in milliseconds."""
    line = json.dumps({"client": client, "event": event, "ms": time.time() * 1e3, **more}) + "\n"
    os.write(1, line.encode())


def block(number: int, url: str) -> None:
    """Run one blocking client: a long function in a thread, short ones in this."""
    client = ActPassClient("apk_load", agent_id=f"load_{number}", base_url=url, timeout=60)

    def long(ctx: object) -> None:
        say(number, "running")
        while not ENDED.is_set():
            if ctx["halt"].wait(timeout=1):  # type: ignore[index]
                say(number, "told")
                return

    def step(ctx: object) -> None:
        say(number, "ran", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]

    thread = threading.Thread(target=lambda: client.guard(**ACTION, execute_fn=long), daemon=True)
    thread.start()
    while not ENDED.wait(0.2):
        out = client.guard(**ACTION, execute_fn=step)
        if not out["executed"]:
            say(number, out["decision"]["reason_code"])
    thread.join(10)


async def loop(number: int, url: str) -> None:
    """Run one asynchronous client, with the same functions as tasks."""
    client = AsyncActPassClient("apk_load", agent_id=f"load_{number}", base_url=url, timeout=60)

    async def long(ctx: object) -> None:
        say(number, "running")
        await ctx["halt"].wait_async()  # type: ignore[index]
        say(number, "told")

    async def step(ctx: object) -> None:
        say(number, "ran", evidence=ctx["decision"]["evidence_event_id"])  # type: ignore[index]

    task = asyncio.ensure_future(client.guard(**ACTION, execute_fn=long))
    while not ENDED.is_set():
        await asyncio.sleep(0.2)
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
