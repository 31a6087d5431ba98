"""Writes the page about the figures: the goals, the tables and the pictures."""
# ruff: noqa: E501, RUF001 - the page's text.

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plots

RESULTS = Path(__file__).resolve().parents[1] / "docs/benchmarks/results.json"

LABELS = {
    "rust.socket": "bytes over a raw socket",
    "rust.hyper": "hyper, nothing parsed (the floor)",
    "rust.reqwest": "reqwest, nothing parsed",
    "rust.guard": "ActPass, guard",
    "rust.host": "ActPass, calling thread (`BlockingClient`)",
    "rust.background": "ActPass, background runtime",
    "python.guard": "actpass, guard",
    "python.preflight": "actpass, preflight",
    "python.protect": "actpass, protect",
    "python.published": "actpass 1.1.3, guard",
    "python.pycurl": "pycurl",
    "python.http_client": "http.client kept alive",
    "python.httpx": "httpx",
    "python.requests": "requests",
    "python.async_guard": "actpass, async guard",
    "python.aiohttp": "aiohttp",
    "python.httpx_async": "httpx, async",
    "python.uvloop_guard": "actpass, async guard on uvloop",
    "python.uvloop_aiohttp": "aiohttp on uvloop",
    "node.guard": "@actpass/sdk, guard",
    "node.undici": "undici",
    "node.http": "node:http kept alive",
    "node.axios": "axios",
    "node.fetch": "fetch",
    "swift.guard": "ActPass, guard",
    "swift.urlsession": "URLSession",
    "kotlin.guard": "ActPass, guard",
    "kotlin.httpclient": "java.net.http",
}
LANGUAGES = {"rust": "Rust", "python": "Python", "node": "Node", "swift": "Swift", "kotlin": "Kotlin"}
STORES = {
    "fixed": "fixed answers",
    "sqlite": "gateway, SQLite",
    "memory": "gateway, SQLite, file in memory",
    "postgresql": "gateway, PostgreSQL",
}
MB = 1e6
MIB = 2**20


def is_ours(name: str) -> bool:
    """Whether a contender is this project's."""
    return name.partition(".")[2] in {
        "guard",
        "host",
        "background",
        "preflight",
        "protect",
        "async_guard",
        "uvloop_guard",
    }


def to_json(results: dict[str, Any]) -> str:
    """Return the results as JSON, the rounds of a figure on one line."""
    rounds: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: mark(member) for name, member in value.items()}
        if isinstance(value, list) and all(isinstance(item, (int, float)) or item is None for item in value):
            rounds.append(json.dumps(value))
            return f"@{len(rounds) - 1}@"
        return [mark(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(mark(results), indent=1)
    for number, line in enumerate(rounds):
        text = text.replace(f'"@{number}@"', line)
    return text + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the page and its pictures."""
    pictures = draw(results, folder)
    parts = [
        "# Benchmarks",
        "Written by `make bench` ([how to repeat it](repeating.md)); the figures are in [`results.json`](results.json).",
        machine(results),
        goals(results),
        failures(results),
        clients(results, "plain", "Clients over plain HTTP", pictures),
        clients(results, "tls", "Clients over TLS", pictures),
        other_pythons(results),
        bindings(results),
        gateway(results, pictures),
        growth(results, pictures),
        chain(results, pictures),
        pure(results),
        footprint(results),
        flat(results, pictures),
    ]
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")


# Figures.


@dataclass
class Figure:
    """The median of the rounds, the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float] | None) -> Figure | None:
        """Return the figure of some rounds; `None` without rounds."""
        return cls(statistics.median(rounds), min(rounds), max(rounds)) if rounds else None

    def spread(self, digits: int) -> str:
        """Return the least and the most."""
        return f"{number(self.low, digits)}..{number(self.high, digits)}"


def number(figure: float | None, digits: int = 1) -> str:
    """Return a figure, in groups of three digits."""
    return "–" if figure is None else f"{figure:,.{digits}f}".replace(",", " ")


