"""Shared code of the environments: the gateway, a folder per environment, and the result of a run.

An environment is a way to package or run a program that uses ActPass. Each runs the same program, which makes two
guarded refunds against a real gateway: one is allowed and runs, the other is denied. An environment works without
changes, works with one documented line, or fails with an error that names the fix. Any other result is a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target" / "environments"
SOURCES = Path(__file__).resolve().parent
GATEWAY = ROOT / "target" / "debug" / "actpass-gateway"
#: The output of the program if only the allowed refund ran.
EXPECTED = '{"result":4900,"denied":"refund.over_limit","ran":[4900]}'
#: The timeout of one command in seconds; generous, because builds are slow on a busy machine.
LONGEST = 1800


LOCK = threading.RLock()
Given = ParamSpec("Given")
Made = TypeVar("Made")


def once(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Cache the result of a function; concurrent callers wait for it."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def locked(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with LOCK:
            return cached(*args, **kwargs)

    return locked


class FailedError(Exception):
    """A command of an environment failed; the message is its output."""


@dataclass
class Box:
    """The folder of one attempt, and its commands."""

    folder: Path
    base_url: str
    #: Whether the documented line is applied.
    line: bool
    #: Folders outside the tree, where no packages are installed above.
    elsewhere: list[Path] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a command, without this machine's settings for Node, Python and ActPass."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"ACTPASS_|NODE_|NPM_CONFIG_|npm_|PYTHON|MAKE|MFLAGS|VIRTUAL_ENV", name)
        }
        return {
            **kept,
            "ACTPASS_API_KEY": "apk_dev",
            "ACTPASS_API_BASE_URL": self.base_url,
            "NEXT_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
            **more,
        }

    def start(self, *command: str | Path, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        """Start a command in its own session, with its output in one pipe."""
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd or self.folder,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, *command: str | Path, cwd: Path | None = None, **env: str) -> str:
        """Run a command and return its output. Raises :class:`FailedError` if it fails."""
        process = self.start(*command, cwd=cwd, **env)
        try:
            output, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise FailedError(f"{output}\n{command[0]} did not end within {LONGEST} s") from None
        if process.returncode != 0:
            raise FailedError(f"{output}\n{command[0]} ended with {process.returncode}")
        return output

    @contextlib.contextmanager
    def serving(self, *command: str | Path, ready: str, cwd: Path | None = None, **env: str) -> Iterator[re.Match[str]]:
        """Run a server until the block ends; `ready` matches the line with its address."""
        process = self.start(*command, cwd=cwd, **env)
        assert process.stdout
        said = ""
        try:
            for line in process.stdout:
                said += line
                if found := re.search(ready, line):
                    break
            else:
                raise FailedError(f"{said}\n{command[0]} ended before it listened")
            try:
                yield found
            except FailedError as failed:
                os.killpg(process.pid, signal.SIGTERM)
                raise FailedError(f"{failed}\n{said}{process.stdout.read()}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()

    def away(self, *paths: str) -> Path:
        """Copy these paths to a folder without installed packages above it, like a deployment, and return it."""
        folder = Path(tempfile.mkdtemp(prefix="actpass-environment-"))
        self.elsewhere.append(folder)
        for path in paths:
            source = self.folder / path
            if source.is_dir():
                shutil.copytree(source, folder / Path(path).name, symlinks=True)
            else:
                shutil.copy2(source, folder)
        return folder

    def write(self, name: str, text: str) -> Path:
        """Write a file of the environment."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, name: str) -> str:
        """Return the text of a file."""
        return (self.folder / name).read_text(encoding="utf-8")

    def close(self) -> None:
        """Remove files outside the tree."""
        for folder in self.elsewhere:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Environment:
    """A row of the table."""

    package: str
    name: str
    #: Runs the program and returns its output.
    run: Callable[[Box], str]
    #: Whether `make test` runs the environment; `make test-environments` runs all.
    light: bool = False
    #: The documented line with which the environment works, in Markdown.
    line: str = ""
    #: Part of the output without the line, or of every attempt if the environment is unsupported.
    error: str = ""
    #: The tool and its pinned version, as in the table.
    version: str = ""
    #: Further text of the row.
    note: str = ""


@dataclass(frozen=True)
class Row:
    """The result of an environment."""

    environment: Environment
    cell: str
    problem: str = ""

    def markdown(self) -> str:
        """Return the line of the table."""
        environment = self.environment
        detail = {
            "works with one line": f"{environment.line}; without it: {quoted(environment.error)}",
            "refused": quoted(environment.error),
        }.get(self.cell, "")
        if environment.note:
            detail = f"{detail}. {environment.note}" if detail else environment.note
        return f"| {environment.name} | {environment.version} | {self.cell} | {detail} |"


def quoted(text: str) -> str:
    return f"`{text}`"


def play(environment: Environment, make_box: Callable[[Environment, bool], Box]) -> Row:
    """Run an environment without and, if defined, with its documented line."""
    worked, text = attempt(environment, make_box, line=False)
    if worked and (environment.line or environment.error):
        return Row(environment, "", f"works without {environment.line or 'an error'}: update the row")
    if worked:
        return Row(environment, "works")
    if not environment.error or environment.error not in plain(text):
        return Row(environment, "", f"expected {environment.error or EXPECTED}:\n{text}")
    if not environment.line:
        return Row(environment, "refused")
    worked, text = attempt(environment, make_box, line=True)
    return Row(environment, "works with one line" if worked else "", f"with {environment.line}:\n{text}" * (not worked))


def attempt(environment: Environment, make_box: Callable[[Environment, bool], Box], *, line: bool) -> tuple[bool, str]:
    box = make_box(environment, line)
    try:
        text = environment.run(box)
    except FailedError as failed:
        return False, str(failed)
    finally:
        box.close()
    return EXPECTED in text.replace('": ', '":').replace(", ", ","), text


def plain(text: str) -> str:
    """Return the text without colours and line breaks, to search for messages."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


@contextlib.contextmanager
def gateway() -> Iterator[str]:
    """Run the real gateway in development mode and yield its base URL."""
    with tempfile.TemporaryDirectory() as folder:
        command = [GATEWAY, "dev", "--listen", "127.0.0.1:0", "--data", f"{folder}/data.db"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.fullmatch(r"listening on (\S+)", line.strip())
            if not found:
                sys.exit(f"gateway: expected its address, found {line!r}")
            yield found[1]
        finally:
            process.terminate()
            process.wait()
