"""Draws bars and lines as SVG, readable on light and dark pages."""
# ruff: noqa: E501 - markup.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

WIDTH = 860
STYLE = """
  text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; font-size: 13px; fill: #1f2328 }
  .card { fill: #ffffff; stroke: #d1d9e0 } .title { font-size: 15px; font-weight: 600 } .quiet { fill: #59636e; font-size: 12px }
  .grid { stroke: #d1d9e0; stroke-width: 1 } .whisker { stroke: #1f2328; stroke-width: 1.3 }
  .c0 { fill: #0969da } .c1 { fill: #9a6700 } .c2 { fill: #1a7f37 } .c3 { fill: #8c959f } .c4 { fill: #8250df }
  .l0 { stroke: #0969da } .l1 { stroke: #9a6700 } .l2 { stroke: #1a7f37 } .l3 { stroke: #8c959f } .l4 { stroke: #8250df }
  .line { fill: none; stroke-width: 2.2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .card { fill: #0d1117; stroke: #3d444d } .quiet { fill: #9198a1 } .grid { stroke: #3d444d }
    .whisker { stroke: #f0f6fc }
    .c0 { fill: #4493f8 } .c1 { fill: #d29922 } .c2 { fill: #3fb950 } .c3 { fill: #656c76 } .c4 { fill: #ab7df8 }
    .l0 { stroke: #4493f8 } .l1 { stroke: #d29922 } .l2 { stroke: #3fb950 } .l3 { stroke: #656c76 } .l4 { stroke: #ab7df8 }
  }
"""


@dataclass
class Bar:
    """A bar: its figure and, as a whisker, the least and the most of the rounds."""

    label: str
    figure: float
    low: float
    high: float
    is_ours: bool


@dataclass
class Group:
    """Bars under a heading."""

    title: str
    bars: list[Bar] = field(default_factory=list)


def bars(file: Path, title: str, note: str, groups: Sequence[Group], unit: str) -> None:
    """Draw horizontal bars on a logarithmic scale."""
    groups = [group for group in groups if group.bars]
    if not groups:
        return
    left, right, row, head = 250, 150, 22, 70
    figures = [bar for group in groups for bar in group.bars]
    low = 10 ** math.floor(math.log10(min(bar.low for bar in figures)))
    high = max(bar.high for bar in figures)
    scale = _Log(low, high, left, WIDTH - right)
    height = head + sum(row * len(group.bars) + 34 for group in groups) + 20
    drawn = _begin(title, note, height)
    for tick in scale.ticks():
        drawn.append(
            f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{head}" y2="{height - 20}"/>'
        )
        drawn.append(_text(scale(tick), head - 6, short(tick), "quiet", "middle"))
    y = head + 8
    for group in groups:
        drawn.append(_text(16, y + 16, group.title, "title"))
        y += 26
        for bar in group.bars:
            wide = max(scale(bar.figure) - left, 1)
            drawn.append(_text(left - 8, y + 15, bar.label, "", "end"))
            kind = "c0" if bar.is_ours else "c3"
            drawn.append(f'<rect class="{kind}" x="{left}" y="{y + 3}" width="{wide:.1f}" height="{row - 7}" rx="2"/>')
            middle = y + 3 + (row - 7) / 2
            drawn.append(
                f'<line class="whisker" x1="{scale(bar.low):.1f}" x2="{scale(bar.high):.1f}" y1="{middle}" y2="{middle}"/>'
            )
            drawn.append(_text(max(scale(bar.high), left + wide) + 6, y + 15, f"{short(bar.figure)} {unit}"))
            y += row
        y += 8
    _end(file, drawn)


@dataclass
class Line:
    """A line through points, with the least and the most of the rounds."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


def lines(
    file: Path,
    title: str,
    note: str,
    drawn_lines: Sequence[Line],
    axes: tuple[str, str],
    logarithmic: tuple[bool, bool],
) -> None:
    """Draw lines; each axis is logarithmic or begins at 0."""
    drawn_lines = [line for line in drawn_lines if line.points]
    if not drawn_lines:
        return
    left, right, top, bottom, height = 90, 200, 74, 56, 380
    points = [point for line in drawn_lines for point in line.points]
    xs, ys = [point[0] for point in points], [edge for point in points for edge in point[2:]]
    across = _scale(logarithmic[0], min(xs), max(xs), left + 10, WIDTH - right)
    up = _scale(logarithmic[1], min(ys), max(ys), height - bottom, top)
    drawn = _begin(title, note, height)
    for tick in up.ticks():
        drawn.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right + 10}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        )
        drawn.append(_text(left - 8, up(tick) + 4, short(tick), "quiet", "end"))
    for tick in sorted(set(xs)) if logarithmic[0] else across.ticks():
        drawn.append(_text(across(tick), height - bottom + 18, short(tick), "quiet", "middle"))
    drawn.append(_text((left + WIDTH - right) / 2, height - 16, axes[0], "quiet", "middle"))
    drawn.append(_text(16, top - 10, axes[1], "quiet"))
    labels = _apart([(up(line.points[-1][1]), index) for index, line in enumerate(drawn_lines)], 18)
    for index, line in enumerate(drawn_lines):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in line.points)
        drawn.append(f'<polyline class="line l{index}" points="{path}"/>')
        for x, y, low, high in line.points:
            drawn.append(f'<circle class="c{index}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5"/>')
            drawn.append(
                f'<line class="whisker" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(low):.1f}" y2="{up(high):.1f}"/>'
            )
        drawn.append(f'<circle class="c{index}" cx="{WIDTH - right + 24}" cy="{labels[index] - 4:.1f}" r="5"/>')
        drawn.append(_text(WIDTH - right + 34, labels[index], line.label))
    _end(file, drawn)


def short(figure: float) -> str:
    """Return a figure with three significant digits, in thousands or millions if large."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(figure) >= size:
            return f"{figure / size:.3g}{letter}"
    return f"{figure:.3g}"


class _Log:
    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high = low, max(high, low * 1.01)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        part = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        return self._start + part * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return the powers of ten, and halves between where there are few."""
        found = []
        power = 10 ** math.floor(math.log10(self._low))
        steps = (1, 2, 5) if self._high / self._low < 200 else (1,)
        while power <= self._high:
            found += [power * step for step in steps if self._low <= power * step <= self._high]
            power *= 10
        return found


class _Linear:
    def __init__(self, high: float, start: float, end: float) -> None:
        self._high, self._start, self._end = high or 1, start, end

    def __call__(self, value: float) -> float:
        return self._start + value / self._high * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return round figures."""
        step = 10 ** math.floor(math.log10(self._high))
        if self._high / step < 2.5:
            step /= 4 if self._high / step < 1.5 else 2
        elif self._high / step > 6:
            step *= 2
        return [step * number for number in range(int(self._high / step) + 1)]


def _scale(logarithmic: bool, low: float, high: float, start: float, end: float) -> _Log | _Linear:
    return _Log(low, high, start, end) if logarithmic else _Linear(high * 1.05, start, end)


def _apart(places: list[tuple[float, int]], distance: float) -> dict[int, float]:
    """Move labels apart so that they do not overlap."""
    moved: dict[int, float] = {}
    last = -math.inf
    for place, index in sorted(places):
        last = max(place + 4, last + distance)
        moved[index] = last
    return moved


def _begin(title: str, note: str, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="6"/>',
        _text(16, 26, title, "title"),
        _text(16, 44, note, "quiet"),
    ]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _end(file: Path, drawn: list[str]) -> None:
    file.write_text("\n".join([*drawn, "</svg>"]) + "\n")
