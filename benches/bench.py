"""Measures what clients, gateway and their parts cost, side by side, and writes the figures and the page about them.

`make bench` runs it; `make bench BENCH=quick` tries it out, in few rounds, and writes under target/bench/ only.
Settings, in the environment: ROUNDS, CALLS and SECONDS (of each measurement, at most), EVENTS (of the long chain),
FLAT_CALLS, PYTHONS (further interpreters, whose TLS is measured), SECTIONS (names of those to run).

Each section is on its own: one that fails is named on the page and makes this fail at the end, and the others are
measured still.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import page
from limiting import limiting_policy

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "target"
WORK = TARGET / "bench"
RUST = TARGET / "release/actpass-benches"
GATEWAY = TARGET / "release/actpass-gateway"
PYTHON = ROOT / ".venv/bin/python"
NODE_PEERS = {"axios": "1.21.1", "undici": "7.30.2"}
PYTHON_PEERS = ("aiohttp", "httpx", "pycurl", "requests", "uvloop")
#: Peers with a core in Rust behind Node and Python. Later versions of Restate's package need Node 22.
NODE_BINDINGS = {"@restatedev/restate-sdk": "1.10.4", "@temporalio/worker": "1.24.0"}
PYTHON_BINDINGS = ("restate-sdk==1.3.0", "temporalio==1.35.0")
KEY = "apk_bench"

QUICK = os.environ.get("BENCH") == "quick"


def setting(name: str, full: float, quick: float) -> float:
    """Return a setting of the environment, or its default."""
    return float(os.environ.get(name) or (quick if QUICK else full))


ROUNDS = int(setting("ROUNDS", 5, 2))
CALLS = int(setting("CALLS", 2000, 200))
SECONDS = setting("SECONDS", 0.4, 0.1)
EVENTS = int(setting("EVENTS", 1_000_000, 5_000))
FLAT_CALLS = int(setting("FLAT_CALLS", 1_000_000, 5_000))
#: Longest wait for a worker or server, in seconds.
LONGEST = 900
#: Duration of a round of preflights, in seconds.
LOAD_SECONDS = SECONDS * 4

#: Contenders by worker; below, the contenders without a measurement of concurrent calls or of TLS.
CONTENDERS: dict[str, tuple[str, ...]] = {
    "rust": ("hyper", "reqwest", "guard", "host", "background", "socket"),
    "python": (
        "guard",
        "preflight",
        "protect",
        "published",
        "pycurl",
        "http_client",
        "httpx",
        "requests",
        "async_guard",
        "aiohttp",
        "httpx_async",
        "uvloop_guard",
        "uvloop_aiohttp",
    ),
    "node": ("guard", "undici", "http", "axios", "fetch"),
    "swift": ("guard", "urlsession"),
    "kotlin": ("guard", "httpclient"),
}
ONE_AT_A_TIME_ONLY = {"rust.socket", "python.preflight", "python.protect"}
#: On Linux URLSession trusts the system's authorities alone.
PLAIN_ONLY = {"rust.socket", "rust.background", "python.preflight", "python.protect", "swift.urlsession"}

results: dict[str, Any] = {"missing": [], "failures": {}}
built: set[str] = set()


def main() -> None:
    """Measure, write the results, and report failures."""
    os.chdir(ROOT)
    if sys.argv[1:] == ["page"]:
        page.write(json.loads(page.RESULTS.read_text()), page.RESULTS.parent)
        return
    began = time.time()
    WORK.mkdir(parents=True, exist_ok=True)
    results["about"] = about()
    wanted = os.environ.get("SECTIONS", "").split()
    for section in (build, *SECTIONS):
        name = section.__name__
        if not wanted or name in wanted or section is build:
            run(section)
        if section is build:
            results["about"].update(load_average_at_start=load(), date=now())
            began = time.time()
    results["about"].update(load_average_at_end=load(), seconds=round(time.time() - began))
    out = WORK if QUICK or wanted else page.RESULTS.parent
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(page.to_json(results))
    page.write(results, out)
    print(f"\nwrote {out / 'results.json'} and {out / 'README.md'}, after {results['about']['seconds']} s of measuring")
    if results["failures"]:
        sys.exit(f"failed: {', '.join(results['failures'])}")


def run(section: Callable[[], None]) -> None:
    """Run a section; its error is recorded as a result."""
    name = section.__name__
    began = time.time()
    print(f"== {name.replace('_', ' ')}", flush=True)
    try:
        for needed in NEEDED.get(name, ("rust",)):
            if section is not build and needed not in built:
                raise RuntimeError(f"{needed} was not built")
        section()
    except Exception as error:
        fail(name, f"{type(error).__name__}: {error}")
        if not isinstance(error, RuntimeError):
            traceback.print_exc()
    print(f"   {time.time() - began:.0f} s", flush=True)


def fail(what: str, why: str) -> None:
    """Note that something failed."""
    results["failures"][what] = why
    print(f"FAILED: {what}: {why}", file=sys.stderr, flush=True)


def miss(what: str) -> None:
    """Note that something could not be measured on this machine."""
    results["missing"].append(what)
    print(f"SKIPPED: {what}", file=sys.stderr, flush=True)


# The machine and the versions of the measurement.


def about() -> dict[str, Any]:
    """Return the machine, the versions and the settings."""
    settings = {
        name: os.environ[name]
        for name in ("BENCH", "ROUNDS", "CALLS", "SECONDS", "EVENTS", "FLAT_CALLS")
        if name in os.environ
    }
    return {
        "date": now(),
        "command": " ".join(["make bench", *(f"{name}={value}" for name, value in settings.items() if value)]),
        "settings": {"rounds": ROUNDS, "calls": CALLS, "seconds": SECONDS, "events": EVENTS, "flat_calls": FLAT_CALLS},
        "commit": said("git", "describe", "--always", "--dirty"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
            "disk": "data files of the gateway and of PostgreSQL on the disk of the system's temporary folder",
        },
        "versions": {
            "rustc": said("rustc", "--version"),
            "python": platform.python_version(),
            "node": said("node", "--version"),
            "java": (said("java", "-version", errors=True) or "").split("\n")[0],
            "swift": swift_version(),
            "valgrind": said("valgrind", "--version"),
        },
    }


def now() -> str:
    """Return the date."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def load() -> list[float]:
    """Return the load averages of one, five and fifteen minutes."""
    return [round(figure, 2) for figure in os.getloadavg()]


