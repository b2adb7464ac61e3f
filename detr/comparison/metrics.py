"""Validation metrics as they are written for people: AP in points (× 100), PQ as it is, losses as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from detr.comparison.reading import Run
from detr.comparison.statistics import spread
from detr.evaluation.names import LOSS
from detr.tracking.rows import Row, metric

# What tables show, in this order, of whatever the runs have; classes apart.
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
MASKS = ("segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl")
PANOPTIC = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")
NOTHING = "–"


def shown_metrics(runs: Iterable[Run]) -> list[str]:
    """Return the metrics of the tables that some run has."""
    rows = [run.best for run in runs]
    names = [*SHOWN, *MASKS, *PANOPTIC, LOSS]
    return [name for name in names if any(metric(row, name) is not None for row in rows)]


def class_metrics(runs: Iterable[Run]) -> list[str]:
    """Return AP/CLASS of every class that some run has a number for, in the order of the first."""
    names = dict.fromkeys(key.removeprefix("val/") for run in runs for key in run.best if key.startswith("val/AP/"))
    return [name for name in names if any(metric(run.best, name) is not None for run in runs)]


def is_fraction(name: str) -> bool:
    """Return whether a metric is written times 100."""
    return name != LOSS and not name.startswith(("PQ", "SQ", "RQ"))


def unit(name: str) -> str:
    return name if is_fraction(name) or name == LOSS else f"{name} (in percent)"


def points(row: Row, name: str) -> float | None:
    """Return a metric as people write it."""
    value = metric(row, name)
    return value * 100 if value is not None and is_fraction(name) else value


def values(runs: Sequence[Run], name: str, *, last: bool = False) -> list[float]:
    """Return a metric of each run that has it, of its best epoch or its last one, as people write it."""
    found = [points(run.last if last else run.best, name) for run in runs]
    return [value for value in found if value is not None]


def moments(runs: Sequence[Run], name: str, *, last: bool = False) -> str:
    """Return a metric's mean and, over several runs, its standard deviation."""
    found = values(runs, name, last=last)
    if not found:
        return NOTHING
    deviation = spread(found)
    return number(float(np.mean(found)), name) + ("" if deviation is None else f" ± {number(deviation, name)}")


def number(value: float | None, name: str = "AP", *, signed: bool = False) -> str:
    """Return a value as text: one decimal for points and percents, three for losses."""
    if value is None:
        return NOTHING
    digits = 3 if name == LOSS else 1
    rounded = round(value, digits) or 0.0  # no "-0.0"
    return f"{rounded:+.{digits}f}" if signed and rounded else f"{rounded:.{digits}f}"
