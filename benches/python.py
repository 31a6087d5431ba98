"""The clients of Python, measured on command.

Usage: python.py URL [--ca FILE] [--published FOLDER] [--path FOLDER]... [--once NAME CALLS]

A worker reads a command a line and answers each with a JSON object on a line:

- ``measure NAME WIDTH CALLS SECONDS``: so many calls, so many at once, for so long at most. The clients that block
  call from threads.
- ``clients NAME COUNT``: makes so many more clients, which make one call each and stay.
- ``border``: cost of a call into the native module, in nanoseconds.

Each contender is imported on its first use. With ``--once`` the worker makes so many calls and ends, for counting.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

ACTION: dict[str, Any] = {
    "goal": "resolve_refund_request",
    "tool": "stripe.refund.create",
    "args": {"amount": 4900, "currency": "usd"},
    "resource": "stripe:charge:ch_123",
}
PATH = "/api/v1/actions/preflight"
KEY = "apk_bench"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
NAMES = ("aiohttp", "httpx", "pycurl", "requests", "restate-sdk", "temporalio", "uvloop")

settings: argparse.Namespace


def main() -> None:
    """Serve commands until there are no more."""
    global settings  # noqa: PLW0603
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--published", type=Path)
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("--once", nargs=2)
    settings = parser.parse_args()
    sys.path[:0] = settings.path
    if settings.once:
        name, calls = settings.once
        call = BLOCKING[name]()
        for _ in range(int(calls)):
            call()
        return
    worker = Worker()
    say({"contenders": [*BLOCKING, *LOOPS], "python": sys.version.split()[0], "versions": versions()})
    for line in sys.stdin:
        try:
            say(worker.obey(*line.split()))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})


def say(answer: object) -> None:
    """Answer a command."""
    print(json.dumps(answer), flush=True)


def versions() -> dict[str, str]:
    """Return the installed versions of the compared libraries."""
    found = {}
    for name in NAMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Worker:
    """Runs commands. Connections, threads and loops are kept for the next command."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._callers: dict[str, Callable[[], object]] = {}
        self._pools: dict[int, Any] = {}
        self._loops: dict[str, tuple[Any, Any]] = {}
        self._kept: list[Any] = []

    def obey(self, command: str, *words: str) -> dict[str, Any]:
        """Run the command of a line."""
        if command == "measure":
            name, width, calls, seconds = words
            budget = Budget(int(calls), float(seconds))
            times = self._times(name, int(width), budget)
            return budget.report(times)
        if command == "clients":
            name, count = words
            for _ in range(int(count)):
                call = BLOCKING[name]()
                call()
                self._kept.append(call)
            return {"clients": len(self._kept)}
        if command == "border":
            return border()
        raise ValueError(f"no such command: {command}")

    def _times(self, name: str, width: int, budget: Budget) -> list[float]:
        if name in LOOPS:
            return self._on_loop(name, width, budget)
        if name not in self._callers:
            self._callers[name] = BLOCKING[name]()
        call = self._callers[name]
        if width == 1:
            return repeat(call, budget)
        return self._in_threads(call, width, budget)

    def _in_threads(self, call: Callable[[], object], width: int, budget: Budget) -> list[float]:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        if width not in self._pools:
            self._pools[width] = ThreadPoolExecutor(width)
        together = threading.Barrier(width)

        def work() -> list[float]:
            if together.wait() == 0:
                budget.begin()
            return repeat(call, budget)

        workers = [self._pools[width].submit(work) for _ in range(width)]
        return [took for worker in workers for took in worker.result()]

    def _on_loop(self, name: str, width: int, budget: Budget) -> list[float]:
        import asyncio  # noqa: PLC0415

        kind, make = LOOPS[name]
        if name not in self._loops:
            if kind == "uvloop":
                import uvloop  # noqa: PLC0415

                loop = uvloop.new_event_loop()
            else:
                loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            self._loops[name] = loop, loop.run_until_complete(make())
        loop, call = self._loops[name]

        async def work() -> list[float]:
            times = []
            while budget.goes_on():
                start = time.perf_counter_ns()
                await call()
                times.append((time.perf_counter_ns() - start) / 1e3)
            return times

        async def works() -> list[list[float]]:
            return await asyncio.gather(*[work() for _ in range(width)])

        budget.begin()
        return [took for times in loop.run_until_complete(works()) for took in times]


