"""What is plotted over epochs or steps: the mean over a setting's seeds, and the range that they span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detr.comparison.metrics import is_fraction
from detr.comparison.reading import Run
from detr.comparison.settings import Setting
from detr.evaluation.names import LOSS

Axis = Literal["epoch", "step"]
AXES: tuple[Axis, Axis] = ("epoch", "step")
MAX_POINTS = 300  # of a line: more than there are pixels to tell them apart


@dataclass(frozen=True)
class Point:
    """Holds the values at one epoch or step."""

    x: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Holds one setting in one plot."""

    letter: str
    index: int  # of the setting, which decides its colour
    seeds: int
    points: list[Point]


@dataclass(frozen=True)
class Plot:
    """Holds one key of metrics.jsonl."""

    title: str
    axis: Axis
    lines: list[Line]


def plots(settings: Sequence[Setting], metric: str, axis: Axis) -> list[Plot]:
    """Return plots of the metric, the validation's loss and the training's, of those that some run has."""
    keys = {f"val/{metric}": f"validation {metric}", f"val/{LOSS}": "validation loss", f"train/{LOSS}": "training loss"}
    found = [Plot(title, axis, lines(settings, key, axis)) for key, title in keys.items()]
    return [plot for plot in found if plot.lines]


def lines(settings: Sequence[Setting], key: str, axis: Axis) -> list[Line]:
    """Return a line for each setting that has the key."""
    scale = 100 if key.startswith("val/") and is_fraction(key.removeprefix("val/")) else 1
    found = [
        Line(setting.letter, index, len(setting.runs), _thinned(_points(setting.runs, key, axis, scale)))
        for index, setting in enumerate(settings)
    ]
    return [line for line in found if line.points]


def _points(runs: Sequence[Run], key: str, axis: Axis, scale: float) -> list[Point]:
    """Where every run has a value, so that a mean never jumps because a run ended; anywhere if that is nowhere."""
    tables = [{row[axis]: scale * row[key] for row in run.rows if row.get(key) is not None} for run in runs]
    shared = set.intersection(*map(set, tables)) or set().union(*tables)
    points = []
    for x in sorted(shared):
        values = [table[x] for table in tables if x in table]
        points.append(Point(x, float(np.mean(values)), min(values), max(values)))
    return points


def _thinned(points: list[Point]) -> list[Point]:
    """Evenly, the last one kept."""
    stride = -(-len(points) // MAX_POINTS) if points else 1
    return points[::-1][::stride][::-1]
