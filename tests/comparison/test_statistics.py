"""Intervals against scipy's tests, and how often they cover the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from detr.comparison.statistics import Interval, paired, percentiles, simultaneous, spread, welch


def test_student_intervals_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 0.01, 5), rng.normal(0.42, 0.02, 7)
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    found = welch(a.tolist(), b.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    expected = stats.ttest_rel(b[:5], a).confidence_interval(0.9)
    found = paired(a.tolist(), b[:5].tolist(), level=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.difference == pytest.approx(b[:5].mean() - a.mean())


@pytest.mark.parametrize("method", [paired, welch])
@pytest.mark.parametrize("truth", [0.0, 1.5])
def test_intervals_cover_the_truth_as_often_as_they_say(method: Callable[..., Interval], truth: float) -> None:
    rng = np.random.default_rng(7)
    repeats, covered = 2000, 0
    for _ in range(repeats):
        seed = rng.normal(0, 1, 5)  # what runs of the same seed share
        a, b = rng.normal(40 + seed, 1.0), rng.normal(40 + truth + seed, 1.0)
        interval = method(a.tolist(), b.tolist())
        covered += interval.low <= truth <= interval.high
    # Paired is exact: 2000 draws of 0.95 have a deviation of 0.005. Welch ignores the pairs, which widens it.
    low, high = (0.935, 0.965) if method is paired else (0.95, 0.995)
    assert low <= covered / repeats <= high


def test_welch_covers_the_truth_with_unequal_spreads() -> None:
    rng = np.random.default_rng(3)
    draws = [welch(rng.normal(0, 1, 5).tolist(), rng.normal(2, 3, 6).tolist()) for _ in range(2000)]
    assert 0.93 <= np.mean([each.low <= 2 <= each.high for each in draws]) <= 0.97


def test_pairing_pays_where_seeds_matter() -> None:
    rng = np.random.default_rng(1)
    seed = rng.normal(0, 3, 6)
    a, b = (40 + seed + rng.normal(0, 0.2, 6)).tolist(), (41 + seed + rng.normal(0, 0.2, 6)).tolist()
    assert paired(a, b).excludes_zero
    assert not welch(a, b).excludes_zero


def test_percentiles_are_of_the_paired_draws() -> None:
    draws = np.arange(1001) / 1000
    interval = percentiles(np.zeros(1001), draws, difference=0.5)
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))
    shared = np.random.default_rng(0).normal(0, 5, 1001)
    assert percentiles(shared, shared + 1, difference=1.0).low == pytest.approx(1.0)


def test_several_intervals_together_keep_their_level() -> None:
    rng = np.random.default_rng(11)
    level, together = simultaneous(0.95, 4), 0
    for _ in range(1000):
        base = rng.normal(0, 1, 5).tolist()
        others = [welch(base, rng.normal(0, 1, 5).tolist(), level) for _ in range(4)]
        together += all(each.low <= 0 <= each.high for each in others)
    assert 0.93 <= together / 1000 <= 1
    assert simultaneous(0.95, 1) == pytest.approx(0.95)


def test_a_single_value_has_no_spread() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    for method in (paired, welch):
        with pytest.raises(ValueError, match="no spread"):
            method([1.0], [2.0])


def test_identical_runs_are_not_told_apart() -> None:
    assert not paired([1.0, 2.0], [1.0, 2.0]).excludes_zero
    assert not welch([1.0, 1.0], [1.0, 1.0]).excludes_zero