def at(results: dict[str, Any], *names: str) -> Any:
    """Return the value under these names, or ``None``."""
    found: Any = results
    for name in names:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def ratio(above: Sequence[float] | None, below: Sequence[float] | None) -> Figure | None:
    """Return how many times one is the other: of the medians, and the least and the most of a round."""
    if not above or not below:
        return None
    each = [one / other for one, other in zip(above, below)]
    return Figure(statistics.median(above) / statistics.median(below), min(each), max(each))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# The parts of the page.


def machine(results: dict[str, Any]) -> str:
    """Describe the machine, the versions and the load of the run."""
    about = results["about"]
    where, versions, settings = about["machine"], about["versions"], about["settings"]
    there = ", ".join(f"{name} {bare(version, name)}" for name, version in versions.items() if version)
    return "\n".join(
        [
            f"**{about['date']}**, `{about['command']}`, commit `{about['commit']}`.",
            "",
            f"- Machine: {where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['system']}; {where['disk']}.",
            f"- Versions: {there}.",
            f"- Rounds: {settings['rounds']}, interleaved, after one warm-up round; in each at most {settings['calls']} calls and "
            f"{settings['seconds']} s of each contender. A figure is the median over the rounds; its spread is the lowest and highest "
            "round. p50 and p99 are a round's.",
            f"- Load average (1, 5, 15 min): {average(about['load_average_at_start'])} at the start, "
            f"{average(about['load_average_at_end'])} at the end, {about['seconds']} s later, including the two programs "
            "of the measurement. Above about 2.5 at the start, other programs ran too: doubt the times more than the ratios.",
            "- Sequential calls: client and server on the same core, which excludes the scheduler's placement. Concurrent calls: on all "
            "cores, including the server's work.",
            "- Processor time is the client's own, user and system, over all its threads.",
        ]
    )


def bare(version: str, name: str) -> str:
    """Return a version without the name before it."""
    return version.removeprefix(f"{name} ").removeprefix(f"{name}-").removeprefix("openjdk version ")


def average(figures: Sequence[float]) -> str:
    """Return load averages."""
    return " ".join(f"{figure:.2f}" for figure in figures)


def failures(results: dict[str, Any]) -> str:
    """List the missing and failed parts."""
    said = [f"- Not measured: {what}" for what in results["missing"]]
    said += [f"- **Failed**: {what}: {' '.join(why.split())}" for what, why in results["failures"].items()]
    return "\n".join(["## Missing parts", "", *(said or ["Nothing: every part ran."])])


def clients(results: dict[str, Any], scheme: str, title: str, pictures: set[str]) -> str:
    """Return the tables of the clients."""
    figures = at(results, f"clients_{scheme}")
    if not figures:
        return ""
    parts = [f"## {title}"]
    for width, names in figures.items():
        many = width != "1"
        parts.append(
            f"### {'Sequential calls, on one core' if not many else f'{width} concurrent calls, on all cores'}"
        )
        picture = f"{scheme}-{width}.svg"
        if picture in pictures:
            parts.append(f"![{title}, {width} concurrent]({picture})")
        floor = at(names, "rust.hyper", "p50")
        rows = []
        for name, rounds in names.items():
            p50, p99, rate = (Figure.of(rounds.get(what)) for what in ("p50", "p99", "rate"))
            cpu = Figure.of(rounds.get("cpu"))
            if p50 is None or p99 is None or rate is None:
                continue
            times = ratio(rounds["p50"], floor)
            language = LANGUAGES[name.partition(".")[0]]
            label = f"{language}: {LABELS[name]}"
            rows.append(
                [
                    f"**{label}**" if is_ours(name) else label,
                    number(p50.median, 0 if many else 1),
                    p50.spread(0 if many else 1),
                    number(p99.median, 0),
                    number(rate.median, 0),
                    rate.spread(0),
                    number(cpu.median if cpu else None, 1),
                    number(times.median if times else None, 2),
                ]
            )
        head = ["", "p50, µs", "min..max", "p99, µs", "calls/s", "min..max", "client's CPU, µs/call", "p50, × hyper"]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def other_pythons(results: dict[str, Any]) -> str:
    """Return the table of further interpreters."""
    figures = at(results, "other_pythons")
    if not figures:
        return ""
    rows = []
    for version, names in figures.items():
        ours, theirs = at(names, "python.guard", "p50"), at(names, "python.published", "p50")
        times = ratio(ours, theirs)
        if times:
            rows.append(
                [
                    version,
                    number(statistics.median(ours)),
                    number(statistics.median(theirs)),
                    number(times.median, 3),
                    times.spread(3),
                ]
            )
    head = ["Python", "actpass, guard, p50 µs", "1.1.3, p50 µs", "ratio", "min..max"]
    text = "## TLS on further interpreters\n\nSequential calls. Up to Python 3.11, `urllib`, which 1.1.3 uses, parses all authorities at each call."
    return f"{text}\n\n{table(head, rows)}"


