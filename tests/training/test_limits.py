"""Which limit ends a run, in words."""

from __future__ import annotations

from typing import Any

import pytest
from trainers import Samples, samples

from detr.data.loader import TrainLoader
from detr.data.order import EpochSampler
from detr.training.limits import Limits
from detr.training.options import Progress, TrainerOptions


def limits(**options: Any) -> Limits:
    """Two batches an epoch."""
    data: Any = Samples(samples([1] * 4))
    return Limits(TrainerOptions(**options), TrainLoader(data, EpochSampler(4, 2, seed=0), num_workers=0))


@pytest.mark.parametrize(
    ("options", "progress", "ended"),
    [
        ({"max_epochs": 3}, {"epoch": 3, "step": 6}, "trainer.max_epochs=3 in step 6 of 6"),
        (
            {"max_steps": 5, "max_epochs": 3},
            {"epoch": 2, "batches": 1, "step": 5},
            "trainer.max_steps=5 in step 5 of 5",
        ),
        ({"patience": 2}, {"epoch": 7, "step": 14, "poor": 2}, "trainer.patience=2 in step 14 of 600"),
        ({}, {"step": 40, "planned": 40, "budget": 3}, "trainer.max_minutes=3 in step 40 of 40"),
        ({}, {"step": 29, "planned": 40, "budget": 3, "seconds": 230}, "trainer.max_minutes=3 in step 29 of 40"),
        ({}, {"step": 2, "epoch": 1, "stopped": "a callback"}, "a callback in step 2 of 600"),
    ],
)
def test_what_ended_a_run(options: dict[str, Any], progress: dict[str, Any], ended: str) -> None:
    ours, there = limits(**options), Progress(**progress)
    assert ours.reached(there) or ours.no_better(there)
    assert ours.ended(there) == f"ended by {ended}"


def test_a_run_that_is_under_way_has_not_reached_its_end() -> None:
    there = Progress(epoch=1, batches=1, step=3, planned=40, budget=3, seconds=200)
    ours = limits(max_epochs=20, patience=3)
    assert not ours.reached(there)
    assert not ours.no_better(there)
    assert ours.moment(there).progress == pytest.approx(1.5 / 20)
