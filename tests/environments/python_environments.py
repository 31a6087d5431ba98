"""The environments of the Python package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import EXPECTED, ROOT, SOURCES, TARGET, Box, Environment, FailedError, once

PYTHON = SOURCES / "python"
TOOLS = TARGET / "python"
WHEELS = ROOT / "target" / "wheels" / "dev"
HERE = "3.9 or later"


def wheel() -> Path:
    """Return the wheel under test, built by `make`."""
    [found] = WHEELS.glob("actpass-*.whl")
    return found


@once
def tools(name: str) -> Path:
    """Install the wheel and the pinned tools, and return the folder of the programs."""
    folder = TOOLS / name
    pinned = (PYTHON / f"requirements-{name}.txt").read_text(encoding="utf-8")
    stamp = folder / "installed"
    built = f"{pinned}{wheel().stat().st_mtime_ns}"
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not stamp.exists() or pinned != stamp.read_text(encoding="utf-8").rpartition("\n")[0] + "\n":
        shutil.rmtree(folder, ignore_errors=True)
        quietly([sys.executable, "-m", "venv", folder])
        quietly([*pip, "-r", PYTHON / f"requirements-{name}.txt"])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != built:
        quietly([*pip, "--force-reinstall", "--no-deps", wheel()])
        stamp.write_text(built, encoding="utf-8")
    return folder / "bin"


def quietly(command: list[str | Path]) -> None:
    """Run a command; abort the run if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def pinned(name: str) -> str:
    """Return the pinned version of a tool."""
    for file in ("light", "full"):
        text = (PYTHON / f"requirements-{file}.txt").read_text(encoding="utf-8")
        if found := re.search(rf"^{name}==(\S+)$", text, re.MULTILINE | re.IGNORECASE):
            return found[1]
    raise KeyError(name)


