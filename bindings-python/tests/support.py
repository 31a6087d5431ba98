"""Test support: secrets, clients, servers that misbehave or capture, child processes with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import warnings
from collections.abc import Coroutine, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, NoReturn, TypeVar

import actpass
import pytest
from actpass import ActionBlockedError, ActPassClient, ActPassError, AsyncActPassClient, Mode

T = TypeVar("T")

TESTS = Path(__file__).resolve().parent
#: Folder of the package under test, installed or not.
PACKAGE = Path(actpass.__file__).resolve().parents[1]
VECTORS = TESTS.parents[1] / "tests" / "vectors"

#: The secrets of the tests. Each ends in ``_secret`` and must never appear in output.
API_KEY = "apk_tests_secret"
PASSPORT = "eyJhbGciOiJFZERTQSJ9.passport_secret"
CREDENTIAL = "cred_vaulted_secret"
SIGNING_KEY = "signing_key_secret"
SECRETS = [API_KEY, PASSPORT, CREDENTIAL, SIGNING_KEY]

ACTION: dict[str, Any] = {
    "goal": "resolve_refund_request",
    "tool": "stripe.refund.create",
    "args": {"amount": 4900, "currency": "usd"},
    "resource": "stripe:charge:ch_123",
}
#: The explanation that the SDK fills in if the gateway sent an empty one.
EXPLAIN: dict[str, Any] = {"summary": "", "matched_rules": [], "next_steps": []}
ALLOW = {
    "decision": "allow",
    "reason_code": "refund.small_in_scope",
    "explain": EXPLAIN,
    "evidence_event_id": "ev_1",
}
#: ``ALLOW`` from a scripted gateway that returns the request's hash.
BOUND = {**ALLOW, "request_hash": "{{request_hash}}"}


def whole(decision: dict[str, Any]) -> dict[str, Any]:
    """Return a decision with the members that the SDK adds."""
    return {"reason_code": "unspecified", "explain": EXPLAIN, **decision}


MODES: tuple[Mode, ...] = ("enforce", "strict", "warn", "monitor")

#: A valid response for each call.
ANSWERS: dict[str, dict[str, Any]] = {
    "/api/v1/actions/preflight": BOUND,
    "/api/v1/passports/issue": {"token": "issued", "jwks_uri": "https://gate.example/jwks"},
    "/api/v1/passports/verify": {"valid": True, "errors": []},
    "/api/v1/passports/revoke": {"revoked": True},
    "/api/v1/evidence/events": {"event_id": "ev_2", "current_event_hash": "00"},
}

#: Every call that sends a request, with valid arguments.
CALLS: dict[str, Callable[[ActPassClient], Any]] = {
    "preflight": lambda client: client.preflight(passport=PASSPORT, **ACTION),
    "guard": lambda client: client.guard(execute_fn=lambda _: None, passport=PASSPORT, **ACTION),
    "authorize": lambda client: client.authorize(passport=PASSPORT, **ACTION),
    "issue_passport": lambda client: client.issue_passport("mcp://stripe", "refund", ["stripe.refund.create"]),
    "verify_passport": lambda client: client.verify_passport(PASSPORT, "mcp://stripe"),
    "revoke_passport": lambda client: client.revoke_passport("ap_1", "over"),
    "record_evidence": lambda client: client.record_evidence("refund.sent", "case_1"),
}


def request_hash(body: bytes) -> str:
    """Return the gateway's ``request_hash`` of ``body``, computed without the package under test."""
    canonical = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def answer(body: Any, **members: Any) -> dict[str, Any]:
    """Return a step of the hostile gateway that responds with ``body``."""
    return {"do": "respond", "json": body, **members}


def new_client(base_url: str, **settings: Any) -> ActPassClient:
    """Return a client without retries and with a timeout of 10 s."""
    settings = {"api_key": API_KEY, "agent_id": "tests", "timeout": 10, "max_retries": 0, **settings}
    return ActPassClient(base_url=base_url, **settings)


def new_async_client(base_url: str, **settings: Any) -> AsyncActPassClient:
    """Return an event-loop client with the same defaults."""
    settings = {"api_key": API_KEY, "agent_id": "tests", "timeout": 10, "max_retries": 0, **settings}
    return AsyncActPassClient(base_url=base_url, **settings)


class Callback:
    """A guarded function that records its calls."""

    def __init__(self, does: Callable[[Any], Any] | None = None) -> None:
        self.contexts: list[Any] = []
        self.result = object()
        self._does = does or (lambda _: self.result)

    def __call__(self, context: Any) -> Any:
        self.contexts.append(context)
        return self._does(context)

    @property
    def runs(self) -> int:
        return len(self.contexts)


def binary(variable: str) -> str:
    """Return the path of the program in ``variable``."""
    path = os.environ.get(variable, "")
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        pytest.fail(f"{variable} must be the path of the built program, found {path!r}", pytrace=False)
    return path