def bindings(results: dict[str, Any]) -> str:
    """Return the table of packages with a core in Rust behind Python and Node."""
    labels = {
        "python.guard": "**Python: actpass, async guard over HTTP**",
        "python.temporal": "Python: temporalio, empty call over gRPC",
        "python.restate": "Python: restate-sdk, empty invocation without a network",
        "node.guard": "**Node: @actpass/sdk, guard over HTTP**",
        "node.temporal": "Node: @temporalio/worker, empty call over gRPC",
        "node.restate": "Node: @restatedev/restate-sdk, empty invocation without a network",
    }
    rows = []
    for name, label in labels.items():
        row = [label]
        for width in ("1", "16"):
            for what, digits in (("p50", 1), ("cpu", 1), ("rate", 0)):
                figure = Figure.of(at(results, "bindings", width, name, what))
                row.append(number(figure.median if figure else None, digits))
        rows.append(row)
    if not at(results, "bindings"):
        return ""
    head = [
        "",
        "p50, µs",
        "client's CPU, µs/call",
        "calls/s",
        "16 concurrent: p50, µs",
        "client's CPU, µs/call",
        "calls/s",
    ]
    said = (
        "Temporal's and Restate's packages have the same shape: a core in Rust behind Python and Node. Temporal's call is "
        "`GetSystemInfo` to a server that answers with an empty message. Restate's is an invocation of a handler that returns "
        "its argument, from the bytes of its request to those of its response; its package for Node runs its core as WebAssembly. "
        "The calls do different work: the table compares calls through a boundary between languages, not the products."
    )
    return "\n\n".join(["## Other cores in Rust", said, table(head, rows)])


def gateway(results: dict[str, Any], pictures: set[str]) -> str:
    """Return the table of the stores."""
    figures = at(results, "gateway")
    if not figures:
        return ""
    rows = []
    for width, stores in figures.items():
        for store, rounds in stores.items():
            rows.append([STORES[store], width, *load_row(rounds)])
    text = (
        "## Gateway\n\nPreflights by the refund policy of three rules, each with a new idempotency key, answered after the decision is "
        "durably recorded. One program generates the load on the same cores; the fixed-answer server under the same "
        "load shows the generator's share."
    )
    p50, p99 = (Figure.of([one / 1e3 for one in at(results, "disk", what) or []]) for what in ("p50", "p99"))
    if p50 and p99:
        text += (
            f" On this disk, a write of 64 KiB with `fsync` takes {number(p50.median, 2)} ms ({p50.spread(2)}), p99 {number(p99.median, 2)} ms "
            f"({p99.spread(2)}). A commit waits for one such write, so 64 connections get at most {number(64e3 / p50.median, 0)} preflights/s, "
            "however fast the gateway is. With the data file in memory, nothing waits for the disk: that row is the gateway's own cost."
        )
    image = "\n\n![preflights a second](gateway.svg)" if "gateway.svg" in pictures else ""
    return f"{text}{image}\n\n{table(['', 'connections', *LOAD_HEAD], rows)}"


LOAD_HEAD = ["preflights/s", "min..max", "p50, ms", "p99, ms", "p99 min..max"]


def load_row(rounds: dict[str, Any]) -> list[str]:
    """Return the cells of a load."""
    rate, p50, p99 = (Figure.of(rounds.get(what)) for what in ("rate", "p50", "p99"))
    if rate is None or p50 is None or p99 is None:
        return ["–"] * len(LOAD_HEAD)
    late = Figure(p99.median / 1e3, p99.low / 1e3, p99.high / 1e3)
    return [number(rate.median, 0), rate.spread(0), number(p50.median / 1e3, 2), number(late.median, 2), late.spread(2)]


