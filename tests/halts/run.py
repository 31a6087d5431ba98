"""Stop 64 clients in three languages over two gateways of one PostgreSQL database, under load, and count.

Usage: run.py GATEWAY RUST_WORKER [NODE_PACKAGE]: the program ``actpass-gateway``, the program ``halt_worker`` (an
example of ``actpass-core``), and the folder of the built Node package; without it, Rust makes the calls of Node. Python
runs this program and the Python clients, and needs the package ``actpass``. PostgreSQL's programs must be installed.
Prints the numbers, and exits with 1 if a line is wrong:

- every client's long function is signalled;
- every client confirms, with 0 functions in flight at the end;
- the ledger has no ``allow`` after the stop, and no function runs under one;
- after the stop is lifted, every client runs actions again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
CLIENTS = 64
OPERATOR = "apdv_load"
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

    def having(self, event: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the events of this name after a time in milliseconds."""
        with self._lock:
            return [one for one in self.events if one["event"] == event and one["ms"] > since]

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


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server with default durability; yield the URL of its database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
        Path(shutil.which("postgres") or sys.exit("no PostgreSQL")).parent
    ]
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
        str(found[-1] / "initdb"),
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
        [str(found[-1] / "postgres"), "-D", str(data), *options], user=user, stderr=log, cwd=folder
    )
    try:
        ready = [str(found[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL does not start")
        yield f"postgres://load:load_password@127.0.0.1:{port}/postgres?sslmode=disable"
    finally:
        server.terminate()
        server.wait(60)


@contextlib.contextmanager
def gateways(program: str, folder: Path, database_url: str) -> Iterator[list[str]]:
    """Run two gateways of one database; yield their URLs."""
    (folder / "policy.json").write_text(json.dumps(POLICY))
    master_key = secrets.token_hex(32)
    running: list[subprocess.Popen[str]] = []
    urls = []
    try:
        for name in ("a", "b"):
            config = folder / f"gateway-{name}.toml"
            config.write_text(configuration())
            environment = {**os.environ, "ACTPASS_DATABASE_URL": database_url, "ACTPASS_MASTER_KEY": master_key}
            gateway = subprocess.Popen(
                [program, "serve", "--config", str(config)],
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


def ledger(url: str) -> list[dict[str, Any]]:
    """Return all events of the chain of decisions, in order."""
    events: list[dict[str, Any]] = operate(url, "GET", "/api/v1/evidence/chains/decisions")["events"]
    return events


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


def measure(clients: Clients, urls: list[str]) -> bool:
    """Stop and lift under load; print the numbers and return whether all are right."""
    everyone = set(range(CLIENTS))

    def of(event: str, since: float = 0.0) -> set[int]:
        return {one["client"] for one in clients.having(event, since)}

    wait_for(lambda: of("running") == everyone and of("ran") == everyone, "not every client runs")
    # Longer than the time after which a client watches.
    time.sleep(5)
    started = time.time() * 1e3
    halt = operate(urls[0], "POST", "/api/v1/halts", {"scope": "tenant", "reason": "load test"})
    answered = time.time() * 1e3
    wait_for(lambda: of("told") == everyone, "not every function is signalled")
    wait_for(lambda: of("halted", answered) == everyone, "not every client is denied")
    epoch = halt["halt_epoch"]

    def confirmed() -> bool:
        found = confirmations(urls[1], epoch)
        return len(found) == CLIENTS and all(sent[-1] == 0 for sent in found.values())

    wait_for(confirmed, "not every client confirms")
    time.sleep(2)
    lifted_at = time.time() * 1e3
    events = ledger(urls[1])
    operate(urls[1], "DELETE", f"/api/v1/halts/{halt['id']}", {"reason": "load test"})
    wait_for(lambda: of("ran", lifted_at) == everyone, "not every client goes on")

    stopped = next(at for at, event in enumerate(events) if event["event_type"].startswith("halt"))
    allowed = {event["event_id"]: at for at, event in enumerate(events) if event.get("decision") == "allow"}
    after = [at for at in allowed.values() if at > stopped]
    ran = [one for one in clients.having("ran") if one["ms"] < lifted_at]
    unrecorded = [one for one in ran if allowed.get(one["evidence"], stopped + 1) > stopped]
    late = [one["ms"] for one in ran if one["ms"] > answered]
    told = sorted(one["ms"] - started for one in clients.having("told"))
    sent = confirmations(urls[1], epoch)
    stale = clients.having("actpass.halted")
    resumed: dict[int, float] = {}
    for one in clients.having("ran", lifted_at):
        resumed.setdefault(one["client"], one["ms"] - lifted_at)
    last = max(one["ms"] for one in ran) - started
    ended = sum(one[-1] == 0 for one in sent.values())
    for what, count in (
        ("clients", f"{CLIENTS} at {len(urls)} gateways"),
        ("actions allowed before the stop", len(allowed)),
        ("the gateway answered the stop after", f"{answered - started:.0f} ms"),
        ("`allow` in the ledger after the stop", len(after)),
        ("functions that ran without an earlier `allow`", len(unrecorded)),
        ("last function began after the call", f"{last:.0f} ms"),
        ("functions that began after the answer", len(late)),
        ("permits refused by clients (`actpass.halted`)", len(stale)),
        ("running functions signalled", len(told)),
        ("signalled after the call, median and last", f"{told[len(told) // 2]:.0f} ms, {told[-1]:.0f} ms"),
        ("clients that confirmed", len(sent)),
        ("clients that confirmed 0 in flight at the end", ended),
        ("clients that went on after the stop was lifted", len(resumed)),
        ("the last of them after", f"{max(resumed.values()):.0f} ms"),
    ):
        print(f"| {what} | {count} |")
    return not after and not unrecorded and len(told) == len(sent) == ended == len(resumed) == CLIENTS


def main(gateway: str, rust: str, node: str | None = None) -> int:
    """Run the test."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "pg").mkdir()
        folder.chmod(0o755)
        url = stack.enter_context(postgres(folder / "pg"))
        urls = stack.enter_context(gateways(os.path.abspath(gateway), folder, url))
        third = CLIENTS // 3
        rest = CLIENTS - 2 * third
        commands = [
            [sys.executable, str(HERE / "worker.py"), "0", str(third), *urls],
            [os.path.abspath(rust), str(2 * third), str(rest), *urls],
        ]
        if node is not None:
            commands.append(["node", str(HERE / "worker.mjs"), node, str(third), str(third), *urls])
        else:
            commands.append([os.path.abspath(rust), str(third), str(third), *urls])
        clients = Clients(commands)
        stack.callback(clients.end)
        return 0 if measure(clients, urls) else 1


if __name__ == "__main__":
    if len(sys.argv) not in {3, 4}:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
