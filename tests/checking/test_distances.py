"""How far apart two splits are, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from detr.checking.splits import _distance, _pvalue


@pytest.mark.parametrize(("ours", "theirs"), [(5, 9), (400, 30), (1, 1)])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(ours, theirs):
    drawn = np.random.default_rng(ours)
    one, other = drawn.integers(0, 20, ours).astype(float), drawn.normal(8, 5, theirs).round(1)  # with ties
    expected = stats.ks_2samp(one, other)
    assert _distance(one, other) == pytest.approx(expected.statistic, abs=1e-12)
    assert _pvalue(one, other) == expected.pvalue
