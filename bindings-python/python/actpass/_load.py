"""Explains why the native module failed to load."""

from __future__ import annotations

import os
import re
import sys

#: The folder of the native module.
FOLDER = os.path.dirname(os.path.abspath(__file__))


def explain(error: ImportError) -> ImportError:
    """Return an ImportError with the reason and the fix."""
    reason = _reason(str(error), isinstance(error, ModuleNotFoundError))
    return ImportError(f"cannot load the native module of actpass: {reason}", name="actpass._native", path=error.path)


def _reason(text: str, is_missing: bool) -> str:
    if "subinterpreters" in text:
        return (
            "another interpreter of this process has loaded it, and it supports one interpreter per process: "
            "use threads or processes instead of subinterpreters"
        )
    glibc = re.search(r"version [`']GLIBC_([\d.]+)' not found", text)
    if glibc:
        return f"glibc {glibc[1]} or later is needed: run on a newer Linux distribution"
    if archive := _archive():
        return (
            f"{archive} is an archive, and native modules cannot be loaded from archives: "
            "install actpass outside it, or use a tool that unpacks it, such as shiv or pex"
        )
    found = sorted(name for name in _listed() if name.startswith("_native.") and not name.endswith(".pyi"))
    if not found:
        return f"{FOLDER} has no native module: install a wheel (pip install actpass), or build it with maturin"
    if is_missing or "cannot import name" in text:
        version = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
        return f"{', '.join(found)} is not for {version}: install actpass with this Python, on this platform"
    return text


def _archive() -> str | None:
    """Return the archive that contains this module, if any."""
    path = FOLDER
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path if os.path.isfile(path) else None


def _listed() -> list[str]:
    try:
        return os.listdir(FOLDER)
    except OSError:
        return []
