"""Axes of plots in SVG: values to pixels, round ticks, a grid."""

from __future__ import annotations

import math

COLORS = 8  # that the style of pages knows
WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 10, 38  # margins


class Scale:
    """Maps values of an axis → pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, start: float, end: float, count: int = 5) -> None:
        if high <= low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end = low, high, start, end
        self.step = nice_step((high - low) / count)

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [index * self.step for index in range(first, last + 1)]

    def label(self, tick: float) -> str:
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{tick:,.{digits}f}" if abs(tick) > self.step / 2 else "0"


def nice_step(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `rough`."""
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def color(index: int) -> str:
    """Return the style class of a line's colour."""
    return f"c{index % COLORS}"


def grid(across: Scale, up: Scale, axis: str) -> str:
    """Return lines and numbers of both axes, and the name of the horizontal one."""
    horizontal = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t)}" y2="{up(t)}"/>'
        f'<text x="{LEFT - 7}" y="{up(t) + 4}" text-anchor="end">{up.label(t)}</text>'
        for t in up.ticks
    )
    vertical = "".join(
        f'<text x="{across(t)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{across.label(t)}</text>'
        for t in across.ticks
    )
    name = f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{axis}</text>'
    return horizontal + vertical + name
