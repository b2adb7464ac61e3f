"""Metrics as they are written for people: AP in points (× 100), PQ, losses and other metrics as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from detr.comparison.reading import Run
from detr.comparison.statistics import NOISE, spread
from detr.evaluation.names import LOSS

# What tables show, in this order, of whatever the runs have; classes apart.
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
MASKS = ("segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl")
PANOPTIC = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")
NOTHING = "–"

MAX_DIGITS = 9


def shown_metrics(runs: Iterable[Run]) -> list[str]:
    """Return the metrics of the tables that some run has; those of somebody's own evaluator come last."""
    found = dict.fromkeys(name for run in runs for name in run.metrics())
    return [name for name in (*SHOWN, *MASKS, *PANOPTIC, LOSS) if name in found] + list(filter(is_own, found))


def class_metrics(runs: Iterable[Run]) -> list[str]:
    """Return AP/CLASS of every class that some run has a number for, in the order of the first."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics() if name.startswith("AP/")))


def is_fraction(name: str) -> bool:
    """Return whether a metric is written times 100."""
    return name.removeprefix("segm/").startswith(("AP", "AR"))


def is_percentage(name: str) -> bool:
    """Return whether a metric comes in percent."""
    return name.startswith(("PQ", "SQ", "RQ"))


def is_own(name: str) -> bool:
    """Return whether a metric is none that comes along: it is written as it is."""
    return not (is_fraction(name) or is_percentage(name) or name == LOSS)


def unit(name: str) -> str:
    return f"{name} (in percent)" if is_percentage(name) else name


def points(run: Run, name: str, *, last: bool = False) -> float | None:
    """Return a metric of a run as people write it."""
    value = run.metrics(last=last).get(name)
    return value * 100 if value is not None and is_fraction(name) else value


def values(runs: Sequence[Run], name: str, *, last: bool = False) -> list[float]:
    """Return a metric of each run that has it, of its best epoch or its last one, as people write it."""
    found = [points(run, name, last=last) for run in runs]
    return [value for value in found if value is not None]


def moments(runs: Sequence[Run], name: str, *, last: bool = False) -> str:
    """Return a metric's mean and, over several runs, its standard deviation."""
    found = values(runs, name, last=last)
    if not found:
        return NOTHING
    deviation = spread(found)
    return number(float(np.mean(found)), name) + ("" if deviation is None else f" ± {number(deviation, name)}")


def number(value: float | None, name: str = "AP", *, signed: bool = False, digits: int | None = None) -> str:
    """Return a value as text: one decimal for points and percents, else three, unless told otherwise."""
    if value is None:
        return NOTHING
    digits = _digits(name) if digits is None else digits
    rounded = round(value, digits) or 0.0  # no "-0.0"
    return f"{rounded:+.{digits}f}" if signed and rounded else f"{rounded:.{digits}f}"


def telling(value: float, name: str = "AP", *others: float) -> str:
    """Return a value with as many decimals as it takes not to be shown as zero, nor as one of `others`."""
    digits = _digits(name)
    while digits < MAX_DIGITS and any(
        abs(value - each) > NOISE and round(value, digits) == round(each, digits) for each in (0.0, *others)
    ):
        digits += 1
    return number(value, name, digits=digits)


def _digits(name: str) -> int:
    return 1 if is_fraction(name) or is_percentage(name) else 3
