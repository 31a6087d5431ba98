"""What the Python clients add to a call, beside 1.1.3 and the libraries of the field, in interleaved rounds.

Usage: python.py BENCH, the path of the program ``actpass-benches``, whose fixed-answer server they all ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

import actpass

ROUNDS, CALLS = 7, 500
#: How many calls are under way at once, for the clients of event loops.
AT_ONCE = (1, 16, 64)
PEERS = Path("target/peers")
LIBRARIES = ("aiohttp", "httpx", "pycurl", "requests", "uvloop")
ACTION: dict[str, Any] = {
    "goal": "resolve_refund_request",
    "tool": "stripe.refund.create",
    "args": {"amount": 4900, "currency": "usd"},
    "resource": "stripe:charge:ch_123",
}
PATH = "/api/v1/actions/preflight"
HEADERS = {"authorization": "Bearer apk_bench", "content-type": "application/json"}


def main(bench: str) -> None:
    """Measure and print the tables."""
    fetch_peers()
    with subprocess.Popen([bench, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        blocking(url)
        event_loops(url)
        assert server.stdin is not None
        server.stdin.close()
    imports()


def fetch_peers() -> None:
    """Install what is measured beside this package; the published client, which has its name, apart from the rest."""
    for folder, packages in ((PEERS, ("actpass==1.1.3",)), (PEERS / "field", LIBRARIES)):
        if not (folder / "done").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder), *packages]
            subprocess.run(pip, check=True)
            (folder / "done").touch()
    sys.path.append(str(PEERS / "field"))


def blocking(url: str) -> None:
    """Measure one call at a time on the calling thread."""
    import httpx  # noqa: PLC0415
    import requests  # noqa: PLC0415

    ours = actpass.ActPassClient("apk_bench", base_url=url)
    published = load_published().ActPassClient("apk_bench", base_url=url)
    by_hand = http.client.HTTPConnection(urlsplit(url).netloc)
    session, modern = requests.Session(), httpx.Client()
    session.trust_env = False
    refund = ours.protect(tool=ACTION["tool"], goal=ACTION["goal"], resource="stripe:charge:{charge}")(
        lambda charge: None
    )
    contenders: dict[str, Callable[[], object]] = {
        "actpass 1.1.3, guard": lambda: published.guard(**ACTION, execute_fn=lambda ctx: None),
        "requests, a session": lambda: allowed(session.post(url + PATH, body(), headers=HEADERS).json()),
        "httpx, a client": lambda: allowed(modern.post(url + PATH, content=body(), headers=HEADERS).json()),
        "http.client kept alive, by hand": lambda: ask_by_hand(by_hand),
        "pycurl kept alive, by hand": by_curl(url),
        "this package, preflight": lambda: ours.preflight(**ACTION),
        "this package, guard": lambda: ours.guard(**ACTION, execute_fn=lambda ctx: None),
        "this package, protect": lambda: refund("ch_123"),
    }
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for round_number in range(ROUNDS + 1):
        for name, call in contenders.items():
            percentiles = measure(call)
            if round_number:  # The first round warms up.
                rounds[name].append(percentiles)
    report("one at a time, blocking", "actpass 1.1.3, guard", rounds)
    by_hand.close()


def event_loops(url: str) -> None:
    """Measure the clients of event loops, so many calls at once, on asyncio and on uvloop."""
    import aiohttp  # noqa: PLC0415
    import httpx  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    @contextlib.asynccontextmanager
    async def contenders() -> Any:
        connector = aiohttp.TCPConnector(limit=0)
        limits = httpx.Limits(max_connections=None)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            httpx.AsyncClient(limits=limits, timeout=60) as modern,
            actpass.AsyncActPassClient("apk_bench", base_url=url) as ours,
        ):

            async def by_aiohttp() -> object:
                async with session.post(url + PATH, data=body(), headers=HEADERS) as answer:
                    return allowed(await answer.json())

            async def by_httpx() -> object:
                return allowed((await modern.post(url + PATH, content=body(), headers=HEADERS)).json())

            yield {
                "aiohttp, a session": by_aiohttp,
                "httpx, a client": by_httpx,
                "this package, preflight": lambda: ours.preflight(**ACTION),
                "this package, guard": lambda: ours.guard(**ACTION, execute_fn=lambda ctx: None),
            }

    async def run(at_once: int) -> None:
        async with contenders() as callers:
            rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in callers}
            rates: dict[str, list[float]] = {name: [] for name in callers}
            for round_number in range(ROUNDS + 1):
                for name, call in callers.items():
                    times, rate = await measure_loop(call, at_once)
                    if round_number:
                        rounds[name].append(times)
                        rates[name].append(rate)
            loop = type(asyncio.get_running_loop()).__module__.split(".")[0]
            report(f"{at_once} at once, {loop}", "aiohttp, a session", rounds, rates)

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        for at_once in AT_ONCE:
            loop = new_loop()
            loop.run_until_complete(run(at_once))
            loop.close()


async def measure_loop(call: Callable[[], Awaitable[object]], at_once: int) -> tuple[tuple[float, float], float]:
    """Return the 50th and 99th percentile in microseconds, and the calls a second."""
    times: list[float] = []

    async def work(count: int) -> None:
        for _ in range(count):
            start = time.perf_counter_ns()
            await call()
            times.append((time.perf_counter_ns() - start) / 1e3)

    began = time.perf_counter()
    await asyncio.gather(*[work(max(CALLS // at_once, 4)) for _ in range(at_once)])
    rate = len(times) / (time.perf_counter() - began)
    times.sort()
    return (times[len(times) // 2], times[len(times) * 99 // 100]), rate


def imports() -> None:
    """Measure what importing costs, and how much is installed."""
    print(f"\n{'import, fresh interpreter':<34} {'ms':>8} {'modules':>8} {'MB installed, with what it needs':>34}")
    where = {
        "actpass": Path(actpass.__file__).parents[1],
        "actpass 1.1.3": PEERS,
        **dict.fromkeys(("requests", "httpx", "aiohttp"), PEERS / "field"),
    }
    for name, folder in where.items():
        code = (
            f"import sys; sys.path.insert(0, {str(folder)!r}); import time; before = len(sys.modules); "
            f"start = time.perf_counter(); import {name.split()[0]}; "
            "print(1000 * (time.perf_counter() - start), len(sys.modules) - before)"
        )
        runs = []
        for _ in range(15):
            done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
            runs.append([float(word) for word in done.stdout.split()])
        took = statistics.median(run[0] for run in runs)
        print(f"{name:<34} {took:>8.1f} {runs[0][1]:>8.0f} {installed(name, folder):>34.1f}")


def installed(name: str, folder: Path) -> float:
    """Return the size in MB of a package and of what it needs, without what is compiled on the way."""
    needs = {
        "requests": ("requests", "urllib3", "idna", "certifi", "charset_normalizer"),
        "httpx": ("httpx", "httpcore", "h11", "anyio", "idna", "certifi"),
        "aiohttp": (
            "aiohttp",
            "aiosignal",
            "attr",
            "attrs",
            "frozenlist",
            "multidict",
            "propcache",
            "yarl",
            "idna",
            "aiohappyeyeballs",
        ),
    }.get(name, ("actpass",))
    files = [file for one in needs for file in (folder / one).rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return sum(file.stat().st_size for file in files) / 1e6


def body() -> str:
    """Return what a guard sends, written as each client's user would."""
    return json.dumps({"agent_id": "sdk", "user_id": None, "passport": None, "mode": "enforce", **ACTION})


