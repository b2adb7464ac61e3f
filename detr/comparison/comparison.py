"""Everything that is said about some runs, before it is written to a terminal, a page or a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detr.comparison.conclusions import METHODS, Conclusion, conclude, family
from detr.comparison.metrics import NOTHING, class_metrics, number, shown_metrics, unit, values
from detr.comparison.notes import notes
from detr.comparison.reading import Run
from detr.comparison.settings import Grouping, Setting, group
from detr.comparison.statistics import spread
from detr.config.suggest import did_you_mean
from detr.errors import UserError


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
        if all(run.best == run.last for run in self.runs):
            return {"best epoch (the last one)": False}
        return {"best epoch": False, "last epoch": True}

    @property
    def lengths(self) -> dict[str, list[str]]:
        """Return how long the runs of each setting were trained: row → cells."""
        rows: dict[str, list[list[Any]]] = {
            "epochs": [[run.epochs for run in setting.runs] for setting in self.settings],
            "steps": [[run.steps for run in setting.runs] for setting in self.settings],
            "minutes": [[run.minutes for run in setting.runs if run.minutes is not None] for setting in self.settings],
        }
        return {name: [_range(cell) for cell in cells] for name, cells in rows.items()}

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for other programs. AP is in points (× 100)."""
        return {
            "metric": self.metric,
            "epoch": "last" if self.last else "best",
            "settings": [self._setting(setting) for setting in self.settings],
            "differences": self.differences,
            "conclusions": [_conclusion(each) for each in self.conclusions],
            "summary": self.summary,
            "notes": self.notes,
            "skipped": self.skipped,
        }

    def _setting(self, setting: Setting) -> dict[str, Any]:
        names = [*self.metrics, *self.class_names]
        return {
            "name": setting.letter,
            "description": setting.description,
            "runs": [
                {"folder": str(run.folder), "seed": run.seed, "state": run.state, "steps": run.steps}
                for run in setting.runs
            ],
            "best": {name: _moments(values(setting.runs, name)) for name in names},
            "last": {name: _moments(values(setting.runs, name, last=True)) for name in names},
        }

    def _alone(self) -> str:
        found = values(self.settings[0].runs, self.metric, last=self.last)
        mean, deviation = number(float(np.mean(found)), self.metric), spread(found)
        if deviation is None:
            return f"one run: {mean} {unit(self.metric)}; give another one to compare it with"
        return (
            f"one setting: {mean} {unit(self.metric)}, standard deviation {number(deviation, self.metric)}, "
            f"{len(found)} seeds; give another setting to compare it with"
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


def _range(found: Sequence[float]) -> str:
    words = list(dict.fromkeys(f"{value:.1f}" if isinstance(value, float) else f"{value:,}" for value in sorted(found)))
    return f"{words[0]} to {words[-1]}" if len(words) > 1 else (words or [NOTHING])[0]


def _moments(found: list[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(found)) if found else None,
        "deviation": spread(found) if found else None,
        "n": len(found),
    }


def _conclusion(each: Conclusion) -> dict[str, Any]:
    interval = each.interval
    return {
        "baseline": each.baseline.letter,
        "other": each.other.letter,
        "verdict": each.verdict,
        "difference": each.difference,
        "interval": None if interval is None else [interval.low, interval.high],
        "level": None if interval is None else interval.level,
        "method": None if interval is None else interval.method,
        "sentence": each.sentence(),
    }
