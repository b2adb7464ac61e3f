"""Every option in conf/ mirrors the constructor that it names."""

from __future__ import annotations

from itertools import zip_longest

import pytest

from detr.config import check, compose
from detr.config.compose import groups

OPTIONS = groups()
EXPERIMENTS = OPTIONS.pop("experiment")
# Composing takes its time, so options of different groups share a config: the first of each group, the second, …
ROWS = [
    [f"{group}={option}" for group, option in zip(OPTIONS, row, strict=True) if option is not None]
    for row in zip_longest(*OPTIONS.values())
]


def test_options_are_found() -> None:
    assert "quickstart" in EXPERIMENTS
    assert {"backbone=resnet50", "transformer/encoder=detr"} <= {choice for row in ROWS for choice in row}


@pytest.mark.parametrize("choices", ROWS, ids=[str(index) for index in range(len(ROWS))])
def test_options_fit_their_constructors(choices: list[str]) -> None:
    """On the defaults of train.yaml, without the values that an experiment sets for other options."""
    check(compose([*choices, "~experiment"]))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_fit_their_constructors(experiment: str) -> None:
    check(compose([f"experiment={experiment}"]))
