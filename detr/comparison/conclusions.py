"""What can be said of each setting against the baseline: an interval where there is one, and a plain sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from detr.comparison.evaluations import VALIDATION, split_name
from detr.comparison.images import over_images, per_image
from detr.comparison.metrics import telling, unit, values
from detr.comparison.settings import Setting
from detr.comparison.statistics import LEVEL, NOISE, Interval, paired, simultaneous, welch
from detr.errors import UserError
from detr.evaluation.names import LOSS

METHODS = {
    "paired": "paired by seed, Student's t",
    "welch": "not paired, Welch's t",
    "images": "bootstrap over images, both on the same resamples",
}

Verdict = Literal["better", "worse", "not distinguishable", "unknown"]


@dataclass(frozen=True)
class Conclusion:
    """Holds what can be said of a setting against the baseline in one metric."""

    baseline: Setting
    other: Setting
    metric: str
    last: bool  # of the last epochs, not of the best ones
    interval: Interval | None = None  # in points
    runs: str = ""  # "5 seeds"
    reason: str = ""  # why there is no interval

    @property
    def difference(self) -> float | None:
        """Return the difference of the means, in points; None where there is nothing to compare."""
        if not self.baseline.data.same(self.other.data):
            return None
        a, b = (values(each.runs, self.metric, last=self.last) for each in (self.baseline, self.other))
        return float(np.mean(b) - np.mean(a)) if a and b else None

    @property
    def verdict(self) -> Verdict:
        if self.interval is None:
            return "unknown"
        if not self.interval.excludes_zero:
            return "not distinguishable"
        return "better" if (self.interval.difference > 0) != (self.metric == LOSS) else "worse"

    def sentence(self) -> str:
        """Return it in plain words; a difference that is one is given as how much better or worse."""
        a, b = self.baseline.letter, self.other.letter
        name = unit(self.metric) + (" of the last epoch" if self.last else "")
        if self.interval is None:
            return f"{a} and {b}: {self._seen(name)}{self.reason}"
        difference, low, high = self.interval.difference, self.interval.low, self.interval.high
        if self.interval.excludes_zero and difference < 0:
            difference, low, high = -difference, -high, -low
        size = f"{telling(difference, self.metric)} {name}"
        if high - low < NOISE:
            everywhere = "on every draw of images" if self.interval.method == "images" else "with every seed"
            if abs(difference) < NOISE:
                return f"{a} and {b} have the same {name} {everywhere}: {self.runs}"
            return f"{b} is {self.verdict} than {a} by {size}, the same difference {everywhere}, {self.runs}"
        size += (
            f", {percent(self.interval.level)} interval {telling(low, self.metric, high)} to "
            f"{telling(high, self.metric, low)}, {self.runs}"
        )
        if self.interval.excludes_zero:
            return f"{b} is {self.verdict} than {a} by {size}"
        return f"{a} and {b} are not distinguishable: difference {size}"

    def _seen(self, name: str) -> str:
        if self.difference is None:
            return ""
        if abs(self.difference) < NOISE:
            return f"the same {name}; "
        return f"difference {telling(self.difference, self.metric)} {name}; "


def conclude(settings: Sequence[Setting], metric: str, *, last: bool = False) -> list[Conclusion]:
    """Return conclusions on every other setting against the first; several intervals hold together with 95 %."""
    baseline, *others = settings
    level = simultaneous(LEVEL, len(others))
    return [_conclude(Conclusion(baseline, other, metric, last), level) for other in others]


def family(conclusions: Sequence[Conclusion]) -> str | None:
    """Return how several comparisons with one baseline are dealt with."""
    if len(conclusions) < 2 or all(each.interval is None for each in conclusions):
        return None
    level = percent(simultaneous(LEVEL, len(conclusions)))
    return (
        f"{len(conclusions)} settings are compared with one baseline: each interval is one of {level}, so that all of "
        f"them hold together with {percent(LEVEL)} (Bonferroni)"
    )


def percent(level: float) -> str:
    """Return a level as text: 95 %, 97.5 %, 98.33 %."""
    return f"{100 * level:.4g} %"


def _conclude(pair: Conclusion, level: float) -> Conclusion:
    a, b = pair.baseline, pair.other
    if not a.data.same(b.data):
        return replace(pair, reason=f"evaluated on different data ({a.data} and {b.data}), so no differences are given")
    missing = [each.letter for each in (a, b) if not values(each.runs, pair.metric, last=pair.last)]
    if missing:
        return replace(pair, reason=f"no {pair.metric} in {' and '.join(missing)}")
    single = [each.letter for each in (a, b) if len(values(each.runs, pair.metric, last=pair.last)) == 1]
    if not single:
        return _over_seeds(pair, level)
    if len(single) == 2:
        return _over_images(pair, level)
    return replace(pair, reason=f"{single[0]} has one seed only, and an interval needs two of each")


def _over_seeds(pair: Conclusion, level: float) -> Conclusion:
    a, b = (_by_seed(each, pair) for each in (pair.baseline, pair.other))
    if a.keys() == b.keys():
        interval = paired(list(a.values()), [b[seed] for seed in a], level)
        return replace(pair, interval=interval, runs=f"{len(a)} seeds")
    interval = welch(list(a.values()), list(b.values()), level)
    count = f"{len(a)} seeds each" if len(a) == len(b) else f"{len(a)} and {len(b)} seeds"
    return replace(pair, interval=interval, runs=f"{count}, not the same ones")


def _by_seed(setting: Setting, pair: Conclusion) -> dict[object, float]:
    found = {seed: values([run], pair.metric, last=pair.last) for seed, run in setting.seeds.items()}
    return {seed: value[0] for seed, value in found.items() if value}


def _over_images(pair: Conclusion, level: float) -> Conclusion:
    """With one seed each, all that can be drawn anew are the images."""
    try:
        if pair.last and pair.baseline.data.split == VALIDATION:
            raise UserError("predictions.json is of the best epoch")
        a, b = (per_image(each.runs[0], each.data) for each in (pair.baseline, pair.other))
        interval = over_images(a, b, pair.metric, level)
        images = split_name(pair.baseline.data.split)
    except UserError as error:
        return replace(pair, reason=f"one seed each, and no interval over images: {error}")
    return replace(
        pair, interval=interval, runs=f"1 seed each, on these {images} images; this says nothing about other seeds"
    )