def said(*command: str, errors: bool = False) -> str | None:
    """Return a program's output; ``None`` if the program is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stderr if errors else done.stdout).strip()


def processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def swift_version() -> str | None:
    """Return the version of Swift."""
    found = re.search(r"Swift version (\S+)", said("scripts/lib.sh", "with_swift", "swift", "--version") or "")
    return found[1] if found else None


# Everything is built before the measurement; a failed build fails only its own contenders.


def build() -> None:
    """Build every language and install the peers."""
    make("rust", "bench-build")
    make("gateway", "target/release/actpass-gateway")
    if make("python", "python"):
        results["about"]["versions"]["python"] = (said(str(PYTHON), "--version") or "").removeprefix("Python ")
        attempt("python peers", lambda: python_peers(PYTHON))
    if said("scripts/lib.sh", "have_node") is None:
        miss("Node: `node` 20.11 or later and npm are missing")
    elif make("node", "node-release"):
        attempt("node peers", node_peers)
    if said("scripts/lib.sh", "with_swift") is None:
        miss("Swift: no Swift 6 (make swift-toolchain)")
    else:
        make("swift", "target/swift/worker.built")
    if said("scripts/kotlin-toolchain", "installed") is None:
        miss("Kotlin: no compiler or JNA (make kotlin-toolchain)")
    else:
        make("kotlin", "target/kotlin/worker.built")


def make(what: str, target: str) -> bool:
    """Build a target of the Makefile."""
    began = time.time()
    done = subprocess.run(["make", "--no-print-directory", target], check=False)
    if done.returncode:
        fail(f"build of {what}", f"make {target} ended with {done.returncode}")
        return False
    built.add(what)
    print(f"   {what}: built in {time.time() - began:.0f} s", flush=True)
    return True


def attempt(what: str, task: Callable[[], object]) -> None:
    """Do something that may fail alone."""
    try:
        task()
    except Exception as error:
        fail(what, f"{type(error).__name__}: {error}")


def peers_of(python: Path) -> Path:
    """Return where the peers of an interpreter are."""
    version = said(str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    return TARGET / f"peers/python-{version}"


def python_peers(python: Path) -> None:
    """Install the peers to compare with; the published client has the same package name and gets a separate folder."""
    folder = peers_of(python)
    for part, packages in (
        ("published", ("actpass==1.1.3",)),
        ("field", PYTHON_PEERS),
        ("bindings", PYTHON_BINDINGS if python == PYTHON else ()),
    ):
        if not packages or (folder / part / "done").exists():
            continue
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        subprocess.run([*pip, "--target", str(folder / part), *packages], check=True)
        (folder / part / "done").touch()


def node_peers() -> None:
    """Install the peers of Node."""
    folder = TARGET / "peers/node"
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    packages = [f"{name}@{version}" for name, version in (NODE_PEERS | NODE_BINDINGS).items()]
    options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    subprocess.run(["npm", "install", *options, *packages], check=True)
    (folder / "done").touch()


# Workers and servers.


class Process:
    """A program that answers lines with lines, and ends with its standard input."""

    #: The address of its gRPC server.
    grpc = ""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Start it."""
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line(self) -> str:
        """Return its next line. One that hangs is ended."""
        assert self.process.stdout is not None
        patience = threading.Timer(LONGEST, self.process.kill)
        patience.start()
        line = self.process.stdout.readline()
        patience.cancel()
        if not line:
            self.process.wait()
            self.log.seek(0)
            end = self.log.read().decode(errors="replace").strip()[-500:]
            raise RuntimeError(f"{Path(self.process.args[0]).name} ended with {self.process.returncode}: {end}")  # type: ignore[index]
        return line.strip()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Any:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