def program(box: Box) -> None:
    """Copy the programs to the folder of the environment."""
    shutil.copytree(PYTHON, box.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.txt"))


def python(*arguments: str, tools_of: str = "light", count: int = 1) -> Callable[[Box], str]:
    """Run a program and expect this many results."""

    def run(box: Box) -> str:
        program(box)
        return times(count, box.run(tools(tools_of) / "python", *arguments))

    return run


def times(count: int, text: str) -> str:
    """Return the text if it contains this many results."""
    if text.count(EXPECTED) != count:
        raise FailedError(f"expected {count} results:\n{text}")
    return text


def zipapp(box: Box) -> str:
    program(box)
    source = box.folder / "source"
    quietly([tools("light") / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", source, wheel()])
    shutil.copy2(box.folder / "probe.py", source / "__main__.py")
    box.run(tools("light") / "python", "-m", "zipapp", "source", "-o", "program.pyz")
    archive = box.away("program.pyz") / "program.pyz"
    return box.run(sys.executable, "-I", archive)


def xdist(box: Box) -> str:
    program(box)
    box.run(tools("light") / "python", "-m", "pytest", "-q", "-n", "2", "test_probe.py")
    return times(4, "\n".join(box.read(f"result-{number}") for number in range(4)))


def trio(box: Box) -> str:
    program(box)
    return box.run(tools("light") / "python", "trio_loop.py", *(["line"] if box.line else []))


def archive(name: str) -> Callable[[Box], str]:
    """Pack with shiv or pex and run the file without installed packages."""

    def run(box: Box) -> str:
        program(box)
        (box.folder / "app").mkdir()
        shutil.copy2(box.folder / "probe.py", box.folder / "app")
        box.write("app/main.py", "from probe import probe\n\n\ndef main():\n    print(probe())\n")
        box.write(
            "app/pyproject.toml",
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            '[project]\nname = "app"\nversion = "1"\n[tool.setuptools]\npy-modules = ["probe", "main"]\n',
        )
        entry = {"shiv": ["-e", "main:main"], "pex": ["-m", "main:main"]}[name]
        target = ["-o", "program.pyz"]
        box.run(tools("full") / name, *entry, *target, "./app", wheel(), PATH=f"{tools('full')}:/usr/bin:/bin")
        folder = box.away("program.pyz")
        home = {"SHIV_ROOT": str(folder / "root"), "PEX_ROOT": str(folder / "root")}
        return box.run(tools("full") / "python", "-I", folder / "program.pyz", **home)

    return run


def pyinstaller(*flags: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        box.write("main.py", MAIN)
        box.run(
            tools("full") / "pyinstaller", *flags, "--noconfirm", "--log-level", "WARN", "--name", "program", "main.py"
        )
        folder = box.away("dist")
        executable = folder / "dist" / "program"
        return times(2, box.run(executable if executable.is_file() else executable / "program"))

    return run


#: Both clients, so that the bundlers must find the imports of each.
MAIN = "import asyncio\nfrom probe import probe, probe_async\nprint(probe())\nprint(asyncio.run(probe_async()))\n"


def nuitka(box: Box) -> str:
    program(box)
    box.write("main.py", MAIN)
    command = [tools("full") / "python", "-m", "nuitka", "--standalone", "--output-dir=out", "--quiet", "main.py"]
    box.run(*command, PATH=f"{tools('full')}:{os.environ['PATH']}")
    return times(2, box.run(box.away("out/main.dist") / "main.dist" / "main.bin"))


def cx_freeze(box: Box) -> str:
    program(box)
    box.write("main.py", MAIN)
    box.run(tools("full") / "cxfreeze", "build", "--script=main.py", "--build-exe=out")
    return times(2, box.run(box.away("out") / "out" / "main"))


def uvicorn(box: Box) -> str:
    program(box)
    command = [tools("full") / "uvicorn", "serve_fastapi:app", "--host", "127.0.0.1", "--port", "0", "--loop", "uvloop"]
    with box.serving(*command, ready=r"running on (http://\S+)") as found:
        return times(2, "".join(fetched(box, f"{found[1]}/{path}") for path in ("plain", "async")))


def gunicorn(*flags: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        command = [tools("full") / "gunicorn", "serve_wsgi:app", "--bind", "127.0.0.1:0", "--workers", "2", *flags]
        with box.serving(*command, "--no-control-socket", ready=r"Listening at: (http://\S+)") as found:
            return times(8, "".join(fetched(box, found[1]) for _ in range(8)))

    return run


def fetched(box: Box, url: str) -> str:
    return box.run("curl", "--silent", "--show-error", "--retry", "20", "--retry-connrefused", "--max-time", "60", url)


def celery(serializer: str, *flags: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        command = [tools("full") / "celery", "-A", "tasks", "worker", "--loglevel", "INFO", "--without-mingle", *flags]
        with box.serving(*command, ready=r"celery@\S+ ready", SERIALIZER=serializer, C_FORCE_ROOT="1"):
            return box.run(tools("full") / "python", "ask.py", SERIALIZER=serializer)

    return run


def rows() -> list[Environment]:
    """Return the rows of the table, in its order."""

    def row(name: str, run: Callable[[Box], str], version: str = HERE, **more: object) -> Environment:
        return Environment("Python", name, run, version=version, **more)

    return [
        row("CPython", python("probe.py"), light=True),
        row("`python -OO -I`", isolated, light=True),
        row("`multiprocessing`, spawn", python("processes.py", "spawn", count=3), light=True),
        row("`multiprocessing`, fork", python("processes.py", "fork", count=3), light=True),
        row("`multiprocessing`, forkserver", python("processes.py", "forkserver", count=3), light=True),
        row("`ProcessPoolExecutor`", python("processes.py", "pool", count=3), light=True),
        row("stopped and continued (SIGSTOP, SIGCONT)", python("frozen.py", count=2), light=True),
        row(
            "second interpreter of a process",
            python("subinterpreter.py"),
            light=True,
            error="cannot load the native module of actpass: another interpreter of this process has loaded it",
        ),
        row("zipapp", zipapp, light=True, error="is an archive, and native modules cannot be loaded from archives"),
        row("pytest-xdist", xdist, pinned("pytest-xdist"), light=True),
        row("uvloop", python("uvloop_loop.py"), pinned("uvloop"), light=True),
        row(
            "trio",
            trio,
            pinned("trio"),
            light=True,
            line="`await trio.to_thread.run_sync(…)` with `ActPassClient`",
            error="found trio, with which this client does not work: use ActPassClient in trio.to_thread.run_sync",
        ),
        row("gevent, `monkey.patch_all()`", python("gevent_hub.py"), pinned("gevent"), light=True),
        row("shiv", archive("shiv"), pinned("shiv")),
        row("pex", archive("pex"), pinned("pex")),
        row("PyInstaller, one folder", pyinstaller("--onedir"), pinned("pyinstaller")),
        row("PyInstaller, one file", pyinstaller("--onefile"), pinned("pyinstaller")),
        row("Nuitka, standalone", nuitka, pinned("Nuitka")),
        row("cx_Freeze", cx_freeze, pinned("cx_Freeze")),
        row("uvicorn, FastAPI", uvicorn, pinned("fastapi")),
        row("gunicorn, `--preload`", gunicorn("--preload"), pinned("gunicorn")),
        row("gunicorn, gevent workers", gunicorn("--worker-class", "gevent"), pinned("gunicorn")),
        row("Celery, prefork, JSON", celery("json", "--concurrency", "2"), pinned("celery")),
        row("Celery, prefork, pickle", celery("pickle", "--concurrency", "2"), pinned("celery")),
        row("Celery, gevent pool", celery("json", "--pool", "gevent"), pinned("celery")),
        row("Jupyter kernel", python("notebook.py", tools_of="full", count=2), pinned("ipykernel")),
    ]


def isolated(box: Box) -> str:
    program(box)
    return box.run(
        tools("light") / "python",
        "-OO",
        "-I",
        "-c",
        "import sys; sys.path.append('.'); import probe; print(probe.probe())",
    )
