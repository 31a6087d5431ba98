"""Another interpreter of the process loads the package."""

from __future__ import annotations

import sys

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

import actpass  # noqa: F401 - the first interpreter has it

code = f"""
import sys
sys.path[:] = {sys.path!r}
import probe
print(probe.probe(), flush=True)
"""
failed = interpreters.run_string(interpreters.create(), code)
if failed is not None:
    sys.exit(str(failed.msg if hasattr(failed, "msg") else failed))
