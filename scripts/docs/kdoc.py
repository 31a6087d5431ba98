"""Renders the public declarations of Kotlin sources, with their KDoc, as one Markdown page.

Dokka is the usual tool. It is published to Maven repositories only and needs Gradle or a dozen jars, so this reads the sources: explicit
API mode makes every public declaration start with `public`, and every one of them has a comment.
"""

from __future__ import annotations

import re
from pathlib import Path

DECLARATION = re.compile(
    r"(?P<doc>/\*\*(?:(?!\*/).)*\*/\s*)?(?P<annotations>(?:@[\w.:]+(?:\([^)]*\))?\s+)*)"
    r"public (?P<modifiers>(?:(?:abstract|data|enum|sealed|open|fun|final|inline|suspend|value|annotation|operator|companion|override) )*)"
    r"(?P<kind>class|interface|object|val|var|fun|constructor|typealias)?\b ?(?P<rest>[^\n]*)",
    re.DOTALL,
)
ENTRY = re.compile(r"^ +/\*\*((?:(?!\*/).)*)\*/\s*\n? +([A-Z][A-Z_]+)[(,;\s]", re.MULTILINE | re.DOTALL)


def page(folder: Path) -> str:
    """Return the page."""
    parts = ["# Kotlin API", "", "Public declarations of the package `org.actpass`, from their KDoc.", ""]
    for path in sorted(folder.rglob("*.kt")):
        parts += declarations(path.read_text(encoding="utf-8"))
    return "\n".join(parts) + "\n"


def declarations(text: str) -> list[str]:
    """Return the sections of a file: `##` for a type, `###` for its members."""
    code = blanked(text)
    found: list[tuple[int, list[str]]] = []
    scopes: list[tuple[int, str]] = []
    taken: dict[str, int] = {}
    ended = 0
    for match in DECLARATION.finditer(text):
        at = match.start("modifiers")
        # Properties in a primary constructor are part of the class's declaration.
        if code[match.start("modifiers") - 7 : at] != "public " or "override " in match["modifiers"] or at < ended:
            continue
        scopes = [(end, name) for end, name in scopes if end > at]
        declared, body, ended = signature(text, code, at)
        kind = "class" if " class " in f" {declared}" else (match["kind"] or "fun")
        if "fun " in match["modifiers"] and match["kind"] == "interface":
            kind = "interface"
        name = name_of(declared, kind)
        outer = ".".join(one for _, one in scopes if one)
        full = ".".join(part for part in (outer, name) if part)
        if body is not None and kind in ("class", "interface", "object"):
            scopes.append((closing(code, body), name))
        level = "##" if kind in ("class", "interface", "object") or not outer else "###"
        title = f"{level} {full}" if level == "##" else f"{level} {name} {{ #{unique(full.lower(), taken)} }}"
        section = [title, "", "```kotlin", tidy(declared), "```", "", *comment(match["doc"] or "")]
        found.append((at, section))
        if body is not None and declared.startswith("enum"):
            for entry in ENTRY.finditer(text[body : closing(code, body)]):
                found.append((body + entry.start(), [f"- `{entry[2]}`: {' '.join(comment(entry[1]))}"]))
    return [line for _, section in sorted(found) for line in (*section, "")]


def unique(name: str, taken: dict[str, int]) -> str:
    """Return an anchor; overloads are numbered from the second."""
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}-{taken[name]}"


def blanked(text: str) -> str:
    """Return the text with comments and strings blanked, so that brackets can be counted."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"""(?:.*?)"""|"(?:\\.|[^"\\\n])*"', lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.DOTALL)


def signature(text: str, code: str, start: int) -> tuple[str, int | None, int]:
    """Return the declaration without its body or value, the start of its body in braces, and the end of the declaration."""
    depth = 0
    for at in range(start, len(code)):
        letter = code[at]
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif depth == 0 and letter == "{":
            return text[start:at].strip(), at, at
        elif depth == 0 and letter == "=" and code[at - 1] == " ":
            return text[start:at].strip(), None, at
        elif depth == 0 and letter == "\n" and not re.match(r"\s*(?:[:(.]|@JvmOverloads\s+constructor\b|constructor\b)", code[at + 1 :]) and not code[start:at].rstrip().endswith((":", ",")):
            return text[start:at].strip(), None, at
    return text[start:].strip(), None, len(code)


def closing(code: str, start: int) -> int:
    """Return the position of the brace that closes the one at `start`."""
    depth = 0
    for at in range(start, len(code)):
        depth += {"{": 1, "}": -1}.get(code[at], 0)
        if depth == 0:
            return at
    return len(code)


def name_of(declared: str, kind: str) -> str:
    if kind == "constructor" or declared.startswith("constructor"):
        return "constructor"
    if "companion object" in declared:
        return "Companion"
    declared = declared.replace("fun interface ", "interface ")
    match = re.search(r"(?:class|interface|object|val|var|fun|typealias) (?:<[^>]*> )?(?:[\w<>?, ]+\.)?(`[^`]+`|\w+)", declared)
    return match[1] if match else declared.split("(")[0]


def tidy(declared: str) -> str:
    """Return a declaration without comments, in lines of its indentation."""
    shown = re.sub(r"/\*\*.*?\*/\s*", "", declared, flags=re.DOTALL)
    shown = re.sub(r" (private|internal) constructor\(.*?\)(?= :|$)", "", shown, flags=re.DOTALL)
    shown = re.sub(r"\bpublic |@Jvm\w+\s+", "", shown)
    # A secondary constructor delegates, and a property has accessors: neither is part of the API.
    shown = re.sub(r"^(constructor\(.*?\)) : this\(.*", r"\1", shown, flags=re.DOTALL)
    shown = re.sub(r"\s+get\(\)$", "", shown)
    shown = re.sub(r"\s+constructor\(", "(", shown) if not shown.startswith("constructor") else shown
    lines = [line.rstrip() for line in shown.split("\n")]
    indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    return "\n".join([lines[0], *(line[indent:] for line in lines[1:] if line.strip())])


def comment(text: str) -> list[str]:
    """Return KDoc as Markdown: tags become lists."""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in re.sub(r"^\s*/\*\*|\*/\s*$", "", text.strip()).split("\n")]
    out: list[str] = []
    fenced = listed = False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
            line = "```kotlin" if fenced and line.strip() == "```" else line
        tag = None if fenced else re.match(r"@(\w+) ?(.*)", line)
        if tag and tag[1] in ("param", "property"):
            name, _, rest = tag[2].partition(" ")
            line = f"- `{name}`: {rest}"
        elif tag and tag[1] == "throws":
            name, _, rest = tag[2].partition(" ")
            line = f"- throws `{name}` {rest}"
        elif tag:
            line = f"- {tag[1]}: {tag[2]}"
        if tag and not listed:
            out.append("")
        listed = listed or bool(tag)
        if listed and not tag and line.strip() and not fenced:
            line = f"    {line.strip()}"
        if not fenced:
            line = re.sub(r"\[([\w. ]+)\]\[([\w.]+)\]|\[([\w.]+)\](?![(\[])", lambda match: f"`{match[1] or match[3]}`", line)
        out.append(line)
    return "\n".join(out).strip("\n").split("\n")
