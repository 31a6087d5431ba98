"""Fixtures, and the search for secrets in the output of the run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import WATCH, Gateway, Hostile, Published, binary, stop


class _NotingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        WATCH.note(record.getMessage(), repr(record.args))


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    root = logging.getLogger()
    root.addHandler(_NotingHandler())
    root.setLevel(logging.DEBUG)


def pytest_warning_recorded(warning_message: object) -> None:
    WATCH.note(str(warning_message))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record printed text, logged text and failure reports."""
    WATCH.note(*(text for _, text in report.sections))
    if report.failed:
        WATCH.note(report.longreprtext)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if WATCH.leaks():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    leaks = WATCH.leaks()
    terminalreporter.write_line(f"{WATCH.size()} characters shown by the run, {len(leaks)} leaks of secrets")
    for leak in leaks[:20]:
        terminalreporter.write_line(f"LEAK: {leak}", red=True)


@pytest.fixture(autouse=True, scope="session")
def _watched_errors() -> Iterator[None]:
    """Keep each error that the SDK creates in the run."""
    with pytest.MonkeyPatch.context() as patch:
        WATCH.watch_errors(patch)
        yield


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record the texts of the test's errors; clear the developer's ``ACTPASS_*`` settings."""
    for name in ("ACTPASS_API_KEY", "ACTPASS_API_BASE_URL", "ACTPASS_DPOP_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield
    WATCH.take_errors()


@pytest.fixture(scope="session")
def hostile() -> Iterator[Hostile]:
    """Give the hostile gateway."""
    hostile = Hostile(binary("ACTPASS_HOSTILE_GATEWAY"))
    yield hostile
    stop(hostile.process)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Give a real gateway with an empty ledger."""
    gateway = Gateway(binary("ACTPASS_GATEWAY"), tmp_path)
    yield gateway
    stop(gateway.process)
    WATCH.note(gateway.log.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Give client 1.1.3; ``ACTPASS_PUBLISHED_VENV`` is the path of its virtual environment."""
    given = os.environ.get("ACTPASS_PUBLISHED_VENV")
    venv = Path(given) if given else tmp_path_factory.mktemp("published")
    python = str(venv / "bin" / "python")
    if not given:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True)
        install = [python, "-m", "pip", "install", "--quiet", "actpass==1.1.3"]
        subprocess.run(install, check=True, capture_output=True)
    ask = "import importlib.metadata; print(importlib.metadata.version('actpass'))"
    version = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, check=False).stdout
    assert version.strip() == "1.1.3", f"{venv} holds actpass {version.strip() or 'not at all'}"
    return Published(python)