def growth(results: dict[str, Any], pictures: set[str]) -> str:
    """Return how costs grow with rules and tenants."""
    parts = []
    for section, what, width in (("gateway_rules", "rules", 64), ("gateway_tenants", "tenants", 256)):
        figures = at(results, section)
        if figures:
            rows = [[count, *load_row(rounds)] for count, rounds in figures.items()]
            parts.append(f"{width} connections, SQLite.\n\n{table([what, *LOAD_HEAD], rows)}")
    if limits := at(results, "gateway_limits"):
        rows = [[name, *load_row(rounds)] for name, rounds in limits.items()]
        said = "64 connections, SQLite; all decisions count in the same accounts."
        parts.append(f"{said}\n\n{table(['budgets and history conditions', *LOAD_HEAD], rows)}")
    if "rules.svg" in pictures:
        parts.append("![policy evaluation](rules.svg)")
    note = (
        "Cost of a preflight by the number of rules and tenants. In a policy of n rules the last three are the refund policy, whose first "
        "rule decides; the earlier rules compare the tool and an amount."
    )
    return "\n\n".join(["## Growth", note, *parts]) if parts else ""


def chain(results: dict[str, Any], pictures: set[str]) -> str:
    """Return the cost of a long chain."""
    figures = at(results, "chain")
    if not figures or not figures.get("steps"):
        return ""
    rows = [
        [number(step["events"], 0), number(step["rate"], 0), number(step["memory"] / MIB)] for step in figures["steps"]
    ]
    said = [
        "## A long chain",
        f"{number(figures['events'], 0)} decisions in one chain (`EVENTS` sets the number; the full run has a million), by 64 connections, SQLite.",
    ]
    if "verify_seconds" in figures:
        verify, export, start = (Figure.of(figures[f"{what}_seconds"]) for what in ("verify", "export", "start"))
        assert verify and export and start
        said.append(
            f"Data file {number(figures['data_bytes'] / MB)} MB; export {number(figures['export_bytes'] / MB)} MB in "
            f"{number(export.median, 2)} s ({export.spread(2)}); `evidence verify` of the export {number(verify.median, 2)} s ({verify.spread(2)}); "
            f"start of a gateway on the data file {number(start.median, 2)} s ({start.spread(2)}), with {number(figures['start_memory'] / MIB)} MiB. "
            f"An idle connection takes {number(figures['bytes_per_idle_connection'] / 1024)} KiB of the gateway."
        )
    if "chain.svg" in pictures:
        said.append("![rate and memory as the chain grows](chain.svg)")
    return "\n\n".join([*said, table(["decisions", "preflights/s", "gateway's memory, MiB"], rows)])


PURE = {
    "policy_3_rules": "policy, 3 rules",
    "policy_100_rules": "policy, 100 rules",
    "policy_1000_rules": "policy, 1 000 rules",
    "policy_10000_rules": "policy, 10 000 rules",
    "canonical_json_400_b": "canonical JSON of a request of 400 bytes",
    "parse_1_kb": "strict parsing, 1 KB",
    "parse_100_kb": "strict parsing, 100 KB",
    "hash_payload_1_kb": "`hash_payload`, 1 KB",
    "hash_payload_100_kb": "`hash_payload`, 100 KB",
    "jws_verify": "verifying a passport's signature",
    "guard_in_memory": "guard, transport in memory",
    "guard_in_memory_100_kb": "guard, transport in memory, arguments of 100 KB",
    "empty_call": "a call that does nothing",
}


