"""The modules that the import loads, and its error if the native module cannot be loaded."""

from __future__ import annotations

import modulefinder
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import actpass
import pytest
from actpass import _load
from support import TESTS

SOURCE = Path(actpass.__file__).parent


def sources(folder: Path) -> Path:
    """Copy the package without its native module."""
    to = folder / "actpass"
    shutil.copytree(SOURCE, to, ignore=shutil.ignore_patterns("_native.*.so", "_native*.pyd", "__pycache__"))
    return to


def refusal(folder: Path) -> str:
    """Import the package from ``folder`` in a separate process, and return the last line of its error."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import actpass; print(actpass.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()[-1]


def test_rejects_import_from_archive(tmp_path: Path) -> None:
    package = sources(tmp_path)
    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in package.glob("*.py"):
            packed.write(path, f"actpass/{path.name}")
    said = refusal(archive)
    assert said.startswith(f"ImportError: cannot load the native module of actpass: {archive} is an archive"), said
    assert "shiv or pex" in said


def test_explains_missing_native_module(tmp_path: Path) -> None:
    package = sources(tmp_path)
    said = refusal(tmp_path)
    assert f"{package} has no native module: install a wheel (pip install actpass)" in said


@pytest.mark.parametrize("name", ["_native.cpython-38-darwin.so", "_native.pyd", "_native.cp39-win_amd64.pyd"])
def test_explains_native_module_of_other_platform(tmp_path: Path, name: str) -> None:
    (sources(tmp_path) / name).write_bytes(b"")
    assert f"{name} is not for cpython {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}" in refusal(
        tmp_path
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads the message of the Linux dynamic linker")
def test_explains_damaged_native_module(tmp_path: Path) -> None:
    (sources(tmp_path) / "_native.abi3.so").write_bytes(b"\x7fELF")
    assert "cannot load the native module of actpass: " in refusal(tmp_path)
    assert "file too short" in refusal(tmp_path)


@pytest.mark.parametrize("quotes", ["`'", "''"])
def test_names_required_glibc(quotes: str) -> None:
    text = f"libc.so.6: version {quotes[0]}GLIBC_2.99{quotes[1]} not found (required by _native.abi3.so)"
    said = _load.explain(ImportError(text))
    assert str(said).endswith("glibc 2.99 or later is needed: run on a newer Linux distribution")
    assert said.name == "actpass._native"


def test_keeps_other_loader_errors() -> None:
    said = _load.explain(ImportError("libgcc_s.so.1: cannot open shared object file"))
    assert str(said) == "cannot load the native module of actpass: libgcc_s.so.1: cannot open shared object file"


def test_bundlers_find_imports_of_native_module() -> None:
    finder = modulefinder.ModuleFinder([str(SOURCE.parent)])
    finder.import_hook("actpass")
    rust = "".join(path.read_text(encoding="utf-8") for path in (TESTS.parent / "src").glob("*.rs"))
    imported = set(re.findall(r'"(actpass\.[a-z_]+)"', rust))
    assert imported
    # The native module imports the module for event loops with the first call.
    assert (imported | {"actpass._loop"}) - finder.modules.keys() == set()


def bare(code: str, *arguments: str) -> str:
    """Run a program in an interpreter that has imported no other packages, and return its output."""
    found = f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", found, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


#: Modules that take longer to import than the package. Each is imported by the first call that needs it, if any.
HEAVY = (
    "asyncio",
    "collections",
    "contextlib",
    "enum",
    "functools",
    "inspect",
    "json",
    "logging",
    "re",
    "threading",
    "typing",
    "typing_extensions",
    "weakref",
)
FIRST_CALL = """
import actpass
print(sorted({*sys.modules} & {*sys.argv[1:]}))
client = actpass.ActPassClient("apk_dev", base_url="http://127.0.0.1:9", max_retries=0)
out = client.guard("demo", "demo.tool", {"amount": 1}, lambda ctx: "ran")
print(out["executed"], sorted({*sys.modules} & {*sys.argv[1:]}))
"""


def test_import_and_first_call_load_no_heavy_modules() -> None:
    """Protect the time of `import actpass`: `typing` and its dependencies alone would triple it; see `_lazy`."""
    assert bare(FIRST_CALL, *HEAVY) == "[]\nFalse []\n"


LATER = """
import actpass
assert "typing" not in sys.modules
import inspect, typing

hints = typing.get_type_hints(actpass.ActPassClient.guard)
assert hints["execute_fn"] == typing.Callable[[actpass.ExecutionContext], typing.Any], hints
assert hints["mode"] == typing.Optional[actpass.Mode], hints
assert typing.get_type_hints(actpass.AsyncActPassClient.preflight)["return"] is actpass.Decision
if sys.version_info >= (3, 10):
    parameters = inspect.signature(actpass.ActPassClient.preflight, eval_str=True)
    assert parameters.return_annotation is actpass.Decision
"""


def test_annotations_name_types_that_are_imported_later() -> None:
    assert bare(LATER) == ""


EXPORTS = """
import actpass
assert {*actpass.__all__} <= {*dir(actpass)}
assert not hasattr(actpass, "Decisions")
from actpass import *
assert Decision.__name__ == "Decision" and not {*actpass.__all__} - {*globals()}
from actpass import Decision as again
assert again is Decision is actpass.Decision is actpass._types.Decision
"""


def test_types_are_exported_before_they_are_imported() -> None:
    assert bare(EXPORTS) == ""
