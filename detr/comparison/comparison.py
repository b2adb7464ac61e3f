"""Everything that is said about some runs, before it is written to a terminal, a page or a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detr.comparison.conclusions import METHODS, Conclusion, conclude, family
from detr.comparison.evaluations import VALIDATION
from detr.comparison.metrics import NOTHING, class_metrics, number, shown_metrics, telling, unit, values
from detr.comparison.notes import notes
from detr.comparison.reading import Run
from detr.comparison.settings import Grouping, Setting, group
from detr.comparison.statistics import spread
from detr.config.suggest import did_you_mean
from detr.errors import UserError
from detr.tracking.words import count, duration


@dataclass(frozen=True)
class Comparison:
    """Compares settings with the first of them.

    Attributes:
        grouping: the settings and what differs.
        metric: what the sentences are about.
        last: whether they are about last epochs, not best ones.
        skipped: a line for each folder that could not be compared.
    """

    grouping: Grouping
    metric: str
    last: bool
    skipped: list[str]

    @property
    def settings(self) -> list[Setting]:
        return self.grouping.settings

    @property
    def differences(self) -> dict[str, list[str]]:
        return self.grouping.differences

    @property
    def split(self) -> str:
        """Return the split that the numbers are of."""
        return self.settings[0].data.split

    @property
    def title(self) -> str:
        settings, runs = count(len(self.settings), "setting"), count(len(self.runs), "run")
        compared = "compared in" if len(self.settings) > 1 else "in"
        return f"{settings} {compared} {unit(self.metric)}, {runs}"

    @property
    def runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.runs]

    @functools.cached_property
    def metrics(self) -> list[str]:
        return shown_metrics(self.runs)

    @functools.cached_property
    def class_names(self) -> list[str]:
        return class_metrics(self.runs)

    @functools.cached_property
    def conclusions(self) -> list[Conclusion]:
        return conclude(self.settings, self.metric, last=self.last)

    @functools.cached_property
    def summary(self) -> list[str]:
        """Return the sentences that sum the comparison up."""
        if len(self.settings) == 1:
            return [self._alone()]
        lines = [each.sentence() for each in self.conclusions]
        methods = dict.fromkeys(METHODS[each.interval.method] for each in self.conclusions if each.interval)
        together = family(self.conclusions)
        return lines + [f"Intervals: {'; '.join(methods)}"] * bool(methods) + ([together] if together else [])

    @functools.cached_property
    def notes(self) -> list[str]:
        return notes(self.grouping, last=self.last)

    @property
    def epochs(self) -> dict[str, bool]:
        """Return the epochs of the tables, and whether it is the last one; once where best and last are the same."""
        if self.split != VALIDATION:
            return {f"{self.split} split": False}
        if all(run.best == run.last for run in self.runs):
            return {"best epoch (the last one)": False}
        return {"best epoch": False, "last epoch": True}

    @property
    def lengths(self) -> dict[str, list[str]]:
        """Return how long the runs of each setting were trained: row → cells."""
        settings = [setting.runs for setting in self.settings]
        minutes = [[run.minutes for run in runs if run.minutes is not None] for runs in settings]
        return {
            "epochs": [_range([run.epochs for run in runs]) for runs in settings],
            "steps": [_range([run.steps for run in runs]) for runs in settings],
            "time": [" to ".join(dict.fromkeys(map(duration, ends(found)))) or NOTHING for found in minutes],
        }

    @property
    def legend(self) -> str:
        """Return how to read a cell of the tables."""
        parts = ["AP in points (× 100)"]
        if any(len(setting.runs) > 1 for setting in self.settings):
            parts.append("mean ± standard deviation over seeds")
        if len(self.settings) > 1:
            parts.append(f"after it the difference to {self.settings[0].letter}")
        return "; ".join(parts)

    def difference(self, setting: Setting, name: str, *, last: bool = False) -> float | None:
        """Return the difference of the means to the baseline's; None for the baseline, and for other data."""
        return None if setting is self.settings[0] else Conclusion(self.settings[0], setting, name, last).difference

    def _alone(self) -> str:
        found = values(self.settings[0].runs, self.metric, last=self.last)
        mean, deviation = number(float(np.mean(found)), self.metric), spread(found)
        if deviation is None:
            return f"one run: {mean} {unit(self.metric)}; give another one to compare it with"
        return (
            f"one setting: {mean} {unit(self.metric)}, standard deviation {telling(deviation, self.metric)}, "
            f"{count(len(found), 'seed')}; give another setting to compare it with"
        )


def compare(runs: Sequence[Run], *, metric: str, last: bool, skipped: Sequence[str] = ()) -> Comparison:
    """Compare settings in a metric.

    Raises:
        UserError: no run has the metric.
    """
    comparison = Comparison(group(runs), metric, last, list(skipped))
    known = [*comparison.metrics, *comparison.class_names]
    if metric not in known:
        hint = did_you_mean(metric, known) or f"; there are {', '.join(known)}"
        raise UserError(f"--metric {metric}: no run has it{hint}")
    return comparison


def ends(values: Sequence[float]) -> list[float]:
    """Return the least and the largest of some values."""
    return [min(values), max(values)] if values else []


def _range(found: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(f"{value:,}" for value in ends(found)))