def pure(results: dict[str, Any]) -> str:
    """Return the costs of local calls and of the language boundaries."""
    figures = at(results, "pure")
    if not figures:
        return ""
    parts = ["## Pure costs", "On one core, without a network."]
    rows = []
    for name, rounds in figures.items():
        language, _, what = name.partition(".")
        cost = Figure.of([one / 1e3 for one in rounds])
        if language == "rust" and cost:
            rows.append([PURE[what], number(cost.median, 2), cost.spread(2)])
    parts.append(table(["core and policy, Rust", "µs", "min..max"], rows))
    parts.append(
        "Crossing each language's boundary: a call that does nothing, and `hash_payload` of the language's own objects, which includes "
        "strict parsing and `hash_payload` in the core. `guard` less `BlockingClient` is the cost of the boundary in a whole guard: "
        "arguments in, a decision of 231 bytes back as native objects, a callback."
    )
    rows = []
    for language in ("python", "node", "swift", "kotlin"):
        cells = [
            Figure.of(figures.get(f"{language}.{what}"))
            for what in ("empty_call", "hash_payload_1_kb", "hash_payload_100_kb")
        ]
        if not any(cells):
            continue
        whole, bare = (at(results, "clients_plain", "1", name, "p50") for name in (f"{language}.guard", "rust.host"))
        added = number(statistics.median(whole) - statistics.median(bare)) if whole and bare else "–"
        rows.append([LANGUAGES[language], *(number(cell.median / 1e3 if cell else None, 2) for cell in cells), added])
    parts.append(
        table(
            ["boundary", "empty, µs", "`hash_payload` 1 KB, µs", "100 KB, µs", "guard less `BlockingClient`, p50 µs"],
            rows,
        )
    )
    return "\n\n".join(parts)


def footprint(results: dict[str, Any]) -> str:
    """Return sizes, starts and memory."""
    figures = at(results, "footprint")
    if not figures:
        return ""
    parts = ["## Sizes, starts, memory"]
    rows = [[name, number(size / MB, 2)] for name, size in figures.get("binaries", {}).items()]
    parts.append(table(["stripped binary, with TLS", "MB"], rows))
    rows = []
    for name, rounds in figures.get("starts", {}).items():
        took = Figure.of(rounds)
        if took:
            rows.append([name.replace(".", ": ", 1), number(took.median, 1), took.spread(1)])
    parts.append(table(["import or require, fresh interpreter", "ms", "min..max"], rows))
    peaks = figures.get("memory_after_calls", {})
    rows = [
        [f"{LANGUAGES[name.partition('.')[0]]}: {LABELS[name]}", number(size / MIB)]
        for name, size in peaks.items()
        if name != "calls"
    ]
    parts.append(
        "The processes are the workers of the benchmark, except those of Python's two `guard`, which import one package and nothing else."
    )
    parts.append(table([f"most memory of a fresh process, {number(peaks.get('calls'), 0)} calls", "MiB"], rows))
    each = figures.get("memory_each", {})
    rows = [
        [
            LANGUAGES[language],
            *(
                number(each[f"{language}.{what}"] / 1024 if f"{language}.{what}" in each else None)
                for what in ("client", "connection")
            ),
        ]
        for language in ("rust", "python", "node")
        if f"{language}.client" in each
    ]
    parts.append(table(["memory for each further one, KiB", "client that made a call", "idle connection"], rows))
    return "\n\n".join(parts)


def flat(results: dict[str, Any], pictures: set[str]) -> str:
    """Return how memory is after many calls."""
    figures = at(results, "flat")
    if not figures:
        return ""
    rows = [
        [LANGUAGES[language], number(sizes[0] / MIB), number(sizes[-1] / MIB), number((sizes[-1] - sizes[0]) / MIB, 2)]
        for language, sizes in figures.items()
        if language != "calls"
    ]
    image = "![memory over the calls](flat.svg)\n\n" if "flat.svg" in pictures else ""
    head = ["one client, MiB", "after a tenth", "at the end", "growth"]
    return f"## Memory over {number(figures['calls'], 0)} guarded calls\n\n{image}{table(head, rows)}"


# Pictures.


