"""Plots as inline SVG: readable without scripts; the page's script adds values under the pointer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from detr.comparison.conclusions import Conclusion
from detr.comparison.curves import Line, Plot, Point
from detr.comparison.metrics import number
from detr.drawing.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, color, grid

DASHES = ("none", "7 4", "2 3", "9 3 2 3")  # so that lines differ in grey, too
ROW = 34  # of an interval


def curves(plot: Plot) -> str:
    """Return one plot as SVG."""
    points = [point for line in plot.lines for point in line.points]
    across = Scale(min(p.x for p in points), max(p.x for p in points), LEFT, WIDTH - RIGHT)
    across.step = max(1, across.step)
    margin = 0.04 * (max(p.high for p in points) - min(p.low for p in points))
    low = min(p.low for p in points)
    floor = max(0.0, low - margin) if low >= 0 else low - margin
    up = Scale(floor, max(p.high for p in points) + margin, HEIGHT - BOTTOM, TOP)
    parts = [
        grid(across, up, plot.axis),
        *(_band(line, across, up) for line in plot.lines if line.seeds > 1),
        *(_line(line, across, up) for line in plot.lines),
        *_letters(plot.lines, across, up),
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" hidden="hidden"/>',
    ]
    hover = escape(json.dumps(_hover(plot, across)))
    return (
        f'<figure class="plot" tabindex="0" data-points="{hover}"><figcaption>{escape(plot.title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(plot))}">{"".join(parts)}</svg>'
        '<div class="values" role="status" hidden></div></figure>'
    )


def intervals(conclusions: Sequence[Conclusion]) -> str:
    """Return every difference to the baseline with its interval, against zero; nothing where there is none."""
    drawn = [(index, each) for index, each in enumerate(conclusions, start=1) if each.interval is not None]
    bounds = [bound for _, each in drawn if each.interval for bound in (each.interval.low, each.interval.high)]
    if not drawn:
        return ""
    low, high = min(0.0, *bounds), max(0.0, *bounds)
    margin = 0.08 * (high - low or 1)
    height = TOP + ROW * len(drawn) + BOTTOM
    across = Scale(low - margin, high + margin, LEFT, WIDTH - RIGHT)
    ticks = "".join(
        f'<line class="grid" x1="{across(t)}" x2="{across(t)}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{across(t)}" y="{height - BOTTOM + 16}" text-anchor="middle">{across.label(t)}</text>'
        for t in across.ticks
    )
    zero = f'<line class="zero" x1="{across(0)}" x2="{across(0)}" y1="{TOP}" y2="{height - BOTTOM}"/>'
    rows = "".join(_interval(index, each, TOP + ROW * (row + 0.5), across) for row, (index, each) in enumerate(drawn))
    title = f"difference to {conclusions[0].baseline.letter} in {conclusions[0].metric}"
    spoken = escape("; ".join(each.sentence() for _, each in drawn))
    axis = f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">{escape(title)}</text>'
    return (
        f'<figure class="intervals"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{spoken}">'
        f"{ticks}{zero}{rows}{axis}</svg></figure>"
    )


def _interval(index: int, each: Conclusion, y: float, across: Scale) -> str:
    assert each.interval is not None
    low, middle, high = (across(value) for value in (each.interval.low, each.interval.difference, each.interval.high))
    words = f"{number(each.interval.difference, each.metric, signed=True)}"
    return (
        f'<g class="{color(index)}"><text class="letter" x="{LEFT - 20}" y="{y + 5}">{escape(each.other.letter)}</text>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        f'<line class="whisker" x1="{low}" x2="{low}" y1="{y - 5}" y2="{y + 5}"/>'
        f'<line class="whisker" x1="{high}" x2="{high}" y1="{y - 5}" y2="{y + 5}"/>'
        f'<circle class="mean" cx="{middle}" cy="{y}" r="5"/>'
        f'<text x="{middle}" y="{y - 9}" text-anchor="middle">{words}</text></g>'
    )


def _band(line: Line, across: Scale, up: Scale) -> str:
    upper = [f"{across(p.x)},{up(p.high)}" for p in line.points]
    lower = [f"{across(p.x)},{up(p.low)}" for p in reversed(line.points)]
    return f'<polygon class="band {color(line.index)}" points="{" ".join(upper + lower)}"/>'


def _line(line: Line, across: Scale, up: Scale) -> str:
    path = " ".join(f"{across(p.x)},{up(p.mean)}" for p in line.points)
    dash = DASHES[line.index % len(DASHES)]
    end = line.points[-1]
    return (
        f'<polyline class="mean {color(line.index)}" stroke-dasharray="{dash}" points="{path}"/>'
        f'<circle class="mean {color(line.index)}" cx="{across(end.x)}" cy="{up(end.mean)}" r="3"/>'
    )


def _letters(lines: Sequence[Line], across: Scale, up: Scale) -> list[str]:
    """Behind the end of each line, moved apart where lines end close together."""
    placed: list[float] = []
    parts = []
    for line in sorted(lines, key=lambda each: each.points[-1].mean, reverse=True):
        end = line.points[-1]
        y = max(up(end.mean) + 4, placed[-1] + 13 if placed else TOP)
        placed.append(y)
        parts.append(f'<text class="letter {color(line.index)}" x="{across(end.x) + 7}" y="{y}">{line.letter}</text>')
    return parts


def _hover(plot: Plot, across: Scale) -> list[dict[str, object]]:
    """For the page's script: at every x of some line, the values of all lines that have one there."""
    by_x: dict[int, list[list[str]]] = {}
    for line in plot.lines:
        for point in line.points:
            by_x.setdefault(point.x, []).append([color(line.index), f"{line.letter}  {_words(point, line, plot)}"])
    return [{"x": across(x), "title": f"{plot.axis} {x:,}", "rows": rows} for x, rows in sorted(by_x.items())]


def _words(point: Point, line: Line, plot: Plot) -> str:
    name = plot.title.split()[-1]
    mean = number(point.mean, name)
    return mean if line.seeds == 1 else f"{mean}  ({number(point.low, name)} to {number(point.high, name)})"


def _spoken(plot: Plot) -> str:
    ends = [f"{line.letter} {_words(line.points[-1], line, plot)}" for line in plot.lines]
    return f"{plot.title} by {plot.axis}; in the end {', '.join(ends)}"
