"""How sure a difference is: Student's intervals over seeds, percentiles over resampled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
NOISE = 1e-9  # smaller differences are those of floating point numbers
Method = Literal["paired", "welch", "images"]


@dataclass(frozen=True)
class Interval:
    """Holds a difference, the other setting less the baseline, and its interval at some level of confidence."""

    difference: float
    low: float
    high: float
    level: float
    method: Method

    @property
    def excludes_zero(self) -> bool:
        return self.low > NOISE or self.high < -NOISE


def spread(values: Sequence[float]) -> float | None:
    """Return the sample's standard deviation (n - 1); None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired(baseline: Sequence[float], other: Sequence[float], level: float = LEVEL) -> Interval:
    """Return Student's interval of the mean difference of pairs: runs of the same seed share what the seed decides.

    Raises:
        ValueError: there are fewer than two pairs.
    """
    differences = np.subtract(other, baseline)
    if len(differences) < 2:
        raise ValueError("one pair has no spread")
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return _student(float(differences.mean()), error, len(differences) - 1, level, "paired")


def welch(baseline: Sequence[float], other: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the interval of the difference of two means with different spreads (Welch 1947, Satterthwaite's degrees).

    Raises:
        ValueError: a side has fewer than two values.
    """
    if min(len(baseline), len(other)) < 2:
        raise ValueError("one run has no spread")
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (baseline, other)]
    total = sum(parts)
    degrees = (
        total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (baseline, other), strict=True))
        if total > 0
        else len(baseline) + len(other) - 2
    )
    return _student(float(np.mean(other) - np.mean(baseline)), math.sqrt(total), degrees, level, "welch")


def percentiles(
    baseline: NDArray[np.float64], other: NDArray[np.float64], difference: float, level: float = LEVEL
) -> Interval:
    """Return the percentile interval of bootstrap draws.

    Args:
        baseline, other: [R] the metric on each resample, both on the same one.
        difference: on all images.
    """
    draws = other - baseline
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(difference, float(low), float(high), level, "images")


def simultaneous(level: float, comparisons: int) -> float:
    """Return the level of each of several intervals for all of them to hold together with `level` (Bonferroni)."""
    return 1 - (1 - level) / max(1, comparisons)


def _student(difference: float, error: float, degrees: float, level: float, method: Method) -> Interval:
    reach = float(stdtrit(degrees, (1 + level) / 2)) * error
    return Interval(difference, difference - reach, difference + reach, level, method)
