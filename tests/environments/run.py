#!/usr/bin/env python3
"""Run the packages in the environments of docs/environments.md, and compare its tables with the results.

usage: run.py [--light] [--write] [NAME...]

`--light` runs the environments of `make test`; a NAME is a part of a row's name. `--write` writes the rows that ran
and worked as declared; without it, a row that differs from the document is a failure.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import shutil
import sys
import time

import node_environments
import python_environments
from harness import ROOT, TARGET, Box, Environment, Row, gateway, play

DOCUMENT = ROOT / "docs" / "environments.md"
HEAD = "| environment | version | result | line, or the message without it |\n|---|---|---|---|\n"


def main() -> int:
    """Run, compare, and return how many rows failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--package", choices=["Node", "Python"])
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    everything = [*node_environments.rows(), *python_environments.rows()]
    chosen = [
        row
        for row in everything
        if (row.light or not options.light)
        and (not options.package or row.package == options.package)
        and (not options.names or any(name in row.name for name in options.names))
    ]
    if not chosen:
        parser.error("NAME: expected a part of a row's name")
    whole = len(chosen) == len(everything)
    with gateway() as base_url, concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
        rows = list(executor.map(lambda environment: timed(environment, base_url), chosen))
    failed = [row for row in rows if row.problem]
    if options.write:
        DOCUMENT.write_text(written(everything, rows), encoding="utf-8")
    else:
        failed += compared(everything, [row for row in rows if not row.problem], whole=whole)
    for row in failed:
        print(f"\nFAILED {row.environment.package}: {row.environment.name}: {row.problem}", file=sys.stderr)
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def timed(environment: Environment, base_url: str) -> Row:
    began = time.monotonic()

    def make_box(environment: Environment, line: bool) -> Box:
        name = re.sub(r"\W+", "-", f"{environment.package} {environment.name}").strip("-").lower()
        folder = TARGET / "boxes" / f"{name}{'-line' if line else ''}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Box(folder, base_url, line)

    try:
        row = play(environment, make_box)
    except Exception as error:
        row = Row(environment, "", f"{type(error).__name__}: {error}")
    took = time.monotonic() - began
    print(f"{environment.package}: {environment.name}: {row.cell or 'FAILED'} ({took:.1f} s)", flush=True)
    return row


def written(everything: list[Environment], rows: list[Row]) -> str:
    """Return the document with these rows replaced; rows that did not run stay, unknown rows are removed."""
    text = DOCUMENT.read_text(encoding="utf-8")
    ran = {(row.environment.package, row.environment.name): row.markdown() for row in rows if not row.problem}
    for package in ("Node", "Python"):
        pattern = rf"(<!-- table: {package} -->\n)(.*?)(<!-- end -->)"
        found = re.search(pattern, text, re.DOTALL)
        assert found, f"{DOCUMENT.name} has no place for the table of {package}"
        lines = found[2].splitlines()
        kept = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
        names = [row.name for row in everything if row.package == package]
        table = [ran.get((package, name)) or kept.get(name, "") for name in names]
        text = text.replace(found[0], "".join([found[1], HEAD, *(f"{line}\n" for line in table if line), found[3]]))
    return text


def compared(everything: list[Environment], rows: list[Row], *, whole: bool) -> list[Row]:
    """Return the rows that differ from the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    different = [
        Row(row.environment, "", f"row missing from the document: {row.markdown()}")
        for row in rows
        if row.markdown() not in text.splitlines()
    ]
    if whole and not different and text != written(everything, rows):
        different.append(Row(rows[0].environment, "", f"{DOCUMENT.name} has rows of no environment; run with --write"))
    return different


if __name__ == "__main__":
    sys.exit(main())