class Budget:
    """The limit of a measurement: a number of calls, and a time."""

    def __init__(self, calls: int, seconds: float) -> None:
        """Begin now."""
        self._left, self._seconds = calls, seconds
        self.begin()

    def begin(self) -> None:
        """Begin again."""
        self._began = time.perf_counter()

    def goes_on(self) -> bool:
        """Whether there is another call to make; under the GIL two callers may at worst both take the last one."""
        self._left -= 1
        return self._left >= 0 and time.perf_counter() - self._began < self._seconds

    def report(self, times: list[float]) -> dict[str, Any]:
        """Return the calls, the seconds, and percentiles in microseconds."""
        seconds = time.perf_counter() - self._began
        times.sort()
        at = [times[len(times) * part // 100] if times else None for part in (50, 99)]
        return {"calls": len(times), "seconds": seconds, "p50": at[0], "p99": at[1]}


def repeat(call: Callable[[], object], budget: Budget) -> list[float]:
    """Call until the budget is spent; return how long each call took, in microseconds."""
    times = []
    while budget.goes_on():
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    return times


def authority() -> str | None:
    """Return the additional certificate authority, as PEM."""
    return Path(settings.ca).read_text() if settings.ca else None


def trust() -> Any:
    """Return the TLS settings of the compared libraries: the system's certificate authorities and the server's."""
    import ssl  # noqa: PLC0415

    return ssl.create_default_context(cadata=authority()) if settings.ca else True


def body() -> str:
    """Return the body of a guard's request, as each client's user would build it."""
    return json.dumps({"agent_id": "sdk", "user_id": None, "passport": None, "mode": "enforce", **ACTION})


def allowed(decision: Any) -> object:
    """Apply a decision as a guard does."""
    if decision["decision"] != "allow":
        raise ValueError(decision)
    return None


def executed(outcome: Any) -> None:
    """Make sure that the guard let the action run."""
    if not outcome["executed"]:
        raise ValueError(outcome)


def own() -> Any:
    """Return a client of this package."""
    import actpass  # noqa: PLC0415

    return actpass.ActPassClient(KEY, base_url=settings.url, ca=authority())


def by_guard() -> Callable[[], object]:
    """Return a guard of this package."""
    client = own()
    return lambda: executed(client.guard(**ACTION, execute_fn=lambda ctx: None))


def by_preflight() -> Callable[[], object]:
    """Return a preflight of this package."""
    client = own()
    return lambda: allowed(client.preflight(**ACTION))


def by_protect() -> Callable[[], object]:
    """Return a protected function of this package."""
    protected = own().protect(tool=ACTION["tool"], goal=ACTION["goal"], resource="stripe:charge:{charge}")(
        lambda charge: None
    )
    return lambda: protected("ch_123")


def by_published() -> Callable[[], object]:
    """Return a guard of the published client, which is loaded under another name."""
    spec = importlib.util.spec_from_file_location("actpass_published", settings.published / "actpass" / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError("actpass 1.1.3 is not installed")
    module = importlib.util.module_from_spec(spec)
    sys.modules["actpass_published"] = module
    spec.loader.exec_module(module)
    client = module.ActPassClient(KEY, base_url=settings.url)
    return lambda: allowed(client.guard(**ACTION, execute_fn=lambda ctx: None)["decision"])


def by_requests() -> Callable[[], object]:
    """Return a call by requests, a session for each thread."""
    import requests  # noqa: PLC0415

    local = threading.local()

    def call() -> object:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            # Otherwise it searches for a proxy and a netrc at each call.
            local.session.trust_env = False
            local.session.verify = settings.ca or True
        return allowed(local.session.post(settings.url + PATH, body(), headers=HEADERS).json())

    return call


def by_httpx() -> Callable[[], object]:
    """Return a call by httpx, one client for all threads."""
    import httpx  # noqa: PLC0415

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.Client(verify=trust(), trust_env=False, limits=limits, timeout=60)
    return lambda: allowed(client.post(settings.url + PATH, content=body(), headers=HEADERS).json())


def by_http_client() -> Callable[[], object]:
    """Return a call without any library, a kept connection for each thread."""
    import http.client  # noqa: PLC0415
    from urllib.parse import urlsplit  # noqa: PLC0415

    address = urlsplit(settings.url).netloc
    local = threading.local()

    def call() -> object:
        if not hasattr(local, "connection"):
            local.connection = (
                http.client.HTTPSConnection(address, context=trust())
                if settings.ca
                else http.client.HTTPConnection(address)
            )
        local.connection.request("POST", PATH, body(), HEADERS)
        return allowed(json.loads(local.connection.getresponse().read()))

    return call


def by_pycurl() -> Callable[[], object]:
    """Return a call by pycurl, a kept handle for each thread."""
    import io  # noqa: PLC0415

    import pycurl  # noqa: PLC0415

    local = threading.local()

    def call() -> object:
        if not hasattr(local, "handle"):
            local.handle = pycurl.Curl()
            local.handle.setopt(pycurl.URL, settings.url + PATH)
            local.handle.setopt(pycurl.NOSIGNAL, 1)
            local.handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in HEADERS.items()])
            if settings.ca:
                local.handle.setopt(pycurl.CAINFO, settings.ca)
        said = io.BytesIO()
        local.handle.setopt(pycurl.POSTFIELDS, body())
        local.handle.setopt(pycurl.WRITEDATA, said)
        local.handle.perform()
        return allowed(json.loads(said.getvalue()))

    return call


async def on_guard() -> Any:
    """Return a guard of this package, for an event loop."""
    import actpass  # noqa: PLC0415

    client = actpass.AsyncActPassClient(KEY, base_url=settings.url, ca=authority())

    async def call() -> None:
        executed(await client.guard(**ACTION, execute_fn=lambda ctx: None))

    return call


async def on_aiohttp() -> Any:
    """Return a call by aiohttp."""
    import aiohttp  # noqa: PLC0415

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=trust()))

    async def call() -> object:
        async with session.post(settings.url + PATH, data=body(), headers=HEADERS) as answer:
            return allowed(await answer.json())

    return call