def allowed(decision: Any) -> object:
    """Do what a guard does with an answer."""
    return None if decision["decision"] == "allow" else decision


def by_curl(url: str) -> Callable[[], object]:
    """Return a call by a handle of pycurl that is kept."""
    import pycurl  # noqa: PLC0415

    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url + PATH)
    handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in HEADERS.items()])

    def ask() -> object:
        said = io.BytesIO()
        handle.setopt(pycurl.POSTFIELDS, body())
        handle.setopt(pycurl.WRITEDATA, said)
        handle.perform()
        return allowed(json.loads(said.getvalue()))

    return ask


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return the 50th and 99th percentile in microseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    times.sort()
    return times[CALLS // 2], times[CALLS * 99 // 100]


def report(
    title: str,
    base: str,
    rounds: dict[str, list[tuple[float, float]]],
    rates: dict[str, list[float]] | None = None,
) -> None:
    """Print medians over the rounds, and ratios to ``base``."""
    against = statistics.median(p50 for p50, _ in rounds[base])
    print(
        f"\nPython {sys.version.split()[0]}, {title}; {CALLS} calls a round, {ROUNDS} rounds interleaved; microseconds"
    )
    ratio = "x " + base.partition(",")[0]
    print(f"{'':<34} {'p50':>8} {'p99':>8} {ratio:>16} {'p50 min..max':>16} {'calls/s':>8}")
    for name, figures in rounds.items():
        p50s = [p50 for p50, _ in figures]
        p50, p99 = statistics.median(p50s), statistics.median(p99 for _, p99 in figures)
        spread = f"{min(p50s):.0f}..{max(p50s):.0f}"
        rate = f"{statistics.median(rates[name]):>8.0f}" if rates else ""
        print(f"{name:<34} {p50:>8.1f} {p99:>8.1f} {p50 / against:>16.2f} {spread:>16} {rate}")


def ask_by_hand(connection: http.client.HTTPConnection) -> object:
    """Do what a guard does, without any library."""
    connection.request("POST", PATH, body(), HEADERS)
    return allowed(json.loads(connection.getresponse().read()))


def load_published() -> Any:
    """Load the published client under another name."""
    spec = importlib.util.spec_from_file_location("actpass_published", PEERS / "actpass" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["actpass_published"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1])