def draw(results: dict[str, Any], folder: Path) -> set[str]:
    """Draw the pictures; return the names of the drawn ones."""
    for scheme, said in (("plain", "plain HTTP"), ("tls", "TLS, connections kept")):
        for width in ("1", "16", "64"):
            draw_clients(at(results, f"clients_{scheme}", width) or {}, folder / f"{scheme}-{width}.svg", said, width)
    lines = []
    for store, label in STORES.items():
        points = []
        for width, stores in (at(results, "gateway") or {}).items():
            rate = Figure.of(at(stores, store, "rate"))
            if rate:
                points.append((float(width), rate.median, rate.low, rate.high))
        lines.append(plots.Line(label, points))
    note = "median of the rounds, with the least and the most; the load runs on the same cores"
    plots.lines(
        folder / "gateway.svg",
        "Preflights a second, durably recorded",
        note,
        lines,
        ("connections", "preflights/s"),
        (True, False),
    )
    points = []
    for rules in (3, 100, 1_000, 10_000):
        cost = Figure.of(at(results, "pure", f"rust.policy_{rules}_rules"))
        if cost:
            points.append((float(rules), cost.median / 1e3, cost.low / 1e3, cost.high / 1e3))
    note = "one evaluation, one core; the last three rules decide"
    plots.lines(
        folder / "rules.svg", "Evaluating a policy", note, [plots.Line("policy", points)], ("rules", "µs"), (True, True)
    )
    steps = at(results, "chain", "steps") or []
    rates = [(step["events"], step["rate"], step["rate"], step["rate"]) for step in steps]
    note = "64 connections, SQLite, one chain"
    plots.lines(
        folder / "chain.svg",
        "Preflights a second as the chain grows",
        note,
        [plots.Line("gateway, SQLite", rates)],
        ("decisions in the chain", "preflights/s"),
        (False, False),
    )
    flat_figures = at(results, "flat") or {}
    lines = []
    for language, sizes in flat_figures.items():
        if language != "calls":
            share = flat_figures["calls"] / 10
            mib = [size / MIB for size in sizes]
            lines.append(
                plots.Line(
                    LANGUAGES[language], [((index + 1) * share, size, size, size) for index, size in enumerate(mib)]
                )
            )
    if steps:
        of_gateway = [(step["events"], step["memory"] / MIB) for step in steps]
        lines.append(plots.Line("gateway", [(events, size, size, size) for events, size in of_gateway]))
    plots.lines(
        folder / "flat.svg",
        "Resident memory over the calls",
        "one client, or one gateway",
        lines,
        ("calls", "MiB"),
        (False, False),
    )
    return {file.name for file in folder.glob("*.svg")}


def draw_clients(figures: dict[str, Any], file: Path, said: str, width: str) -> None:
    """Draw a picture of clients."""
    what = "p50" if width == "1" else "rate"
    groups = {language: plots.Group(title) for language, title in LANGUAGES.items()}
    for name, rounds in figures.items():
        figure = Figure.of(rounds.get(what))
        if figure:
            bar = plots.Bar(LABELS[name].replace("`", ""), figure.median, figure.low, figure.high, is_ours(name))
            groups[name.partition(".")[0]].bars.append(bar)
    title = (
        f"Sequential guarded calls, {said}: p50"
        if width == "1"
        else f"{width} concurrent guarded calls, {said}: calls a second"
    )
    note = "microseconds, less is better" if width == "1" else "more is better"
    unit = "µs" if width == "1" else "/s"
    plots.bars(
        file,
        title,
        f"{note}; logarithmic; the line is the least and the most of the rounds; blue is this project",
        list(groups.values()),
        unit,
    )


# The goals.


@dataclass
class Goal:
    """A figure that must be reached, and one that is aimed at; ``least`` where more is better."""

    what: str
    figure: Figure | None
    must: float
    aim: float
    unit: str = "×"
    digits: int = 2
    least: bool = False

    def row(self) -> list[str]:
        """Return its cells."""
        sign = "≥" if self.least else "≤"
        bounds = [
            f"{sign} {number(bound, self.digits if bound % 1 else 0)} {self.unit}" for bound in (self.must, self.aim)
        ]
        if self.must == self.aim:
            bounds[1] = ""
        if self.figure is None:
            return [self.what, "not measured", "", *bounds, "**not measured**"]
        median = self.figure.median
        met = [median >= bound if self.least else median <= bound for bound in (self.must, self.aim)]
        said = (
            ("reached" if self.must == self.aim else "aim reached") if met[1] else "reached" if met[0] else "**missed**"
        )
        return [
            self.what,
            f"{number(self.figure.median, self.digits)} {self.unit}",
            self.figure.spread(self.digits),
            *bounds,
            said,
        ]


