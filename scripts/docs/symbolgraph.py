"""Renders the symbol graphs that the Swift compiler emits as one Markdown page.

DocC renders the same graphs, but as an application with its own search that works under one absolute path of a web server only.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

#: Kinds of symbols that get a section with their members.
TYPES = ("swift.class", "swift.struct", "swift.enum", "swift.protocol")


def page(folder: Path) -> str:
    """Return the page; without graphs (no Swift toolchain) it explains how to make them."""
    parts = ["# Swift API", "", "Public declarations of the module `ActPass`, from its documentation comments.", ""]
    path = folder / "ActPass.symbols.json"
    if not path.is_file():
        return "\n".join([*parts, "Not built: run `make swift-toolchain`, then `make docs`.", ""])
    graph = json.loads(path.read_text(encoding="utf-8"))
    symbols = {one["identifier"]["precise"]: one for one in graph["symbols"]}
    members: dict[str, list[dict[str, Any]]] = {}
    for edge in graph["relationships"]:
        if edge["kind"] in ("memberOf", "requirementOf") and edge["source"] in symbols:
            members.setdefault(edge["target"], []).append(symbols[edge["source"]])
    top = [one for one in graph["symbols"] if one["kind"]["identifier"] in TYPES or len(one["pathComponents"]) == 1]
    for one in sorted(top, key=lambda symbol: [part.lower() for part in symbol["pathComponents"]]):
        parts += section(one, "##")
        inner = members.get(one["identifier"]["precise"], [])
        for member in sorted(inner, key=position):
            if member["kind"]["identifier"] not in TYPES and documented(member):
                parts += section(member, "###")
    return "\n".join(parts) + "\n"


def position(symbol: dict[str, Any]) -> tuple[str, int]:
    location = symbol.get("location", {})
    return location.get("uri", ""), location.get("position", {}).get("line", 0)


def documented(symbol: dict[str, Any]) -> bool:
    """Tell declared members from synthesized ones, which have no comment in this module."""
    return "docComment" in symbol and "location" in symbol


def section(symbol: dict[str, Any], level: str) -> list[str]:
    declared = "".join(part["spelling"] for part in symbol["declarationFragments"])
    if len(declared) > 100 and "(" in declared:
        declared = wrapped(declared)
    title = ".".join(symbol["pathComponents"]) if level == "##" else f"{symbol['pathComponents'][-1]} {{ #{anchor(symbol)} }}"
    return [f"{level} {title}", "", "```swift", declared, "```", "", *comment(symbol), ""]


def anchor(symbol: dict[str, Any]) -> str:
    """Return an anchor: the symbol's path, and a hash that distinguishes overloads."""
    name = re.sub(r"[^a-z0-9.]+", "-", ".".join(symbol["pathComponents"]).lower()).strip("-")
    return f"{name}-{hashlib.sha256(symbol['identifier']['precise'].encode()).hexdigest()[:6]}"


def wrapped(declared: str) -> str:
    """Return a declaration with one parameter on each line."""
    start, depth, parts, last = declared.index("("), 0, [], 0
    for at in range(start, len(declared)):
        letter = declared[at]
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(declared[last or start + 1 : at].strip())
            last = at + 1
            if depth == 0:
                break
    return declared[: start + 1] + "\n    " + ",\n    ".join(parts) + "\n)" + declared[last:]


def comment(symbol: dict[str, Any]) -> list[str]:
    """Return a documentation comment as Markdown for Python-Markdown: nested lists are indented by four, references are code."""
    out: list[str] = []
    fenced = False
    for line in (part["text"] for part in symbol.get("docComment", {}).get("lines", [])):
        if line.startswith("```"):
            fenced = not fenced
            line = "```swift" if fenced and line.strip() == "```" else line
        elif not fenced:
            line = re.sub(r"``([^`]+)``", lambda match: f"`{match[1].split('/')[-1]}`", line)
            indent = len(line) - len(line.lstrip())
            line = " " * (indent * 2) + line.lstrip()
            if line.startswith("- ") and out and out[-1] and not out[-1].lstrip().startswith("- ") and not out[-1].startswith(" "):
                out.append("")
        out.append(line)
    return out
