"""What the Python client adds to a call, beside the published 1.1.3 and the standard library, in interleaved rounds.

Usage: python.py BENCH, the path of the program ``actpass-benches``, whose fixed-answer server they all ask.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

import actpass

ROUNDS, CALLS = 7, 500
ACTION: dict[str, Any] = {
    "goal": "resolve_refund_request",
    "tool": "stripe.refund.create",
    "args": {"amount": 4900, "currency": "usd"},
    "resource": "stripe:charge:ch_123",
}


def main(bench: str) -> None:
    """Measure and print a table."""
    with subprocess.Popen([bench, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        ours = actpass.ActPassClient("apk_bench", base_url=url)
        published = load_published().ActPassClient("apk_bench", base_url=url)
        by_hand = http.client.HTTPConnection(urlsplit(url).netloc)
        contenders: dict[str, Callable[[], object]] = {
            "actpass 1.1.3, guard": lambda: published.guard(**ACTION, execute_fn=lambda ctx: None),
            "http.client kept alive, by hand": lambda: ask_by_hand(by_hand),
            "this package, preflight": lambda: ours.preflight(**ACTION),
            "this package, guard": lambda: ours.guard(**ACTION, execute_fn=lambda ctx: None),
        }
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for round_number in range(ROUNDS + 1):
            for name, call in contenders.items():
                percentiles = measure(call)
                if round_number:  # The first round warms up.
                    rounds[name].append(percentiles)
        report(rounds)
        by_hand.close()


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return the 50th and 99th percentile in microseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    times.sort()
    return times[CALLS // 2], times[CALLS * 99 // 100]


def report(rounds: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians over the rounds, and ratios to the published client."""
    base = statistics.median(p50 for p50, _ in rounds["actpass 1.1.3, guard"])
    print(f"\nPython {sys.version.split()[0]}, {CALLS} calls a round, {ROUNDS} rounds interleaved; microseconds")
    print(f"{'':<34} {'p50':>8} {'p99':>8} {'x 1.1.3':>8} {'p50 min..max':>16}")
    for name, figures in rounds.items():
        p50s = [p50 for p50, _ in figures]
        p50, p99 = statistics.median(p50s), statistics.median(p99 for _, p99 in figures)
        spread = f"{min(p50s):.0f}..{max(p50s):.0f}"
        print(f"{name:<34} {p50:>8.1f} {p99:>8.1f} {p50 / base:>8.2f} {spread:>16}")


def ask_by_hand(connection: http.client.HTTPConnection) -> object:
    """Do what a guard does, without any library."""
    body = json.dumps({"agent_id": "sdk", "user_id": None, "passport": None, "mode": "enforce", **ACTION})
    headers = {"authorization": "Bearer apk_bench", "content-type": "application/json"}
    connection.request("POST", "/api/v1/actions/preflight", body, headers)
    decision = json.loads(connection.getresponse().read())
    return None if decision["decision"] == "allow" else decision


def load_published() -> Any:
    """Load the published client, which has our package's name, under another one."""
    folder = Path("target/peers/actpass")
    if not folder.exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            "target/peers",
            "actpass==1.1.3",
        ]
        subprocess.run(pip, check=True)
    spec = importlib.util.spec_from_file_location("actpass_published", folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["actpass_published"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1])