async def on_httpx() -> Any:
    """Return a call by httpx, for an event loop."""
    import httpx  # noqa: PLC0415

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(verify=trust(), trust_env=False, limits=limits, timeout=60)

    async def call() -> object:
        return allowed((await client.post(settings.url + PATH, content=body(), headers=HEADERS)).json())

    return call


async def on_temporal() -> Any:
    """Return an empty call by Temporal's client, whose core is in Rust too. The URL is the gRPC server's address."""
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest  # noqa: PLC0415
    from temporalio.client import Client  # noqa: PLC0415

    client = await Client.connect(settings.url)
    request = GetSystemInfoRequest()

    async def call() -> None:
        await client.workflow_service.get_system_info(request)

    return call


async def on_restate() -> Any:
    """Return an invocation of an empty handler by Restate, whose core is in Rust too. It uses no network."""
    import restate  # noqa: PLC0415

    service = restate.Service("bench")

    @service.handler()
    async def empty(_: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    app = restate.app([service])
    body = invocation(json.dumps(ACTION["args"]).encode())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invoke/bench/empty",
        "query_string": b"",
        "headers": [(b"content-type", b"application/vnd.restate.invocation.v5")],
    }

    async def call() -> None:
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return requests.pop() if requests else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        if not any(b'"amount"' in message.get("body", b"") for message in sent):
            raise ValueError(sent)

    return call


def invocation(arguments: bytes) -> bytes:
    """Return the two messages with which Restate's server starts an invocation: start and input."""

    def member(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def message(kind: int, value: bytes) -> bytes:
        return kind.to_bytes(2, "big") + bytes(2) + len(value).to_bytes(4, "big") + value

    start = member(1, bytes(16)) + member(2, b"inv_1") + b"\x18\x01"
    return message(0x0000, start) + message(0x0400, member(14, member(1, arguments)))


BLOCKING: dict[str, Callable[[], Callable[[], object]]] = {
    "guard": by_guard,
    "preflight": by_preflight,
    "protect": by_protect,
    "published": by_published,
    "pycurl": by_pycurl,
    "http_client": by_http_client,
    "httpx": by_httpx,
    "requests": by_requests,
}
LOOPS: dict[str, tuple[str, Callable[[], Any]]] = {
    "async_guard": ("asyncio", on_guard),
    "aiohttp": ("asyncio", on_aiohttp),
    "httpx_async": ("asyncio", on_httpx),
    "uvloop_guard": ("uvloop", on_guard),
    "uvloop_aiohttp": ("uvloop", on_aiohttp),
    "temporal": ("asyncio", on_temporal),
    "restate": ("asyncio", on_restate),
}


def border() -> dict[str, float]:
    """Return the cost of a call into the native module, in nanoseconds."""
    import actpass  # noqa: PLC0415

    native = own()._native

    def arguments(size: int) -> dict[str, Any]:
        item = {"sku": "article-1", "count": 3, "note": "left at the door"}
        return {"amount": 4900, "currency": "usd", "items": [item] * (size // 60)}

    small, large = arguments(1_000), arguments(100_000)
    return {
        "empty_call": nanoseconds(lambda: native.circuit),
        "hash_payload_1_kb": nanoseconds(lambda: actpass.ActPassClient.hash_payload(small)),
        "hash_payload_100_kb": nanoseconds(lambda: actpass.ActPassClient.hash_payload(large)),
    }


def nanoseconds(call: Callable[[], object]) -> float:
    """Return the time of a call: the median of several batches, minus the time of the loop itself."""

    def batch(call: Callable[[], object], calls: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - start) / calls

    calls = 1
    while batch(call, calls) * calls < 1e6:
        calls *= 2
    median = sorted(batch(call, calls) for _ in range(21))[10]
    loop = sorted(batch(lambda: None, 10_000) for _ in range(21))[10]
    return max(median - loop, 0.0)


if __name__ == "__main__":
    main()
