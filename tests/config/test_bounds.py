"""Numbers out of their range are refused before anything is built from data, whatever the key."""

from __future__ import annotations

import copy
import functools
import math

import pytest
from omegaconf import DictConfig, OmegaConf

from detr.assembly import check_model
from detr.config import build, check, compose
from detr.config.containers import unresolved
from detr.config.references import dotted, leaves
from detr.errors import UserError

# Groups in which no number is below 0; a level of the backbone, for one, may be.
BELOW_0 = ("trainer.", "dataloader.", "transformer.", "queries.", "loss.", "matcher.", "scheduler.", "neck.", "seed")
BUILT = ("trainer", "loss", "scheduler")


@functools.cache
def default() -> DictConfig:
    return compose()


def refusal(key: str, value: float) -> str | None:
    """What is said of the default config with this value."""
    config = copy.deepcopy(default())
    OmegaConf.update(config, key, value)
    try:
        values, _ = check(config)
        group = key.partition(".")[0]
        if group in BUILT:
            build(values[group])
        else:
            check_model(values)
            build(values["loss"])  # the matcher is in it
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1])
def test_no_key_takes_what_is_no_number_of_this_machine(value: float) -> None:
    for key in ("seed", "trainer.max_steps", "optimizer.lr", "transformer.dropout", "queries.num_queries",
                "loss.terms.bbox.weight", "optimizer.lr_by_pattern.backbone", "dataloader.batch_size"):  # fmt: skip
        said = refusal(key, value)
        assert said is not None, key
        assert said.startswith(f"{key}: expected "), said


def test_numbers_below_their_range_are_refused() -> None:
    """Of every key of these groups; a level of the backbone or an index may be negative."""
    found = [(dotted(path), value) for path, value in leaves(unresolved(default()))]
    numbers = [key for key, value in found if isinstance(value, int | float) and not isinstance(value, bool)]
    keys = [key for key in numbers if key.startswith(BELOW_0)]
    assert len(keys) > 30
    accepted = [key for key in keys if refusal(key, -1) is None]
    assert accepted == []
