"""The Python worker: half of its calls from threads, half from tasks of one event loop.

Usage: worker.py CONFIG. See ``tests/soak/src/worker.rs`` for the protocol.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import sys
import threading
from typing import Any

from actpass import ActPassClient, ActPassError, AsyncActPassClient, ExecutionContext, GuardOutcome

KEY = "apk_dev"
AGENT = "soak"
AMOUNTS = (4900, 4900, 25_000, 90_000)
MODES = ("enforce", "enforce", "strict", "enforce", "monitor", "strict", "enforce", "enforce")


class ActionError(Exception):
    """Error of failing actions."""


class Calls:
    """A numbered series of calls and its journal."""

    def __init__(self, series: str, orders: dict[str, Any], journal: int) -> None:
        """Start at number 0."""
        self._series = series
        self._journal = journal
        self._numbers = itertools.count()
        self._fresh_each = orders["fresh_client_each"]

    def draw(self) -> tuple[str, bool, bool, dict[str, Any]]:
        """Return the next call's id, whether it uses a new client and repeats, and the guard's arguments."""
        number = next(self._numbers)
        call_id = f"{self._series}-{number}"
        amount = AMOUNTS[number % len(AMOUNTS)]
        mode = MODES[number // len(AMOUNTS) % len(MODES)]

        def execute(context: ExecutionContext) -> None:
            decision = context["decision"]
            evidence, request_hash = decision.get("evidence_event_id"), decision.get("request_hash")
            self._write({"ran": {"id": call_id, "evidence": evidence, "hash": request_hash}})
            if number % 16 == 8:  # noqa: PLR2004
                raise ActionError

        asked = {
            "goal": AGENT,
            "tool": "stripe.refund.create",
            "resource": f"soak:{call_id}",
            "args": {"amount": amount, "currency": "usd"},
            "mode": mode,
            "idempotency_key": call_id,
            "execute_fn": execute,
        }
        repeats = number % 8 in (1, 7) and mode != "monitor"
        return call_id, number % self._fresh_each == 0, repeats, asked

    def report(self, call_id: str, gateway: dict[str, Any], out: GuardOutcome[None]) -> None:
        """Append the guard's outcome to the journal."""
        decision, error = out["decision"], out.get("error")
        kind = "action" if isinstance(error, ActionError) else None
        if isinstance(error, ActPassError):
            kind = error.kind
        elif error is not None and kind is None:
            raise error
        self._write(
            {
                "call": {
                    "id": call_id,
                    "gateway": gateway["name"],
                    "executed": out["executed"],
                    "word": decision["decision"],
                    "reason": decision.get("reason_code"),
                    "kind": kind,
                    "evidence": decision.get("evidence_event_id"),
                    "hash": decision.get("request_hash"),
                }
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._journal, json.dumps(line).encode() + b"\n")


class Threads:
    """Blocking calls from threads."""

    def __init__(self, orders: dict[str, Any], journal: int) -> None:
        """Create one client per gateway."""
        self._orders = orders
        self._calls = Calls("python-sync", orders, journal)
        self._clients = [(gateway, self._new(gateway)) for gateway in orders["gateways"]]
        self._resting = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []

    def go(self) -> None:
        """Start the load."""
        self._resting.clear()
        self._threads = [
            threading.Thread(target=self._load, args=client)
            for client in self._clients
            for _ in range(self._orders["tasks"])
        ]
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """End the load."""
        self._resting.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        for failed in self._failed:
            raise failed

    def call_with_each(self) -> None:
        """Make two calls with each client."""
        for client in self._clients:
            self._call(*client)
            self._call(*client)

    def close(self) -> None:
        """Close the clients."""
        for _, client in self._clients:
            client.close()

    def _load(self, gateway: dict[str, Any], client: ActPassClient) -> None:
        try:
            while not self._resting.wait(pause(self._orders)):
                self._call(gateway, client)
        except BaseException as error:
            self._failed.append(error)

    def _call(self, gateway: dict[str, Any], client: ActPassClient) -> None:
        call_id, fresh, repeats, asked = self._calls.draw()
        if fresh:
            with self._new(gateway) as own:
                self._calls.report(call_id, gateway, own.guard(**asked))
        else:
            self._calls.report(call_id, gateway, client.guard(**asked))
        if repeats and gateway["ca"]:
            self._calls.report(call_id, gateway, client.guard(**asked))
            with self._new(gateway) as other:
                self._calls.report(call_id, gateway, other.guard(**asked))

    def _new(self, gateway: dict[str, Any]) -> ActPassClient:
        return ActPassClient(**settings(gateway, self._orders))


class Tasks:
    """Asynchronous calls from tasks."""

    def __init__(self, orders: dict[str, Any], journal: int) -> None:
        """Create one client per gateway."""
        self._orders = orders
        self._calls = Calls("python-async", orders, journal)
        self._clients = [(gateway, self._new(gateway)) for gateway in orders["gateways"]]
        self._resting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def go(self) -> None:
        """Start the load."""
        self._resting.clear()
        self._tasks = [
            asyncio.create_task(self._load(*client)) for client in self._clients for _ in range(self._orders["tasks"])
        ]

    async def rest(self) -> None:
        """End the load."""
        self._resting.set()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def call_with_each(self) -> None:
        """Make two calls with each client."""
        for client in self._clients:
            await self._call(*client)
            await self._call(*client)

    async def close(self) -> None:
        """Close the clients."""
        for _, client in self._clients:
            await client.close()

    async def _load(self, gateway: dict[str, Any], client: AsyncActPassClient) -> None:
        while not self._resting.is_set():
            await asyncio.sleep(pause(self._orders))
            await self._call(gateway, client)

    async def _call(self, gateway: dict[str, Any], client: AsyncActPassClient) -> None:
        call_id, fresh, repeats, asked = self._calls.draw()
        if fresh:
            async with self._new(gateway) as own:
                self._calls.report(call_id, gateway, await own.guard(**asked))
        else:
            self._calls.report(call_id, gateway, await client.guard(**asked))
        if repeats and gateway["ca"]:
            self._calls.report(call_id, gateway, await client.guard(**asked))
            async with self._new(gateway) as other:
                self._calls.report(call_id, gateway, await other.guard(**asked))

    def _new(self, gateway: dict[str, Any]) -> AsyncActPassClient:
        return AsyncActPassClient(**settings(gateway, self._orders))


def settings(gateway: dict[str, Any], orders: dict[str, Any]) -> dict[str, Any]:
    """Return the client options for ``gateway``."""
    return {
        "api_key": KEY,
        "agent_id": AGENT,
        "base_url": gateway["url"],
        "ca": gateway["ca"],
        "timeout": orders["timeout_ms"] / 1000,
    }


def pause(orders: dict[str, Any]) -> float:
    """Return the pause before a call, in seconds."""
    return random.uniform(0, 2 * orders["pause_ms"] / 1000)


async def main(path: str) -> None:
    """Execute the commands from standard input."""
    with open(path, "rb") as file:
        orders = json.load(file)
    journal = os.open(orders["journal"], os.O_WRONLY | os.O_APPEND)
    threads, tasks = Threads(orders, journal), Tasks(orders, journal)
    print("ready", flush=True)
    while True:
        order = (await asyncio.to_thread(sys.stdin.readline)).strip()
        if order == "go":
            threads.go()
            tasks.go()
        elif order == "rest":
            await asyncio.gather(asyncio.to_thread(threads.rest), tasks.rest())
            print("resting", flush=True)
        elif order == "call":
            await asyncio.to_thread(threads.call_with_each)
            await tasks.call_with_each()
            gc.collect()
            print("called", flush=True)
        elif order == "end":
            threads.close()
            await tasks.close()
            return
        else:
            sys.exit(f"unknown order {order!r}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
