"""Fixtures of the adapters' tests: gateways, an effect that counts, and the record of cases."""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from actpass import ActPassClient, AsyncActPassClient
from actpass.testing import RealGateway, ScriptedGateway

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
HOSTILE = ("refuses", "hangs", "500", "nonsense")
#: Seconds after which a test that waits fails.
WITHIN = 120.0
#: The case of each hostile gateway, as `cases.json` names it.
HOSTILE_CASES = {
    "refuses": "gateway refuses",
    "hangs": "gateway hangs",
    "500": "gateway answers 500",
    "nonsense": "gateway answers nonsense",
}


class Ran:
    """The tool's effect: call it with the executed arguments."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._lock = threading.Lock()

    def __call__(self, value: Any = None) -> None:
        with self._lock:
            self.values.append(value)

    @property
    def count(self) -> int:
        """Number of executions."""
        return len(self.values)


class Real(RealGateway):
    """The real gateway with the refund policy, whose approvals another process decides.

    A refund of 4900 is allowed, of 25000 needs approval, of 90000 is denied.
    """

    def pending(self) -> list[str]:
        """Return the ids of the pending approvals."""
        request = urllib.request.Request(
            f"{self.base_url}/api/v1/approvals?status=pending", headers={"authorization": "Bearer apdv_dev"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [one["id"] for one in json.load(answer)["approvals"]]

    def opened(self, count: int = 1) -> list[str]:
        """Wait until this many approvals are pending, and return their ids."""
        until = time.monotonic() + WITHIN
        while len(found := self.pending()) < count:
            assert time.monotonic() < until, f"{count} approvals expected, found {found}"
            time.sleep(0.02)
        return found

    def approve(self, approval: str) -> None:
        """Approve, from another process."""
        self._decide(approval, "approve")

    def reject(self, approval: str) -> None:
        """Reject, from another process."""
        self._decide(approval, "reject")

    def _decide(self, approval: str, verb: str) -> None:
        subprocess.run([sys.executable, "-I", str(HERE / "decide.py"), self.base_url, approval, verb], check=True)


class Hostile:
    """A gateway that decides nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.case = HOSTILE_CASES[kind]
        self._server: ThreadingHTTPServer | None = None
        self._release = threading.Event()
        #: Set when a preflight was received.
        self.asked = threading.Event()
        if kind == "refuses":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        else:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
            self._server.daemon_threads = True
            self._server.block_on_close = False
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
            port = self._server.server_address[1]
        self.base_url = f"http://127.0.0.1:{port}"

    def client(self, **settings: Any) -> ActPassClient:
        """Return a client without retries; its timeout is short if the gateway never answers."""
        return ActPassClient(**self._settings(settings))

    def async_client(self, **settings: Any) -> AsyncActPassClient:
        """Return an asynchronous client; see :meth:`client`."""
        return AsyncActPassClient(**self._settings(settings))

    def close(self) -> None:
        """Stop it."""
        self._release.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        timeout = 0.5 if self.kind == "hangs" else 10
        return {"api_key": "apk_test", "base_url": self.base_url, "timeout": timeout, "max_retries": 0, **settings}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        kind, release, asked = self.kind, self._release, self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                asked.set()
                if kind == "hangs":
                    release.wait()
                    return
                body = b'{"decision": "allow"}' if kind == "500" else b'{"decision": ["allow"]}'
                self.send_response(500 if kind == "500" else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler


def pytest_configure() -> None:
    """Remove settings that would reach the clients."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"ACTPASS_API_KEY", "ACTPASS_API_BASE_URL"}:
            del os.environ[name]


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    """Give the scripted gateway of the test kit."""
    with ScriptedGateway() as gateway:
        yield gateway


@pytest.fixture
def real_gateway(tmp_path: Path) -> Iterator[Real]:
    """Give the real gateway as a process, with an empty ledger."""
    program = os.environ.get("ACTPASS_GATEWAY", str(ROOT / "target" / "debug" / "actpass-gateway"))
    with contextlib.closing(Real(program, str(tmp_path))) as gateway:
        yield gateway


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> Iterator[Hostile]:
    """Give each gateway that decides nothing; `hostile.case` is the name of its case."""
    with contextlib.closing(Hostile(request.param)) as gateway:
        yield gateway


@pytest.fixture
def ran() -> Ran:
    """Give the tool's effect, which counts."""
    return Ran()


@pytest.fixture
def record_case() -> Callable[..., None]:
    """Give the function that records how often the tool of a case ran: `(framework, case, ran, variant="")`."""

    def record(framework: str, case: str, ran: int, variant: str = "") -> None:
        file = os.environ.get("ACTPASS_ADAPTER_CASES")
        if file:
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps({"framework": framework, "case": case, "variant": variant, "ran": ran}) + "\n")

    return record


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page in `docs/how-to`."""
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def executed(code: str, **names: Any) -> dict[str, Any]:
    """Execute a block of the documentation with these names, and return its names."""
    namespace = {"__name__": "documentation", **names}
    # The source is found by `inspect`, as that of a file is.
    file = f"<documentation {hash(code)}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), namespace)
    return namespace


@pytest.fixture
def documented(real_gateway: Real, monkeypatch: pytest.MonkeyPatch) -> Real:
    """Point the clients of the documentation to a real gateway, and return it."""
    for name, value in real_gateway.environment.items():
        monkeypatch.setenv(name, value)
    return real_gateway


def example(name: str) -> list[str]:
    """Run an example that approves its own refund, and return the lines that it prints."""
    program = os.environ.get("ACTPASS_GATEWAY", str(ROOT / "target" / "debug" / "actpass-gateway"))
    command = [sys.executable, str(ROOT / "examples" / "python" / name), program, "--approve"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return done.stdout.splitlines()