class Worker(Process):
    """The clients of a language."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Start it and read its contenders and versions."""
        super().__init__(command, environment)
        try:
            self.has = json.loads(self.line())
        except BaseException:
            self.close()
            raise

    def ask(self, *words: object) -> dict[str, Any]:
        """Give a command and return its answer, with the processor time that it took, in microseconds a call."""
        assert self.process.stdin is not None
        before = cpu(self.pid)
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.line())
        if "error" in answer:
            raise RuntimeError(f"{' '.join(map(str, words))}: {answer['error']}")
        after = cpu(self.pid)
        if answer.get("calls"):
            answer["rate"] = answer["calls"] / answer["seconds"]
            answer["cpu"] = None if before is None or after is None else (after - before) * 1e6 / answer["calls"]
        return answer


def cpu(pid: int) -> float | None:
    """Return the processor time of a process, user and system, in seconds; Linux names its clock so."""
    if sys.platform != "linux":
        return None
    return time.clock_gettime((~pid << 3) | 2)


def pin(pid: int, cores: set[int]) -> None:
    """Let all threads of a process run on these cores only."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in os.listdir(f"/proc/{pid}/task"):
        # The thread may have ended.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def cores() -> set[int]:
    """Return the cores that there are for this."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


@contextlib.contextmanager
def fixed_answers() -> Iterator[tuple[Process, str, str, str]]:
    """Start the fixed-answer server; its URLs, and the file of its certificate authority."""
    authority = WORK / "authority.pem"
    with Process([str(RUST), "serve", str(authority)]) as server:
        plain, secure, server.grpc = server.line(), server.line(), server.line()
        yield server, plain, secure, str(authority)


