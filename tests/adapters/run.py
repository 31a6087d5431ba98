#!/usr/bin/env python3
"""Run the adapters with the real frameworks, and print the number of executions in each case.

usage: run.py [--oldest] [--source] [--jobs N] [--language LANGUAGE] [--lock] [--check] [FRAMEWORK...]

A Python framework is a file `python/requirements-FRAMEWORK.txt` with tests in `python/test_FRAMEWORK*.py`. A Node
framework is a folder `node/FRAMEWORK` with `package.json`, optional `package-lock.json`, and `*.test.mjs`; a dependency
`node` selects the version of Node. Each framework has an environment in `target/adapters`, which is rebuilt if its
requirements change, with the package under test installed from its wheel or packed from `bindings-node`. The types of a
Python adapter are checked there too.

`--oldest` uses the oldest supported versions: `requirements-FRAMEWORK-oldest.txt`, or
`node/FRAMEWORK/oldest/package.json`; without this file, the newest version is the oldest one. `--source` tests the
Python package in `bindings-python/python` without a wheel. `--lock` resolves the requirements above the line
`# Resolved:` of each file and writes the rest, or `package-lock.json`. `--check` compares the versions with the ranges
that the packages declare, which are exactly those from the oldest version to the end of the newest major one.

A test reports each case as a JSON line `{"framework", "case", "variant", "ran"}` in the file that ACTPASS_ADAPTER_CASES
names. `cases.json` names the cases, with the number of executions if it is equal for every framework. An environment
that cannot be made is skipped with a message; if CI=true, it is a failure.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGET = ROOT / "target" / "adapters"
OUTPUT = ROOT / "target" / "test-output"
PACKAGE = ROOT / "bindings-python"
WHEELS = ROOT / "target" / "wheels" / "dev"
RESOLVED = "# Resolved:\n"
#: Seconds that installing or testing one framework may take.
LONGEST = 900
#: Variables that the tests must not see.
UNWANTED = r"ACTPASS_|NODE_|NPM_CONFIG_|PYTHON|MAKE|MFLAGS|VIRTUAL_ENV|.*_API_KEY$|.*_PROXY$"
CI = os.environ.get("CI") == "true"
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")


class UnavailableError(Exception):
    """An environment could not be made."""


@dataclass
class Result:
    """The result of one framework."""

    framework: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    cases: list[dict[str, object]] = field(default_factory=list)
    output: str = ""


def main() -> int:
    """Run the frameworks, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("--source", action="store_true")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--language", choices=["python", "node"])
    parser.add_argument("frameworks", nargs="*")
    options = parser.parse_args()
    if options.check:
        return check()
    chosen = [
        one
        for one in frameworks(options.oldest)
        if (not options.language or one.language == options.language)
        and (not options.frameworks or one.name in options.frameworks)
    ]
    if not chosen:
        parser.error("no such framework")
    if options.lock:
        for one in chosen:
            one.lock()
        return 0
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
        results = list(executor.map(lambda one: timed(one, source=options.source), chosen))
    return report(results)