def stop(process: subprocess.Popen[Any]) -> None:
    """Terminate a child by its process id and reap it."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def run_loop(main: Coroutine[Any, Any, T], new_loop: Callable[[], Any] = asyncio.new_event_loop) -> T:
    """Run ``main`` in an event loop in debug mode; fail on a report of the loop, a warning or an unfinished task."""
    complaints: list[dict[str, Any]] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loop = new_loop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        try:
            asyncio.set_event_loop(loop)
            result = loop.run_until_complete(main)
            left = asyncio.all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
        gc.collect()
    assert complaints == []
    assert left == set()
    ours = [str(one.message) for one in warned if not issubclass(one.category, DeprecationWarning)]
    assert ours == []
    return result


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the body takes longer."""
    started = time.monotonic()
    yield
    elapsed = time.monotonic() - started
    assert elapsed < seconds, f"took {elapsed:.2f} s, expected at most {seconds} s"


class Hostile:
    """The hostile gateway, as one child process for the whole run."""

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()

    def tell(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            said: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "error" not in said, said["error"]
        return said

    @contextlib.contextmanager
    def play(self, *steps: dict[str, Any], **script: Any) -> Iterator[Played]:
        """Run a gateway with ``steps``, or with a complete script."""
        played = Played(self, self.tell(start={"steps": list(steps), **script}))
        try:
            yield played
        finally:
            self.tell(stop=played.id)


class Played:
    """One running gateway of a :class:`Hostile`."""

    def __init__(self, hostile: Hostile, started: dict[str, Any]) -> None:
        self.id: int = started["id"]
        self.base_url: str = started["base_url"]
        self.ca_pem: str | None = started["ca_pem"]
        self._hostile = hostile

    def seen(self) -> list[dict[str, Any]]:
        """Return the valid requests so far."""
        return [one for one in self._hostile.tell(seen=self.id)["seen"] if one["method"] != "?"]

    def has_seen(self, requests: int) -> Callable[[], bool]:
        """Return a condition that is true once the gateway has received ``requests`` requests."""
        return lambda: len(self.seen()) >= requests

    def close_connections(self) -> None:
        """Close the open connections and wait until they are closed."""
        self._hostile.tell(close=self.id)

    def release(self) -> None:
        """End the current and all later delays of the steps."""
        self._hostile.tell(release=self.id)

    def other_seen(self) -> list[dict[str, Any]]:
        other: list[dict[str, Any]] = self._hostile.tell(seen=self.id)["other_seen"]
        return other


class Gateway:
    """The real gateway, in its development mode."""

    def __init__(self, path: str, directory: Path) -> None:
        self.log = directory / "gateway.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [path, "dev", "--listen", "127.0.0.1:0", "--data", str(directory / "data.db")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline().strip()
        prefix = "listening on "
        if not first.startswith(prefix):
            stop(self.process)
            pytest.fail(f"the gateway's first line is {first!r}\n{self.log.read_text()}", pytrace=False)
        self.base_url = first[len(prefix) :]

    def client(self, **settings: Any) -> ActPassClient:
        return new_client(self.base_url, **{"api_key": "apk_dev", "agent_id": "support_agent", **settings})

    def get(self, path: str, *, operator: bool = False) -> Any:
        return self._ask(path, None, operator=operator)

    def post(self, path: str, body: Any, *, operator: bool = False) -> Any:
        return self._ask(path, json.dumps(body).encode(), operator=operator)

    def _ask(self, path: str, body: bytes | None, *, operator: bool) -> Any:
        key = "apdv_dev" if operator else "apk_dev"
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        request = urllib.request.Request(self.base_url + path, body, headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Captured:
    """One request: the header names in lower case, the body in bytes."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body


@contextlib.contextmanager
def capturing() -> Iterator[CapturingServer]:
    """Run a server in this process that sends a valid response to every call and keeps each request byte for byte."""
    server = CapturingServer()
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class CapturingServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CapturingHandler)
        self.captured: list[Captured] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self) -> list[Captured]:
        taken, self.captured = self.captured, []
        return taken


class _CapturingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: CapturingServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.captured.append(Captured(self.path, headers, body))
        # Only the hash of a strict request is computed; other requests may have no canonical form.
        hashed = request_hash(body) if b'"mode": "strict"' in body else ""
        said = (
            json.dumps(ANSWERS[self.path]).replace('"{{request_hash}}"', f'"{hashed}"' if hashed else "null").encode()
        )
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def echoing(*options: str) -> Iterator[str]:
    """Run ``echo_server.py`` as a child and give its URL."""
    command = [sys.executable, str(TESTS / "echo_server.py"), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        stop(process)


def run_python(
    code: str,
    *arguments: str,
    python: str = sys.executable,
    options: Sequence[str] = (),
    timeout: float = 60,
    cues: Sequence[Callable[[], bool]] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate interpreter, with the package and these helpers importable.

    Each time one of ``cues`` becomes true, the program gets one more line on its standard input.
    """
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}{os.pathsep}{TESTS}"}
    command = [python, *options, "-c", code, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            for cue in cues:
                wait_until(lambda: cue() or process.poll() is not None)  # noqa: B023
                process.stdin.write("go\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            out, err = process.communicate(timeout=timeout)
        except BrokenPipeError:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    WATCH.note(out, err)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Wait until ``condition`` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the condition is false after {timeout} s"
        time.sleep(0.005)


class Published:
    """The client 1.1.3 from the package index, in a separate interpreter."""

    def __init__(self, python: str) -> None:
        self.python = python

    def call(self, settings: dict[str, Any], calls: list[Any]) -> list[Any]:
        """Make ``(method, arguments)`` calls and return each result, or the class and text of its error."""
        done = subprocess.run(
            [self.python, "-I", str(TESTS / "published_driver.py")],
            input=repr((settings, calls)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        returned: list[Any] = json.loads(done.stdout)
        return returned


class Child:
    """A forked child that runs ``body`` and exits 0 if it returned. It is killed after 30 seconds."""

    LIMIT = 30

    def __init__(self, body: Callable[[], Any]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            self._run(body)

    def _run(self, body: Callable[[], Any]) -> NoReturn:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(self.LIMIT)
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def ended_well(self) -> None:
        """Wait until the child exits; fail if its exit code is not 0."""
        _, status = os.waitpid(self.pid, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        assert code != -signal.SIGALRM, f"the child hung for {self.LIMIT} s"
        assert code == 0, f"the child ended with {code}; its error is on stderr"


def together(count: int, body: Callable[[int], Any]) -> list[Any]:
    """Run ``body`` on ``count`` threads concurrently and return the results; the first error is raised."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(at: int) -> None:
        try:
            start.wait(10)
            results[at] = body(at)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread is still running"
    if errors:
        raise errors[0]
    return results


def everything_shown(value: Any) -> str:
    """Return every text of ``value`` that a program could print, including attributes and items."""
    shown: list[str] = []
    _show(value, shown, {}, 0)
    return "\n".join(shown)


def _show(value: Any, shown: list[str], known: dict[int, Any], depth: int) -> None:
    if id(value) in known or depth > 4:
        return
    known[id(value)] = value  # Kept alive, so that no other object reuses its id during the search.
    shown += [repr(value), str(value), format(value)]
    if isinstance(value, BaseException):
        shown.append("".join(traceback.format_exception(type(value), value, value.__traceback__)))
        for inner in (value.args, value.__cause__, value.__context__):
            _show(inner, shown, known, depth + 1)
    if isinstance(value, (str, bytes, int, float, type(None))):
        return
    if isinstance(value, dict):
        for item in value.items():
            _show(item, shown, known, depth + 1)
        return
    if isinstance(value, (list, tuple, set)):
        for item in value:
            _show(item, shown, known, depth + 1)
        return
    for name in dir(value):
        if not name.startswith("__") or name in {"__dict__", "__doc__"}:
            with contextlib.suppress(Exception):
                _show(getattr(value, name), shown, known, depth + 1)


class LeakWatch:
    """Collects the output of a test run and finds secrets in it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._errors: list[ActPassError] = []

    def note(self, *texts: str | None) -> None:
        """Keep texts, and append them to the file in ``ACTPASS_TEST_LOG``."""
        kept = [text for text in texts if text]
        self._texts += kept
        path = os.environ.get("ACTPASS_TEST_LOG")
        if path and kept:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as log:
                log.writelines(text + "\n" for text in kept)

    def watch_errors(self, patch: pytest.MonkeyPatch) -> None:
        """Keep every error that the SDK creates from now on."""
        original = ActPassError.__init__

        @functools.wraps(original)
        def remember(error: ActPassError, *args: Any, **kwargs: Any) -> None:
            original(error, *args, **kwargs)
            self._errors.append(error)

        patch.setattr(ActPassError, "__init__", remember)

    def take_errors(self) -> None:
        """Record the texts of the kept errors, and drop the errors."""
        errors, self._errors = self._errors, []
        for error in errors:
            trace = traceback.format_exception(type(error), error, error.__traceback__)
            members = {"args": error.args, **vars(error)}
            if isinstance(error, ActionBlockedError):
                # The decision is the gateway's text, which may contain a secret.
                del members["args"], members["decision"]
            self.note(str(error), repr(error), repr(members), "".join(trace))

    def size(self) -> int:
        return sum(len(text) for text in self._texts)

    def leaks(self, secrets: list[str] | None = None) -> list[str]:
        """Return a line for each secret in each text."""
        found = []
        for secret in all_secrets() if secrets is None else secrets:
            for text in self._texts:
                at = text.find(secret)
                if at >= 0:
                    found.append(f"{secret} in …{text[max(0, at - 120) : at + 120]!r}…")
        return found


@functools.cache
def all_secrets() -> list[str]:
    """Return the secrets of the tests and of the vectors."""
    words = {"apk_vector_secret"}
    for path in VECTORS.glob("*/*.json"):
        words.update(re.findall(r"\b[A-Za-z0-9]\w*_secret\b", path.read_text(encoding="utf-8")))
    return SECRETS + sorted(words)


WATCH = LeakWatch()
