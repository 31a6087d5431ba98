"""Stop 64 clients in three languages over two gateways of one PostgreSQL database, under load, and count.

Usage: run.py GATEWAY RUST_WORKER [--node NODE_PACKAGE] [--rounds N]: the program ``actpass-gateway``, the program
``halt_worker`` (an example of ``actpass-core``), and the folder of the built Node package; without it, Rust makes the
calls of Node. Python runs this program and the Python clients, and needs the package ``actpass``. Without PostgreSQL's
programs it is skipped, unless CI=true. Stops the tenant N times (1), and a last time while one gateway is cut off from
the database. Prints the numbers, and exits with 1 if a line is wrong:

- no client starts a function under an ``allow`` that is not in the ledger before the stop;
- every client's long function is signalled;
- every client confirms in the ledger, with 0 functions in flight at the end;
- the ledger has no ``allow`` between a stop and its lifting, also by ``evidence verify``;
- clients of the gateway that is cut off are refused until it is connected, then like the others;
- after each lifting, every client runs functions again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pwd
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
CLIENTS = 64
OPERATOR = "apdv_load"
#: Reasons of the guard if its gateway, or that gateway's database, cannot be reached.
UNREACHED = ("actpass.gateway_error", "actpass.timeout", "actpass.unreachable")
POLICY = {
    "id": "load",
    "version": "1",
    "rules": [
        {
            "name": "steps",
            "when": [{"path": "tool", "operator": "==", "value": "load.step"}],
            "decision": "allow",
            "reason": "load.step",
        }
    ],
}


class Clients:
    """The workers and their events."""

    def __init__(self, commands: list[list[str]]) -> None:
        """Start the workers."""
        self.events: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
        ]
        self._readers = [threading.Thread(target=self._read, args=(worker,)) for worker in self._workers]
        for reader in self._readers:
            reader.start()

    def _read(self, worker: subprocess.Popen[str]) -> None:
        for line in worker.stdout or ():
            event = json.loads(line)
            with self._lock:
                self.events.append(event)

    def having(self, *names: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the events of these names after a time in milliseconds since 1970."""
        with self._lock:
            return [one for one in self.events if one["event"] in names and one["ms"] > since]

    def of(self, *names: str, since: float) -> set[int]:
        """Return the clients that have such an event."""
        return {one["client"] for one in self.having(*names, since=since)}

    def end(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in self._workers:
            try:
                worker.wait(90)
            except subprocess.TimeoutExpired:
                worker.kill()
        for reader in self._readers:
            reader.join()


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("postgres")
    return found[-1] if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server with default durability; yield the URL of its database."""
    programs = postgres_programs() or sys.exit("no PostgreSQL")
    user = None
    if os.getuid() == 0:
        user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
        shutil.chown(folder, user)
    password = folder / "password"
    password.write_text("load_password")
    if user:
        shutil.chown(password, user)
    data = folder / "data"
    initialize = [
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "load",
        "-A",
        "scram-sha-256",
        f"--pwfile={password}",
        "-E",
        "UTF8",
    ]
    subprocess.run(initialize, check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder)
    port = free_port()
    options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    log = (folder / "postgres.log").open("wb")
    server = subprocess.Popen(
        [str(programs / "postgres"), "-D", str(data), *options], user=user, stderr=log, cwd=folder
    )
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL does not start")
        yield f"postgres://load:load_password@127.0.0.1:{port}/postgres?sslmode=disable"
    finally:
        server.terminate()
        server.wait(60)


class Link:
    """A TCP relay to a port, which can be cut."""

    def __init__(self, port: int) -> None:
        """Start the relay."""
        self._target = port
        self._lock = threading.Lock()
        self._is_up = True
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with self._lock:
                if not self._is_up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(one)

    def cut(self) -> None:
        """End all connections, and each new one."""
        with self._lock:
            self._is_up = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        """Relay new connections again."""
        with self._lock:
            self._is_up = True


@contextlib.contextmanager
def gateways(program: str, folder: Path, database_urls: list[str]) -> Iterator[list[str]]:
    """Run a gateway of one database for each of its URLs; yield the URLs of the gateways."""
    (folder / "policy.json").write_text(json.dumps(POLICY))
    master_key = secrets.token_hex(32)
    running: list[subprocess.Popen[str]] = []
    urls = []
    try:
        (folder / "gateway.toml").write_text(configuration())
        for name, database_url in enumerate(database_urls):
            environment = {**os.environ, "ACTPASS_DATABASE_URL": database_url, "ACTPASS_MASTER_KEY": master_key}
            gateway = subprocess.Popen(
                [program, "serve", "--config", "gateway.toml"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=(folder / f"gateway-{name}.log").open("wb"),
                text=True,
                cwd=folder,
            )
            running.append(gateway)
            line = gateway.stdout.readline() if gateway.stdout else ""
            if not line.startswith("listening on "):
                sys.exit(f"gateway {name} did not start: {line!r} {(folder / f'gateway-{name}.log').read_text()}")
            urls.append(line.split()[-1])
        yield urls
    finally:
        for gateway in running:
            gateway.terminate()
            gateway.wait(60)


def configuration() -> str:
    """Return the configuration of a gateway."""

    def key(name: str, secret: str, role: str) -> str:
        hashed = hashlib.sha256(secret.encode()).hexdigest()
        return f'[[keys]]\nname = "{name}"\nhash = "sha256:{hashed}"\ntenant = "load"\nrole = "{role}"\n'

    head = 'listen = "127.0.0.1:0"\nissuer = "http://127.0.0.1"\n'
    limits = "[limits]\nconnections_per_address = 1000\n"
    tenant = '[[tenants]]\nid = "load"\npolicy = "policy.json"\n'
    return head + limits + tenant + key("load", "apk_load", "agent") + key("person", OPERATOR, "operator")


def operate(url: str, method: str, path: str, body: Any = None) -> Any:
    """Send a request with the operator's key."""
    headers = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, sent, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def ledger(program: str, folder: Path, database_url: str) -> tuple[list[dict[str, Any]], str]:
    """Return all events of the chain of decisions, in order, and the result of ``evidence verify``."""
    environment = {**os.environ, "ACTPASS_DATABASE_URL": database_url}
    chain = ["decisions", "--config", "gateway.toml", "--tenant", "load"]
    run = {"cwd": folder, "env": environment, "stderr": subprocess.PIPE, "text": True}
    with (folder / "export.jsonl").open("w") as exported:
        subprocess.run([program, "evidence", "export", *chain], stdout=exported, check=True, **run)  # type: ignore[call-overload]
    lines = (folder / "export.jsonl").read_text().splitlines()
    verify = [program, "evidence", "verify", "export.jsonl"]
    verified = subprocess.run(verify, stdout=subprocess.PIPE, check=False, **run)  # type: ignore[call-overload]
    events = [event for event in map(json.loads, lines) if "event_type" in event]
    return events, verified.stdout + verified.stderr


def confirmations(url: str, epoch: int) -> dict[str, list[int]]:
    """Return the functions in flight that each agent confirmed for an epoch, in order."""
    found: dict[str, list[int]] = {}
    before = ""
    while True:
        page = operate(url, "GET", f"/api/v1/halts?status=all&limit=1000{before}")
        for one in page["confirmations"]:
            if one["halt_epoch"] == epoch:
                found.setdefault(one["client"]["agent_id"], []).insert(0, one["in_flight"])
        if page.get("confirmations_next") is None:
            return found
        before = f"&confirmations_before={page['confirmations_next']}"


def wait_for(condition: Callable[[], bool], problem: str, seconds: float = 240) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            sys.exit(problem)
        time.sleep(0.1)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Stop:
    """One stop and its lifting; times are in milliseconds since 1970."""

    id: str
    epoch: int
    is_cut: bool
    called: float
    answered: float
    connected: float = 0.0
    lifted: float = 0.0


def now() -> float:
    """Return the time in milliseconds since 1970."""
    return time.time() * 1e3


def stop_all(clients: Clients, urls: list[str], link: Link, lifted: float, is_cut: bool) -> Stop:
    """Stop all clients once they run after the last lifting, and lift the stop."""
    everyone = set(range(CLIENTS))
    cut_off = {client for client in everyone if is_cut and client % len(urls) == 1}

    def all_have(*names: str, since: float, of: set[int] = everyone) -> Callable[[], bool]:
        return lambda: clients.of(*names, since=since) >= of

    wait_for(all_have("running", since=lifted), "not every client runs a long function")
    wait_for(all_have("ran", since=lifted), "not every client runs short functions")
    # Longer than the time after which a client watches.
    time.sleep(3)
    if is_cut:
        link.cut()
    called = now()
    halt = operate(urls[0], "POST", "/api/v1/halts", {"scope": "tenant", "reason": "load test"})
    done = Stop(halt["id"], halt["halt_epoch"], is_cut, called, now())
    if cut_off:
        connected = everyone - cut_off
        wait_for(all_have("told", since=called, of=connected), "not every connected function is signalled")
        wait_for(all_have("halted", since=done.answered, of=connected), "not every connected client is denied")
        wait_for(all_have(*UNREACHED, since=done.answered, of=cut_off), "not every client that is cut off is refused")
        done.connected = now()
        link.connect()
    wait_for(all_have("told", since=called), "not every function is signalled")
    wait_for(all_have("halted", since=done.answered), "not every client is denied")

    def confirmed() -> bool:
        found = confirmations(urls[1], done.epoch)
        return len(found) == CLIENTS and all(sent[-1] == 0 for sent in found.values())

    wait_for(confirmed, "not every client confirms")
    done.lifted = now()
    operate(urls[1], "DELETE", f"/api/v1/halts/{done.id}", {"reason": "load test"})
    return done


class Report:
    """The numbers, and those that are wrong."""

    def __init__(self) -> None:
        """Start without numbers."""
        self.wrong: list[str] = []

    def add(self, what: str, value: object) -> None:
        """Print a line of the table."""
        print(f"| {what} | {value} |")

    def must(self, what: str, count: int, expected: int) -> None:
        """Add a number that must be as expected."""
        self.add(what, count)
        if count != expected:
            self.wrong.append(f"{what}: {count}, expected {expected}")

    def times(self, what: str, found: list[float]) -> None:
        """Add times in milliseconds."""
        if len(found) == 1:
            self.add(what, f"{found[0]:.0f} ms")
        elif found:
            self.add(what, f"median {statistics.median(found):.0f} ms, last {max(found):.0f} ms")


def confirmed_in(events: list[dict[str, Any]], epoch: int) -> dict[str, int]:
    """Return the last number of functions in flight that each agent confirmed for an epoch."""
    found = [one for one in events if one["event_type"] == "halt.acknowledged"]
    return {one["agent_id"]: one["metadata"]["in_flight"] for one in found if one["metadata"]["halt_epoch"] == epoch}


def check(report: Report, stops: list[Stop], clients: Clients, events: list[dict[str, Any]]) -> None:
    """Report the numbers of some stops."""
    place = {(event["event_type"], (event.get("metadata") or {}).get("halt_id")): at for at, event in enumerate(events)}
    allowed = {event["event_id"]: at for at, event in enumerate(events) if event.get("decision") == "allow"}
    during = unrecorded = late = told = confirmed = ended = 0
    last: list[float] = []
    signalled: list[float] = []
    reconnected: list[float] = []
    resumed: list[float] = []
    for stop in stops:
        start, end = place["halt.started", stop.id], place["halt.lifted", stop.id]
        during += sum(start < at < end for at in allowed.values())
        begun = [one for one in clients.having("ran", "running", since=stop.called) if one["ms"] < stop.lifted]
        unrecorded += sum(allowed.get(one["evidence"], end) > start for one in begun)
        late += sum(one["ms"] > stop.answered for one in begun)
        last.append(max((one["ms"] - stop.called for one in begun), default=0.0))
        signals = [one for one in clients.having("told", since=stop.called) if one["ms"] < stop.lifted]
        told += len({one["client"] for one in signals})
        for one in signals:
            if stop.connected < one["ms"] and stop.is_cut:
                reconnected.append(one["ms"] - stop.connected)
            else:
                signalled.append(one["ms"] - stop.called)
        in_flight = confirmed_in(events[start:end], stop.epoch)
        confirmed += len(in_flight)
        ended += sum(count == 0 for count in in_flight.values())
        again: dict[int, float] = {}
        for one in clients.having("ran", since=stop.lifted):
            again.setdefault(one["client"], one["ms"] - stop.lifted)
        resumed += again.values()
    everyone = CLIENTS * len(stops)
    report.add("stops", len(stops))
    report.times("from the call to its answer", [stop.answered - stop.called for stop in stops])
    report.times("from the call to the last function that began", last)
    report.add("functions that began after the answer", late)
    report.must("`allow` in the ledger between stop and lifting", during, 0)
    report.must("functions that began without an `allow` before the stop", unrecorded, 0)
    report.must("running functions signalled", told, everyone)
    report.times("from the call to the signal", signalled)
    report.times("from the connection to the signal of the other functions", reconnected)
    report.must("clients whose confirmation is in the ledger", confirmed, everyone)
    report.must("clients that confirmed 0 in flight at the end", ended, everyone)
    report.must("clients that went on after the lifting", len(resumed), everyone)
    report.times("from the lifting until a client went on", resumed)


def main() -> int:
    """Run the test."""
    parser = argparse.ArgumentParser(usage=(__doc__ or "").split("Usage: ")[1].split(":")[0])
    parser.add_argument("gateway")
    parser.add_argument("rust")
    parser.add_argument("--node")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    if postgres_programs() is None:
        print("SKIPPED: halts of clients in three languages (install PostgreSQL)", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    program, rust = os.path.abspath(given.gateway), os.path.abspath(given.rust)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "pg").mkdir()
        folder.chmod(0o755)
        url = stack.enter_context(postgres(folder / "pg"))
        port = urllib.parse.urlsplit(url).port
        link = Link(port or 0)
        urls = stack.enter_context(gateways(program, folder, [url, url.replace(f":{port}/", f":{link.port}/")]))
        third = CLIENTS // 3
        node = ["node", str(HERE / "worker.mjs"), given.node] if given.node else [rust]
        clients = Clients(
            [
                [sys.executable, str(HERE / "worker.py"), "0", str(third), *urls],
                [*node, str(third), str(third), *urls],
                [rust, str(2 * third), str(CLIENTS - 2 * third), *urls],
            ]
        )
        stops: list[Stop] = []
        try:
            for number in range(given.rounds + 1):
                lifted = stops[-1].lifted if stops else 0.0
                stops.append(stop_all(clients, urls, link, lifted, number == given.rounds))
            lifted = stops[-1].lifted
            wait_for(lambda: len(clients.of("ran", since=lifted)) == CLIENTS, "not every client goes on")
        finally:
            clients.end()
        events, verified = ledger(program, folder, url)
    report = Report()
    check(report, stops[:-1], clients, events)
    print("\nwith a gateway that is cut off from the database:")
    check(report, stops[-1:], clients, events)
    print(f"\n{sum(event.get('decision') == 'allow' for event in events)} actions allowed; {verified}", end="")
    if f"{len(stops)} halts, 0 active at the end" not in verified or "no allow during a halt" not in verified:
        report.wrong.append("evidence verify: expected no allow during a halt")
    print("\n".join(report.wrong), file=sys.stderr)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