def check() -> int:
    """Return 1 if a package declares other versions of a framework than the tests use."""
    tested: dict[tuple[str, str], list[str]] = {}
    for one in [*frameworks(oldest=True), *frameworks(oldest=False)]:
        for name, version in one.direct().items():
            tested.setdefault((one.language, name), []).append(version)
    text = (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.search(r"^\[project.optional-dependencies]\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert extras is not None
    specifiers = re.findall(r'"([\w.-]+)([<>=!~][^";]*)', extras[1])
    declared = [(name, found, python_range(tested.get(("python", name), []))) for name, found in specifiers]
    peers = json.loads((ROOT / "bindings-node" / "package.json").read_text(encoding="utf-8"))["peerDependencies"]
    # The tests of the package use OpenTelemetry.
    wanted = {name: one for name, one in peers.items() if name != "@opentelemetry/api"}
    declared += [(name, found, npm_range(tested.get(("node", name), []))) for name, found in wanted.items()]
    problems = [
        f"{name}: declared {found}, expected {expected}" for name, found, expected in declared if found != expected
    ]
    adapters = {file.stem for file in (PACKAGE / "python" / "actpass" / "integrations").glob("[a-z]*.py")}
    named = {name.replace("-", "_") for name in re.findall(r"^([\w-]+) = ", extras[1], re.MULTILINE)}
    problems += [f"{name}: an adapter without an extra" for name in sorted(adapters - named - {"passports"})]
    imported = (
        re.findall(r"^(?:import|export)\b[^;]* from '([^.#'][^']*)'", file.read_text(encoding="utf-8"), re.MULTILINE)
        for file in ROOT.glob("bindings-node/ts/integrations/*.ts")
    )
    packages = {re.sub(r"^((?:@[^/]+/)?[^/]+).*", r"\1", name) for names in imported for name in names}
    problems += [f"{name}: imported, but no peer dependency" for name in sorted(packages - peers.keys())]
    for problem in problems:
        print(f"run.py --check: {problem}", file=sys.stderr)
    print(f"run.py --check: {len(declared)} ranges, {len(problems)} problems")
    return 1 if problems else 0


def compatible(version: str) -> tuple[int, ...]:
    """Return the part of a version that changes with incompatible releases: the major one, or that of 0.x."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major,) if major else (0, minor)


def following(version: str) -> str:
    """Return the first incompatible version: `2` after 1.5.2, `0.25` after 0.24.0."""
    *kept, last = compatible(version)
    return ".".join(map(str, [*kept, last + 1]))


def ordered(version: str) -> list[int]:
    """Return the numbers of a version, to compare."""
    return [int(part) for part in version.split(".")]


def python_range(versions: list[str]) -> str:
    """Return the specifier of an extra: from the oldest version to the end of the newest major one."""
    found = sorted(versions, key=ordered)
    return f">={found[0]},<{following(found[-1])}" if found else "a version that the tests install"


def npm_range(versions: list[str]) -> str:
    """Return the range of a peer: from the oldest version of each major one, or of 0.x, to its end."""
    found = sorted(versions, key=ordered)
    if not found:
        return "a version that the tests install"
    if compatible(found[0]) != compatible(found[-1]) and found[-1].startswith("0."):
        return f">={found[0]} <{following(found[-1])}.0"
    oldest = {compatible(one): one for one in reversed(found)}
    return " || ".join(f"^{oldest[one]}" for one in sorted(oldest))


def timed(framework: Framework, *, source: bool) -> Result:
    began = time.monotonic()
    try:
        result = framework.run(source=source)
    except UnavailableError as why:
        result = Result(framework.name, failed=int(CI), skipped=int(not CI))
        last = str(why).strip().splitlines()[-1]
        result.output = str(why) if CI else f"SKIPPED: adapter for {framework.name} (its environment: {last})"
    for record in result.cases:
        record["language"] = framework.language
    (OUTPUT / f"adapters-{framework.language}-{framework.name}.log").write_text(result.output, encoding="utf-8")
    took = time.monotonic() - began
    counts = f"{result.passed} passed, {result.failed} failed" + (", skipped" if result.skipped else "")
    print(f"{framework.language}: {framework.name}: {counts} ({took:.1f} s)", flush=True)
    if result.failed or result.skipped:
        print(result.output, file=sys.stderr, flush=True)
    return result


def report(results: list[Result]) -> int:
    """Print the table and the counts."""
    known = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
    records = [record for result in results for record in result.cases]
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "cases.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")
    wrong = [
        f"{column(one)}: {one['case']}: " + (f"ran {one['ran']}" if one["case"] in known else "not in cases.json")
        for one in records
        if known.get(one["case"], -1) not in {None, one["ran"]}
    ]
    names = list(dict.fromkeys(map(column, records)))
    width = max([len(case) for case in known], default=0)
    print()
    print(" " * width, *names, sep="  ")
    for case in [one for one in known if any(record["case"] == one for record in records)]:
        cells = [cell([one for one in records if (column(one), one["case"]) == (name, case)]) for name in names]
        print(f"{case:<{width}}", *(f"{text:<{len(name)}}" for text, name in zip(cells, names)), sep="  ")
    print("\nA cell: executions of the tool (number of variants, such as synchronous and streaming).")
    for problem in wrong:
        print(f"FAILED {problem}", file=sys.stderr)
    failed = sum(result.failed for result in results) + len(wrong)
    skipped = sum(result.skipped for result in results)
    print(f"{len({(column(one), one['case']) for one in records})} cases, {len(records)} records")
    print(
        f"{sum(result.passed for result in results)} passed, {failed} failed" + f", {skipped} skipped" * bool(skipped)
    )
    return 1 if failed else 0


def column(record: dict[str, object]) -> str:
    """Return the title of the framework's column."""
    return f"{record['language']}:{record['framework']}"


def cell(records: list[dict[str, object]]) -> str:
    """Return `0`, `0 (3)` for three variants, or `1 (2), 2` for different counts."""
    counts: dict[str, int] = {}
    for one in records:
        counts[str(one["ran"])] = counts.get(str(one["ran"]), 0) + 1
    return ", ".join(f"{ran} ({times})" if times > 1 else ran for ran, times in sorted(counts.items())) or "-"


def frameworks(oldest: bool) -> list[Framework]:
    """Return every framework that has requirements."""
    found: list[Framework] = []
    for file in sorted(HERE.glob("python/requirements-*.txt")):
        name = file.stem.removeprefix("requirements-")
        if not name.endswith("-oldest"):
            found.append(PythonFramework(name, versions(file.with_name(f"{file.stem}-oldest.txt"), file, oldest)))
    for file in sorted(HERE.glob("node/*/package.json")):
        found.append(NodeFramework(file.parent.name, versions(file.parent / "oldest" / file.name, file, oldest)))
    return found


def versions(old: Path, new: Path, oldest: bool) -> Path:
    """Return the requirements to use."""
    return old if oldest and old.is_file() else new


@dataclass
class Framework:
    """A framework, its requirements and its environment."""

    name: str
    requirements: Path
    language = ""

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        oldest = "-oldest" if "oldest" in str(self.requirements.relative_to(HERE)) else ""
        return TARGET / self.language / f"{self.name}{oldest}"

    def stamped(self, name: str, content: str) -> bool:
        """Return whether this part of the environment was made from ``content``."""
        stamp = self.folder / name
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == content

    def stamp(self, name: str, content: str) -> None:
        """Record that this part of the environment was made from ``content``."""
        (self.folder / name).write_text(content, encoding="utf-8")

    def environment(self, cases: Path, **more: str) -> dict[str, str]:
        """Return the environment of the tests, without settings of the machine, and with a separate home."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not re.match(
                r"ACTPASS_|NODE_|NPM_CONFIG_|npm_|PYTHON|MAKE|MFLAGS|VIRTUAL_ENV|.*_API_KEY$|.*_proxy$", name, re.I
            )
        }
        home = self.folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        cases.unlink(missing_ok=True)
        return {
            **kept,
            "ACTPASS_ADAPTER_CASES": str(cases),
            "ACTPASS_GATEWAY": str(ROOT / "target" / "debug" / "actpass-gateway"),
            "ACTPASS_ROOT": str(ROOT),
            "HOME": str(home),
            "DO_NOT_TRACK": "1",
            "CREWAI_DISABLE_TELEMETRY": "true",
            "CREWAI_TRACING_ENABLED": "false",
            "LANGSMITH_TRACING": "false",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            **more,
        }

    def direct(self) -> dict[str, str]:
        """Return the versions that the requirements name."""
        raise NotImplementedError

    def lock(self) -> None:
        """Resolve the requirements."""
        raise NotImplementedError

    def run(self, *, source: bool) -> Result:
        """Make the environment and run the tests."""
        raise NotImplementedError


class PythonFramework(Framework):
    """A Python framework; its tests are `test_NAME.py` and `test_NAME_*.py`."""

    language = "python"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def direct(self) -> dict[str, str]:
        """Return the versions that the requirements name."""
        above = self.requirements.read_text(encoding="utf-8").partition(RESOLVED)[0]
        return dict(line.split("==") for line in above.split())

    def lock(self) -> None:
        """Resolve the requirements."""
        direct = self.requirements.read_text(encoding="utf-8").partition(RESOLVED)[0]
        shutil.rmtree(self.folder, ignore_errors=True)
        command([sys.executable, "-m", "venv", self.folder])
        (self.folder / "direct.txt").write_text(direct, encoding="utf-8")
        command([self.python, *PIP, "-r", self.folder / "direct.txt"])
        frozen = command([self.python, "-m", "pip", "freeze"])
        self.requirements.write_text(f"{direct}{RESOLVED}{frozen}", encoding="utf-8")
        self.stamp("requirements.stamp", self.wanted())

    def wanted(self) -> str:
        """Identify the requirements and the interpreter."""
        return hashlib.sha256(self.requirements.read_bytes() + sys.version.encode()).hexdigest()

    def make(self, *, source: bool) -> None:
        """Make or update the environment."""
        if not self.stamped("requirements.stamp", self.wanted()):
            shutil.rmtree(self.folder, ignore_errors=True)
            command([sys.executable, "-m", "venv", self.folder])
            command([self.python, *PIP, "-r", self.requirements])
            self.stamp("requirements.stamp", self.wanted())
        if not source:
            wheel = next(WHEELS.glob("actpass-*.whl"), None)
            if wheel is None:
                raise UnavailableError(f"no wheel in {WHEELS}: run 'make test-adapters', or pass --source")
            built = f"{wheel.name} {wheel.stat().st_mtime_ns}"
            if not self.stamped("wheel.stamp", built):
                command([self.python, *PIP, "--force-reinstall", "--no-deps", wheel])
                self.stamp("wheel.stamp", built)

    def run(self, *, source: bool) -> Result:
        """Make the environment and run the tests."""
        self.make(source=source)
        module = self.name.replace("-", "_")
        tests = [*HERE.glob(f"python/test_{module}.py"), *HERE.glob(f"python/test_{module}_*.py")]
        cases, report = self.folder / "cases.jsonl", self.folder / "report.xml"
        report.unlink(missing_ok=True)
        more = {"PYTHONPATH": str(PACKAGE / "python")} if source else {}
        environment = self.environment(cases, PYTHONPYCACHEPREFIX=str(self.folder / "pycache"), **more)
        pytest = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        status, output = started(pytest, HERE / "python", environment)
        result = Result(self.name, cases=lines(cases), output=output)
        if report.is_file():
            [suite] = ElementTree.parse(report).getroot().iter("testsuite")
            result.skipped = int(suite.attrib["skipped"])
            result.failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            result.passed = int(suite.attrib["tests"]) - result.failed - result.skipped
        result.failed += status != 0 and not result.failed
        adapter = PACKAGE / "python" / "actpass" / "integrations" / f"{module}.py"
        if adapter.is_file():
            checked, said = self.types(adapter, environment)
            result.passed += checked
            result.failed += not checked
            result.output += said
        return result

    def types(self, adapter: Path, environment: dict[str, str]) -> tuple[bool, str]:
        """Check the types of the adapter and its example against the framework's."""
        cache = self.folder / "mypy"
        examples = ROOT / "examples" / "python"
        mypy = [self.python, "-m", "mypy", "--strict", "--cache-dir", cache, "--follow-imports=silent", adapter]
        mypy += examples.glob(f"{adapter.stem}_*.py")
        status, output = started(
            mypy, PACKAGE, environment | {"MYPYPATH": f"{PACKAGE / 'python'}{os.pathsep}{examples}"}
        )
        return status == 0, output


class NodeFramework(Framework):
    """A Node framework; its tests are the `*.test.mjs` of its folder."""

    language = "node"

    def direct(self) -> dict[str, str]:
        """Return the versions that the manifest names."""
        dependencies: dict[str, str] = json.loads(self.requirements.read_text(encoding="utf-8"))["dependencies"]
        return dependencies

    def lock(self) -> None:
        """Resolve the requirements."""
        options = ["--package-lock-only", "--omit-lockfile-registry-resolved", "--no-audit", "--no-fund"]
        command(["npm", "install", *options], self.requirements.parent)

    def make(self) -> None:
        """Make or update the environment."""
        if not shutil.which("npm"):
            raise UnavailableError("install Node 20.11 or later with npm")
        lock = self.requirements.with_name("package-lock.json")
        files = [file for file in (self.requirements, lock) if file.is_file()]
        wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        if not self.stamped("requirements.stamp", wanted):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for file in files:
                shutil.copy2(file, self.folder)
            verb = "ci" if lock in files else "install"
            command(["npm", verb, "--silent", "--no-audit", "--no-fund"], self.folder)
            self.stamp("requirements.stamp", wanted)
        # The examples are in the same folder, so that they find their framework.
        tests = [*HERE.glob("node/*.mjs"), *self.source.glob("*.mjs"), *self.source.glob("*.mts")]
        for test in [*tests, *ROOT.glob("examples/node/*.mjs")]:
            shutil.copy2(test, self.folder)
        sdk = self.folder / "node_modules" / "@actpass" / "sdk"
        shutil.rmtree(sdk, ignore_errors=True)
        sdk.mkdir(parents=True)
        # A copy, because a link would resolve the framework from the SDK's folder.
        command(["tar", "-xzf", packed(), "--strip-components=1", "-C", sdk])

    @property
    def source(self) -> Path:
        """The folder of the tests."""
        return HERE / "node" / self.name

    def run(self, *, source: bool) -> Result:
        """Make the environment and run the tests."""
        self.make()
        cases, report = self.folder / "cases.jsonl", self.folder / "report.tap"
        report.unlink(missing_ok=True)
        own = self.folder / "node_modules" / ".bin" / "node"
        tests = sorted(self.folder.glob("*.test.mjs"))
        node = [
            own if own.exists() else "node",
            "--test",
            "--test-reporter=tap",
            f"--test-reporter-destination={report}",
        ]
        status, output = started([*node, *tests], self.folder, self.environment(cases))
        result = Result(self.name, cases=lines(cases))
        said = report.read_text(encoding="utf-8") if report.is_file() else ""
        counts = dict(re.findall(r"^# (pass|fail|cancelled|skipped) (\d+)$", said, re.MULTILINE))
        result.passed = int(counts.get("pass", 0))
        result.failed = int(counts.get("fail", 0)) + int(counts.get("cancelled", 0))
        result.skipped = int(counts.get("skipped", 0))
        result.failed += (status != 0 or not counts) and not result.failed
        result.output = output + said
        return result


LOCK = threading.Lock()
PACKED: list[Path] = []


def packed() -> Path:
    """Pack the Node package once and return the tarball."""
    with LOCK:
        if not PACKED:
            folder = TARGET / "packed"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            command(["npm", "pack", "--silent", "--pack-destination", folder], ROOT / "bindings-node")
            PACKED.extend(folder.iterdir())
        return PACKED[0]


def command(parts: list[str | Path], folder: Path = ROOT) -> str:
    """Run a command and return its output. Raises :class:`UnavailableError` if it fails."""
    status, output = started(parts, folder, dict(os.environ))
    if status:
        raise UnavailableError(f"{output}\n{parts[0]} {parts[-1]} ended with {status}")
    return output


def started(parts: list[str | Path], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command, and return its status and its output."""
    try:
        done = subprocess.run(
            [str(part) for part in parts],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return 1, f"{text}\n{parts[0]} did not end within {LONGEST} s"
    return done.returncode, done.stdout


def lines(file: Path) -> list[dict[str, object]]:
    """Return the JSON lines of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