def bundle(authority: str) -> str:
    """Return a file of the system's certificate authorities and the server's, for a realistic size."""
    import ssl  # noqa: PLC0415

    paths = ssl.get_default_verify_paths()
    found = next(
        (path for path in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt") if path and Path(path).is_file()), None
    )
    whole = WORK / "bundle.pem"
    whole.write_text((Path(found).read_text() if found else "") + "\n" + Path(authority).read_text())
    return str(whole)


def worker(language: str, url: str, authority: str | None = None, python: Path = PYTHON) -> Worker:
    """Start a language's clients."""
    ca = [authority] if authority else []
    if language == "rust":
        return Worker([str(RUST), "worker", url, *ca])
    if language == "python":
        return Worker(
            python_command(python, url, authority), {"SSL_CERT_FILE": bundle(authority)} if authority else None
        )
    if language == "node":
        extra = {"NODE_EXTRA_CA_CERTS": authority} if authority else None
        return Worker(["node", "benches/node.mjs", "bindings-node", "target/peers/node", url, *ca], extra)
    if language == "swift":
        return Worker(["scripts/lib.sh", "with_swift", "target/swift/worker/release/worker", url, *ca])
    parts = [said("scripts/kotlin-toolchain", "path", part) or "" for part in ("stdlib", "coroutines", "jna")]
    classes = ":".join(["target/kotlin/worker", "target/kotlin/actpass.jar", *parts])
    return Worker(["java", "-cp", classes, "WorkerKt", url, *ca])


def python_command(python: Path, url: str, authority: str | None = None, *more: str) -> list[str]:
    """Return the command of Python's clients. For other interpreters, the package is in a folder next to its peers."""
    peers = peers_of(python)
    own = [] if python == PYTHON else ["--path", str(peers / "own")]
    ca = ["--ca", authority] if authority else []
    paths = ["--published", str(peers / "published"), *own, "--path", str(peers / "field")]
    paths += ["--path", str(peers / "bindings")]
    return [str(python), "benches/python.py", url, *ca, *paths, *more]


# The clients.


def clients_plain() -> None:
    """Measure the clients of all languages over plain HTTP."""
    with fixed_answers() as (server, plain, _, _):
        results["clients_plain"] = clients(server, plain, None)


def clients_tls() -> None:
    """Measure the clients of all languages over TLS."""
    with fixed_answers() as (server, _, secure, authority):
        results["clients_tls"] = clients(server, secure, authority)


def clients(server: Process, url: str, authority: str | None) -> dict[str, Any]:
    """Measure in interleaved rounds: one call at a time on one core, many at once on all."""
    figures: dict[str, Any] = {}
    versions = results["about"]["versions"]
    scheme = "TLS" if authority else "plain"
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for language in CONTENDERS:
            if language not in built:
                continue
            try:
                workers[language] = stack.enter_context(worker(language, url, authority))
                versions.update(workers[language].has.get("versions", {}))
            except Exception as error:
                fail(f"{language}, {scheme}", str(error))
        names = [(language, name) for language, names in CONTENDERS.items() for name in names if language in workers]
        names = [one for one in names if not (authority and ".".join(one) in PLAIN_ONLY)]
        if authority and "swift" in workers:
            miss("URLSession over TLS: on Linux it cannot trust the server's authority")
        warm_up(workers, names)
        for width in (1, 16, 64):
            where = {min(cores())} if width == 1 else cores()
            for process in (server, *workers.values()):
                pin(process.pid, where)
            here = [one for one in names if width == 1 or ".".join(one) not in ONE_AT_A_TIME_ONLY]
            figures[str(width)] = rounds(workers, here, width, scheme)
    return figures


def warm_up(workers: dict[str, Worker], names: list[tuple[str, str]]) -> None:
    """Warm up the clients of languages with a just-in-time compiler."""
    for language, name in names:
        if language == "kotlin":
            with contextlib.suppress(Exception):
                workers[language].ask("measure", name, 16, CALLS * 10, SECONDS * 8)


def rounds(workers: dict[str, Worker], names: list[tuple[str, str]], width: int, scheme: str) -> dict[str, Any]:
    """Measure each contender once a round; the first round warms up and does not count."""
    figures: dict[str, dict[str, list[float]]] = {}
    left = list(names)
    for number in range(ROUNDS + 1):
        for language, name in list(left):
            try:
                answer = workers[language].ask("measure", name, width, CALLS, SECONDS)
            except Exception as error:
                fail(f"{language}.{name}, {scheme}, {width} concurrent calls", str(error))
                left.remove((language, name))
                if workers[language].process.poll() is not None:
                    left = [one for one in left if one[0] != language]
                continue
            if number:
                add(figures.setdefault(f"{language}.{name}", {}), answer)
    return figures


def add(figures: dict[str, list[float]], answer: dict[str, Any]) -> None:
    """Add a round's figures."""
    for what in ("p50", "p99", "rate", "cpu", "calls"):
        if answer.get(what) is not None:
            figures.setdefault(what, []).append(significant(answer[what]))


def significant(figure: float) -> float:
    """Return a figure of four digits: the rest is noise."""
    return float(f"{figure:.4g}")


def other_pythons() -> None:
    """Measure this package and 1.1.3 on further interpreters, over TLS: the results depend on the interpreter."""
    wheels = sorted((TARGET / "wheels/release").glob("actpass-*-abi3-*.whl"))
    if not wheels:
        raise FileNotFoundError("the wheel")
    figures = results.setdefault("other_pythons", {})
    for python in pythons():
        version = (said(str(python), "--version") or "").removeprefix("Python ")
        peers = peers_of(python)
        if not (peers / "published/done").exists():
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
            subprocess.run([*pip, "--target", str(peers / "published"), "actpass==1.1.3"], check=True)
            (peers / "published/done").touch()
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--no-deps"]
        subprocess.run([*pip, "--target", str(peers / "own"), str(wheels[-1])], check=True)
        with fixed_answers() as (server, _, secure, authority), worker("python", secure, authority, python) as ours:
            for process in (server, ours):
                pin(process.pid, {min(cores())})
            names = [("python", "guard"), ("python", "published")]
            figures[version] = rounds({"python": ours}, names, 1, f"TLS, Python {version}")


def pythons() -> list[Path]:
    """Return further interpreters: the list in PYTHONS, or CPython 3.12 and later under pyenv and in PATH."""
    if os.environ.get("PYTHONS"):
        return [Path(python) for python in os.environ["PYTHONS"].split()]
    found = []
    for minor in (12, 13, 14):
        pyenv = sorted(
            Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/3.{minor}.*/bin/python")
        )
        program = pyenv[-1] if pyenv else shutil.which(f"python3.{minor}")
        # A shim may lead nowhere.
        if program and said(str(program), "-m", "pip", "--version"):
            found.append(Path(program))
    if not found:
        miss("1.1.3 over TLS on Python 3.12 and later: no interpreter found (set PYTHONS)")
    return found


def bindings() -> None:
    """Measure a guard next to empty calls of other packages with a core in Rust: over gRPC, and without a network."""
    with fixed_answers() as (server, plain, _, _), contextlib.ExitStack() as stack:
        workers, names = {}, []
        for language in ("python", "node"):
            if language not in built:
                continue
            for name, url in (("guard", plain), ("temporal", server.grpc), ("restate", plain)):
                one = stack.enter_context(worker(language, url))
                results["about"]["versions"].update(one.has.get("versions", {}))
                guard = "async_guard" if (language, name) == ("python", "guard") else name
                workers[f"{language} {name}"] = one
                names.append((f"{language} {name}", guard))
        figures: dict[str, Any] = {}
        for width in (1, 16):
            where = {min(cores())} if width == 1 else cores()
            for process in (server, *workers.values()):
                pin(process.pid, where)
            measured = rounds(workers, names, width, "bindings")
            figures[str(width)] = {who.partition(".")[0].replace(" ", "."): figure for who, figure in measured.items()}
        results["bindings"] = figures


# The gateway.


class Gateway(Process):
    """A gateway with its own data."""

    def __init__(self, store: str, policy: Path, tenants: int = 1, parent: Path | None = None) -> None:
        """Start it; ``store`` is the line of the settings for the store, ``parent`` the place of its folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="actpass-bench-", dir=parent))
        self.keys = [KEY] if tenants == 1 else [f"{KEY}_{number}" for number in range(tenants)]
        lines = ['listen = "127.0.0.1:0"', store]
        for number, key in enumerate(self.keys):
            digest = hashlib.sha256(key.encode()).hexdigest()
            lines += ["[[tenants]]", f'id = "t{number}"', f'policy = "{policy.resolve()}"']
            lines += [
                "[[keys]]",
                f'name = "k{number}"',
                f'hash = "sha256:{digest}"',
                f'tenant = "t{number}"',
                'role = "agent"',
            ]
        self.settings = self.folder / "gateway.toml"
        self.settings.write_text("\n".join(lines) + "\n")
        self.serve()

    def serve(self) -> None:
        """Start it on its data, and note the time until it accepts connections."""
        began = time.time()
        super().__init__([str(GATEWAY), "serve", "--config", str(self.settings)])
        try:
            self.address = self.line().removeprefix("listening on http://")
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.time() - began

    def restart(self) -> None:
        """End it and start it again."""
        self.end()
        self.serve()

    def end(self) -> None:
        """End it. Its data stays."""
        self.process.send_signal(signal.SIGTERM)
        super().close()

    def close(self) -> None:
        """End it, and its data with it."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


#: A file system in memory: a commit does not wait for a disk.
IN_MEMORY = Path("/dev/shm")

SQLITE = 'data = "data.db"'


def policy_of(rules: int) -> Path:
    """Write a policy of so many rules."""
    file = WORK / f"policy-{rules}.json"
    file.write_text(
        subprocess.run([str(RUST), "policy", str(rules)], capture_output=True, text=True, check=True).stdout
    )
    return file


@contextlib.contextmanager
def postgres() -> Iterator[str | None]:
    """Start a PostgreSQL; its URL, or ``None`` if PostgreSQL is missing."""
    try:
        server = Process([str(RUST), "postgres"])
        url = server.line()
    except RuntimeError as error:
        miss(f"PostgreSQL: {error} (Debian: apt-get install postgresql)")
        yield None
        return
    with server:
        yield url


def preflights(loader: Worker, names: dict[str, tuple[str, list[str]]], width: int) -> dict[str, Any]:
    """Load each of these addresses once a round."""
    figures: dict[str, dict[str, list[float]]] = {}
    for number in range(ROUNDS + 1):
        for name, (address, keys) in names.items():
            prefix = f"{width}-{number}-{name.replace(' ', '')}"
            answer = loader.ask("load", address, width, 10_000_000, LOAD_SECONDS, prefix, *keys)
            if number:
                add(figures.setdefault(name, {}), answer)
    return figures


def gateway() -> None:
    """Measure preflights with durable evidence, on each store, and the fixed-answer server under the same load."""
    policy = policy_of(3)
    figures = results.setdefault("gateway", {})
    with contextlib.ExitStack() as stack:
        _, plain, _, _ = stack.enter_context(fixed_answers())
        loader = stack.enter_context(worker("rust", plain))
        targets = {"fixed": (plain.removeprefix("http://"), [KEY])}
        sqlite = stack.enter_context(Gateway(SQLITE, policy))
        targets["sqlite"] = (sqlite.address, sqlite.keys)
        if IN_MEMORY.is_dir():
            in_memory = stack.enter_context(Gateway(SQLITE, policy, parent=IN_MEMORY))
            targets["memory"] = (in_memory.address, in_memory.keys)
        url = stack.enter_context(postgres())
        if url:
            on_postgres = stack.enter_context(Gateway(f'database_url = "{url}"', policy))
            targets["postgresql"] = (on_postgres.address, on_postgres.keys)
        results["disk"] = disk_writes(sqlite.folder)
        for width in (1, 16, 64, 256):
            figures[str(width)] = preflights(loader, targets, width)
        for name, times in disk_writes(sqlite.folder).items():
            results["disk"][name] += times


def disk_writes(folder: Path) -> dict[str, list[float]]:
    """Return how long a write of 64 KiB takes until it is on the disk, in microseconds: no commit takes less."""
    written: dict[str, list[float]] = {"p50": [], "p99": []}
    with tempfile.TemporaryFile(dir=folder) as file:
        block = os.urandom(1 << 16)
        for _ in range(100):
            file.write(block)
        os.fsync(file.fileno())
        for _ in range(ROUNDS):
            times = []
            for number in range(100):
                began = time.perf_counter()
                os.pwrite(file.fileno(), block, number << 16)
                os.fsync(file.fileno())
                times.append((time.perf_counter() - began) * 1e6)
            times.sort()
            add(written, {"p50": times[50], "p99": times[98]})
    return written


def gateway_rules() -> None:
    """Measure how the cost of a preflight grows with the rules."""
    grow("gateway_rules", {str(rules): (rules, 1) for rules in (3, 100, 1_000, 10_000)})


def gateway_tenants() -> None:
    """Measure how the cost of a preflight grows with the tenants, all of which call."""
    grow("gateway_tenants", {str(tenants): (3, tenants) for tenants in (1, 10, 100, 1_000)})


def gateway_limits() -> None:
    """Measure what budgets and history conditions cost, on one account."""
    with contextlib.ExitStack() as stack:
        _, plain, _, _ = stack.enter_context(fixed_answers())
        loader = stack.enter_context(worker("rust", plain))
        # The load is a call of the last tool.
        many = [*(f"crm.record.update_{number}" for number in range(999)), "stripe.refund.create"]
        kinds = {
            "no budget": limiting_policy(many[-1:]),
            "one budget": limiting_policy(many[-1:], budgets=1),
            "ten budgets": limiting_policy(many[-1:], budgets=10),
            "1 000 rules": limiting_policy(many),
            "1 000 rules with a history condition each": limiting_policy(many, history_of="agent_id"),
        }
        targets = {}
        for name, policy in kinds.items():
            file = WORK / f"policy-{name.replace(' ', '-')}.json"
            file.write_text(json.dumps(policy))
            one = stack.enter_context(Gateway(SQLITE, file))
            targets[name] = (one.address, one.keys)
        results["gateway_limits"] = preflights(loader, targets, 64)


def grow(section: str, kinds: dict[str, tuple[int, int]]) -> None:
    """Measure gateways side by side, with 64 concurrent calls."""
    with contextlib.ExitStack() as stack:
        _, plain, _, _ = stack.enter_context(fixed_answers())
        loader = stack.enter_context(worker("rust", plain))
        targets = {}
        for name, (rules, tenants) in kinds.items():
            one = stack.enter_context(Gateway(SQLITE, policy_of(rules), tenants))
            # As many connections as there are: each takes its key.
            targets[name] = (one.address, one.keys[:256])
        width = 256 if section == "gateway_tenants" else 64
        results[section] = preflights(loader, targets, width)


def chain() -> None:
    """Fill one chain with events; measure the speed and memory while it grows, and its size."""
    figures = results.setdefault("chain", {"events": EVENTS})
    with contextlib.ExitStack() as stack:
        _, plain, _, _ = stack.enter_context(fixed_answers())
        loader = stack.enter_context(worker("rust", plain))
        one = stack.enter_context(Gateway(SQLITE, policy_of(3)))
        loader.ask("load", one.address, 64, 500, 60, "warm", KEY)
        before = memory(one.pid)
        idle = [used_connection(one.address) for _ in range(400)]
        time.sleep(0.5)
        figures["bytes_per_idle_connection"] = round((memory(one.pid) - before) / len(idle))
        for connection in idle:
            connection.close()
        steps = figures.setdefault("steps", [])
        share = EVENTS // 10
        for number in range(10):
            answer = loader.ask("load", one.address, 64, share, 600, f"chain-{number}", KEY)
            steps.append({"events": (number + 1) * share, "rate": round(answer["rate"]), "memory": memory(one.pid)})
        exported = WORK / "chain.jsonl"
        data = ["--data", str(one.folder / "data.db"), "--tenant", "t0"]
        figures["export_seconds"] = []
        for _ in range(min(ROUNDS, 3)):
            began = time.time()
            with exported.open("w") as file:
                subprocess.run([str(GATEWAY), "evidence", "export", "decisions", *data], stdout=file, check=True)
            figures["export_seconds"].append(round(time.time() - began, 3))
        figures["start_seconds"] = []
        for _ in range(min(ROUNDS, 3)):
            one.restart()
            figures["start_seconds"].append(round(one.start_seconds, 3))
        figures["start_memory"] = memory(one.pid)
        files = [one.folder / f"data.db{end}" for end in ("", "-wal")]
        figures["data_bytes"] = sum(file.stat().st_size for file in files if file.exists())
        figures["export_bytes"] = exported.stat().st_size
        with exported.open() as file:
            figures["lines"] = sum(1 for _ in file)
        seconds = []
        for _ in range(min(ROUNDS, 3)):
            began = time.time()
            subprocess.run([str(GATEWAY), "evidence", "verify", str(exported)], stdout=subprocess.DEVNULL, check=True)
            seconds.append(round(time.time() - began, 3))
        figures["verify_seconds"] = seconds
        exported.unlink()


def used_connection(address: str) -> socket.socket:
    """Return a connection after one request and its response."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(b"GET /nothing-here HTTP/1.1\r\nhost: gateway\r\n\r\n")
    connection.recv(65536)
    return connection


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return status(pid, "VmRSS")


def status(pid: int, name: str) -> int:
    """Return a figure of a process, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    if not found:
        raise LookupError(name)
    return int(found[1]) * 1024


# The parts.


def pure() -> None:
    """Measure calls without a request, and calls into the native library, on one core."""
    figures = results.setdefault("pure", {})
    pinned = ["taskset", "-c", str(min(cores()))] if shutil.which("taskset") else []
    for _ in range(ROUNDS):
        done = subprocess.run([*pinned, str(RUST), "pure"], capture_output=True, text=True, check=True)
        for name, cost in json.loads(done.stdout).items():
            figures.setdefault(f"rust.{name}", []).append(significant(cost))
    with fixed_answers() as (_, plain, _, _), contextlib.ExitStack() as stack:
        for language in ("python", "node", "swift", "kotlin"):
            if language not in built:
                continue
            try:
                one = stack.enter_context(worker(language, plain))
                pin(one.pid, {min(cores())})
                for _ in range(ROUNDS):
                    for name, cost in one.ask("border").items():
                        figures.setdefault(f"{language}.{name}", []).append(significant(cost))
            except Exception as error:
                fail(f"calls into the native library, {language}", str(error))


def footprint() -> None:
    """Measure memory, starts and sizes."""
    figures = results.setdefault("footprint", {})
    sizes(figures.setdefault("binaries", {}))
    attempt("imports", lambda: starts(figures.setdefault("starts", {})))
    calls = 10_000 if not QUICK else 500
    peaks = figures.setdefault("memory_after_calls", {"calls": calls})
    with fixed_answers() as (_, plain, _, _):
        for language, name in (
            ("rust", "guard"),
            ("python", "guard"),
            ("python", "published"),
            ("python", "async_guard"),
            ("node", "guard"),
            ("node", "fetch"),
            ("swift", "guard"),
            ("kotlin", "guard"),
        ):
            if language in built:
                attempt(f"memory of {language}.{name}", lambda: peak(peaks, plain, language, name, calls))  # noqa: B023
        each = figures.setdefault("memory_each", {})
        for language, wide in (("rust", "guard"), ("python", "async_guard"), ("node", "guard")):
            if language in built:
                attempt(f"memory for each of {language}", lambda: for_each(each, plain, language, wide))  # noqa: B023


def peak(figures: dict[str, Any], url: str, language: str, name: str, calls: int) -> None:
    """Measure the most memory that a fresh process had after so many calls."""
    if name in ("guard", "published") and language == "python":
        # Not the worker, whose own imports take more memory than the packages.
        folder = [str(peers_of(PYTHON) / "published")] if name == "published" else []
        command = [str(PYTHON), "benches/peak.py", url, str(calls), *folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONGEST)
        figures[f"{language}.{name}"] = int(done.stdout)
        return
    with worker(language, url) as one:
        one.ask("measure", name, 1, calls, 120)
        figures[f"{language}.{name}"] = status(one.pid, "VmHWM")


def for_each(figures: dict[str, Any], url: str, language: str, wide: str) -> None:
    """Measure what another client that made a call takes, and another idle connection."""
    with worker(language, url) as one:
        one.ask("clients", "guard", 20)
        before = memory(one.pid)
        one.ask("clients", "guard", 200)
        figures[f"{language}.client"] = round((memory(one.pid) - before) / 200)
    with worker(language, url) as one:
        one.ask("measure", wide, 1, 500, 60)
        before = memory(one.pid)
        one.ask("measure", wide, 64, 1_000, 60)
        figures[f"{language}.connection"] = round((memory(one.pid) - before) / 63)


def sizes(figures: dict[str, int]) -> None:
    """Measure the stripped binaries, as they are shipped."""
    libraries = ROOT.glob(".venv/lib/python*/site-packages/actpass/_native*.so")
    addons = ROOT.glob("bindings-node/dist/*.node")
    for name, file in (
        ("gateway", GATEWAY),
        ("python", next(libraries, None)),
        ("node", next(addons, None)),
        ("swift and kotlin", TARGET / "release/libactpass_uniffi.so"),
    ):
        if file and file.exists():
            figures[name] = file.stat().st_size


def starts(figures: dict[str, list[float]]) -> None:
    """Measure what importing costs in a fresh interpreter, interleaved, in milliseconds."""
    commands: dict[str, list[str]] = {}
    if "python" in built:
        peers = peers_of(PYTHON)
        where = {
            "actpass": None,
            "actpass 1.1.3": peers / "published",
            **dict.fromkeys(("requests", "httpx", "aiohttp"), peers / "field"),
        }
        for name, folder in where.items():
            path = f"sys.path.insert(0, {str(folder)!r}); " if folder else ""
            code = (
                f"import sys, time; {path}start = time.perf_counter(); import {name.split()[0]}; "
                "print(1000 * (time.perf_counter() - start))"
            )
            commands[f"python.{name}"] = [str(PYTHON), "-I", "-c", code]
    if "node" in built:
        for name, module in (
            ("@actpass/sdk", ROOT / "bindings-node"),
            *((peer, TARGET / "peers/node/node_modules" / peer) for peer in NODE_PEERS),
        ):
            code = f"const start = performance.now(); require({str(module)!r}); console.log(performance.now() - start)"
            commands[f"node.{name}"] = ["node", "-e", code]
    for number in range(3 * ROUNDS + 1):
        for name, command in commands.items():
            took = subprocess.run(command, capture_output=True, text=True, check=True)
            if number:
                figures.setdefault(name, []).append(significant(float(took.stdout)))


def flat() -> None:
    """Measure whether memory grows with the calls: so many guards by one client of each language."""
    figures = results.setdefault("flat", {"calls": FLAT_CALLS})
    with fixed_answers() as (_, plain, _, _), contextlib.ExitStack() as stack:
        workers = {}
        for language, name, width in (("rust", "guard", 16), ("python", "guard", 1), ("node", "guard", 16)):
            if language in built:
                workers[language] = (stack.enter_context(worker(language, plain)), name, width)
        for number in range(10):
            for language, (one, name, width) in workers.items():
                one.ask("measure", name, width, FLAT_CALLS // 10, 300)
                figures.setdefault(language, []).append(memory(one.pid))
            print(f"   {(number + 1) * FLAT_CALLS // 10} calls", flush=True)


def python_instructions() -> None:
    """Count the instructions of a guard in Python, this package's and 1.1.3's, which no noise changes."""
    if not shutil.which("valgrind"):
        miss("instructions of a guard in Python: no valgrind (Debian: apt-get install valgrind)")
        return
    if "python" not in built:
        raise RuntimeError("the Python package was not built")
    figures = results.setdefault("python_instructions", {})
    calls = 50
    with fixed_answers() as (_, plain, _, _), ThreadPoolExecutor(len(cores())) as together:
        counts = {
            name: [
                together.submit(counted, python_command(PYTHON, plain, None, "--once", name, str(count)))
                for count in (calls, 2 * calls)
            ]
            for name in ("guard", "published")
        }
        for name, (once, twice) in counts.items():
            figures[name] = round((twice.result() - once.result()) / calls)


def counted(command: list[str]) -> int:
    """Return the instructions that a program takes in user space."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([*valgrind, *command], capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if not found:
        raise RuntimeError(done.stderr[-500:])
    return int(found[1])


#: The programs that a section needs in addition to the fixed-answer server.
NEEDED = dict.fromkeys(("gateway", "gateway_rules", "gateway_tenants", "gateway_limits", "chain"), ("rust", "gateway"))
SECTIONS: tuple[Callable[[], None], ...] = (
    clients_plain,
    clients_tls,
    other_pythons,
    bindings,
    gateway,
    gateway_rules,
    gateway_tenants,
    gateway_limits,
    chain,
    pure,
    footprint,
    flat,
    python_instructions,
)

if __name__ == "__main__":
    main()