def goals(results: dict[str, Any]) -> str:
    """Return the table of the goals."""

    def plain(name: str, width: str = "1", what: str = "p50") -> Any:
        return at(results, "clients_plain", width, name, what)

    def times(ours: str, theirs: str, width: str = "1", what: str = "p50") -> Figure | None:
        return ratio(plain(ours, width, what), plain(theirs, width, what))

    def load(store: str, what: str) -> Any:
        return at(results, "gateway", "64", store, what)

    def policy(rules: int) -> Figure | None:
        return Figure.of([one / 1e3 for one in at(results, "pure", f"rust.policy_{rules}_rules") or []])

    def per_event(what: str, unit: float) -> Figure | None:
        size, events = at(results, "chain", what), at(results, "chain", "events")
        return Figure.of([size / events / unit]) if size else None

    def rate_of(what: str) -> Figure | None:
        lines = at(results, "chain", "lines")
        return Figure.of([lines / second / 1e3 for second in at(results, "chain", what) or []])

    instructions = at(results, "python_instructions") or {}
    counted = ratio(*([instructions[name]] if name in instructions else None for name in ("guard", "published")))
    late = Figure.of([one / 1e3 for one in load("sqlite", "p99") or []])
    tls = [at(results, "clients_tls", "1", name, "p50") for name in ("python.guard", "python.published")]
    own_version = at(results, "about", "versions", "python") or ""
    is_old = version_of(own_version) < (3, 12)
    starts = at(results, "footprint", "starts") or {}
    peaks = at(results, "footprint", "memory_after_calls") or {}
    binaries = at(results, "footprint", "binaries") or {}
    table_of_goals = [
        Goal("Rust guard to hyper, p50", times("rust.guard", "rust.hyper"), 1.8, 1.5),
        Goal("Python guard to 1.1.3, p50", times("python.guard", "python.published"), 0.30, 0.20),
        Goal("Python guard to pycurl, p50", times("python.guard", "python.pycurl"), 1.0, 1.0),
        Goal("Python guard to 1.1.3, user instructions", counted, 0.20, 0.13, digits=3),
        Goal(
            "Python, 16 threads to 1.1.3, calls/s",
            times("python.guard", "python.published", "16", "rate"),
            9,
            13,
            least=True,
            digits=1,
        ),
        Goal(
            "Python, 16 threads to pycurl, calls/s",
            times("python.guard", "python.pycurl", "16", "rate"),
            1.3,
            1.3,
            least=True,
        ),
        Goal("Python, 64 threads to 1.1.3, p99", times("python.guard", "python.published", "64", "p99"), 0.25, 0.12),
        Goal("Python async to aiohttp, p50", times("python.async_guard", "python.aiohttp"), 0.6, 0.6),
        Goal(
            "Python async to aiohttp, 64 concurrent, calls/s",
            times("python.async_guard", "python.aiohttp", "64", "rate"),
            4,
            5,
            least=True,
            digits=1,
        ),
        Goal(
            "Python async to aiohttp, both on uvloop, 64 concurrent, calls/s",
            times("python.uvloop_guard", "python.uvloop_aiohttp", "64", "rate"),
            3,
            3,
            least=True,
            digits=1,
        ),
        Goal(
            "Python async to httpx, 64 concurrent, calls/s",
            times("python.async_guard", "python.httpx_async", "64", "rate"),
            50,
            50,
            least=True,
            digits=0,
        ),
        Goal("Node guard to undici, p50", times("node.guard", "node.undici"), 1.0, 0.7),
        Goal("Node guard to fetch, p50", times("node.guard", "node.fetch"), 0.35, 0.35),
        Goal("Node guard to undici, p99", times("node.guard", "node.undici", what="p99"), 0.5, 0.5),
        *(
            Goal(
                f"Node guard to {peer}, {width} concurrent, calls/s",
                times("node.guard", f"node.{peer}", width, "rate"),
                must,
                aim,
                least=True,
                digits=1,
            )
            for width in ("16", "64")
            for peer, must, aim in (("undici", 1.3, 1.6), ("fetch", 10, 10))
        ),
        Goal("Swift guard to hyper, p50", times("swift.guard", "rust.hyper"), 2.5, 2.5),
        Goal("Swift guard to URLSession, p50", times("swift.guard", "swift.urlsession"), 1, 1),
        Goal("Kotlin guard to hyper, p50", times("kotlin.guard", "rust.hyper"), 4, 4),
        Goal("Kotlin guard to java.net.http, p50", times("kotlin.guard", "kotlin.httpclient"), 1, 1),
        Goal(
            f"Python {own_version} guard to 1.1.3, TLS kept, p50",
            ratio(*tls),
            *((0.01, 0.01) if is_old else (0.15, 0.15)),
            digits=4,
        ),
        *(
            Goal(
                f"Python {version} guard to 1.1.3, TLS kept, p50",
                ratio(at(names, "python.guard", "p50"), at(names, "python.published", "p50")),
                *((0.01, 0.01) if version_of(version) < (3, 12) else (0.15, 0.15)),
                digits=4,
            )
            for version, names in (at(results, "other_pythons") or {}).items()
        ),
        *(
            Goal(
                f"Gateway, {what}, to the fixed-answer server, 64 connections, preflights/s",
                ratio(load(store, "rate"), load("fixed", "rate")),
                0.5,
                0.6,
                least=True,
            )
            for store, what in (("sqlite", "SQLite"), ("memory", "SQLite in memory"))
        ),
        Goal("Gateway, SQLite, 64 connections, p99", late, 8, 8, "ms"),
        Goal(
            "Gateway, PostgreSQL to SQLite, 64 connections, preflights/s",
            ratio(load("postgresql", "rate"), load("sqlite", "rate")),
            0.7,
            0.7,
            least=True,
        ),
        Goal(
            "Gateway, 1 000 tenants to one, preflights/s",
            ratio(*(at(results, "gateway_tenants", tenants, "rate") for tenants in ("1000", "1"))),
            0.9,
            0.9,
            least=True,
        ),
        Goal("Gateway, data file per decision", per_event("data_bytes", 1e3), 0.6, 0.6, "KB"),
        Goal("Gateway, export, thousand events/s", rate_of("export_seconds"), 400, 400, "", digits=0, least=True),
        Goal("Gateway, verification, thousand events/s", rate_of("verify_seconds"), 400, 400, "", digits=0, least=True),
        Goal(
            f"Gateway, start on {number(at(results, 'chain', 'events'), 0)} decisions",
            Figure.of(at(results, "chain", "start_seconds")),
            1,
            1,
            "s",
        ),
        Goal("Policy of 3 rules", policy(3), 1, 1, "µs"),
        Goal("Policy of 100 rules", policy(100), 5, 5, "µs"),
        Goal("Policy of 10 000 rules", policy(10_000), 20, 20, "µs"),
        Goal(
            "Python import to 1.1.3", ratio(starts.get("python.actpass"), starts.get("python.actpass 1.1.3")), 0.2, 0.2
        ),
        *(
            Goal(f"Stripped binary with TLS, {name}", Figure.of([size / MB]), 4, 4, "MB")
            for name, size in binaries.items()
            if name != "gateway"
        ),
        Goal(
            f"Python, most memory after {number(peaks.get('calls'), 0)} calls, to 1.1.3",
            ratio(*([peaks[name]] if name in peaks else None for name in ("python.guard", "python.published"))),
            0.8,
            0.8,
        ),
        *(
            Goal(
                f"Memory after {number(results['flat']['calls'], 0)} calls to that after a tenth, {LANGUAGES[language]}",
                ratio([sizes[-1]], [sizes[0]]),
                1.05,
                1.05,
            )
            for language, sizes in (at(results, "flat") or {}).items()
            if language != "calls"
        ),
    ]
    rows = [goal.row() for goal in table_of_goals]
    missed = sum("**" in row[-1] for row in rows)
    head = ["", "figure", "min..max", "must", "aim", ""]
    return f"## Goals\n\n{len(rows) - missed} of {len(rows)} reached. A ratio divides the medians; its spread covers single rounds.\n\n{table(head, rows)}"


def version_of(text: str) -> tuple[int, ...]:
    """Return a version's first two numbers."""
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
