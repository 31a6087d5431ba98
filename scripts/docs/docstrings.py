"""A griffe extension: makes Markdown of the reStructuredText in docstrings, and code blocks of doctests."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc|ref):`~?\.?([^`]+)`")


class Docstrings(griffe.Extension):
    """Converts the docstring of each object when griffe has read it."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Return the docstring with roles as code and each doctest as a fenced block."""
    out: list[str] = []
    indent = None
    fenced = False
    for line in ROLE.sub(r"`\1`", text).split("\n"):
        if line.strip().startswith("```"):
            fenced = not fenced
            line = line + "python" if fenced and line.strip() == "```" else line
        starts = re.match(r"( *)>>> ", line)
        if starts and indent is None:
            indent = starts[1]
            out += ["", f"{indent}```python"]
        elif indent is not None and not line.strip():
            out.append(f"{indent}```")
            indent = None
        out.append(line)
    return "\n".join(out if indent is None else [*out, f"{indent}```"])
