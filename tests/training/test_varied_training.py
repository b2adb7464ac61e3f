"""A training whose images are mixed and resized: a function of its seed, as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, only_error, run
from trainers import Samples, samples

from detr.data.loader import TrainLoader
from detr.data.order import EpochSampler
from detr.training.limits import Limits
from detr.training.options import Progress, TrainerOptions

VARIED = ["augmentation/mixing=dense", "augmentation/multi_scale=quarter", "backbone.weights=null"]


@pytest.mark.parametrize("options", [{"max_epochs": 3}, {"max_steps": 7, "max_epochs": None}, {"max_steps": 7}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_know_the_moment_of_their_step(options: dict[str, Any], accumulate: int) -> None:
    """As schedules do, whichever limit counts, also in an epoch that is entered in the middle."""
    data: Any = Samples(samples([1] * 10))
    limits = Limits(
        TrainerOptions(**options, accumulate=accumulate), TrainLoader(data, EpochSampler(10, 2, seed=0), num_workers=0)
    )
    progress = Progress(epoch=1, step=limits.steps_per_epoch)
    whole = limits.parts(progress)
    for batch in range(0, 5, accumulate):
        now = limits.moment(progress).progress
        assert [whole(each) for each in range(batch, min(5, batch + accumulate))] == pytest.approx(
            [now] * (min(5, batch + accumulate) - batch), abs=0
        )
        assert [limits.parts(progress)(each) for each in range(batch, 5)] == [whole(each) for each in range(batch, 5)]
        progress.batches += accumulate
        progress.step += 1


@pytest.mark.slow
def test_resuming_within_an_epoch_changes_nothing(tmp_path: Path) -> None:
    """Nor do workers: neither while images are mixed nor behind the end of it."""
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    common = [*TINY, *VARIED, f"dataset.root={tmp_path}/shapes", "trainer.max_epochs=null", "trainer.max_steps=8"]
    common += ["transformer.dropout=0.1", "trainer.evaluate_every=9"]
    often = ["trainer.checkpoint_every_steps=1", "trainer.keep_last=9", "dataloader.num_workers=2"]
    done = run("train.py", *common, *often, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    for step in (2, 6):  # of 5 in an epoch; mosaics end after 4, the rest after 7
        (start,) = whole.glob(f"checkpoints/*{step:04d}.pt")
        done = run("train.py", *common, f"resume={start}", f"hydra.run.dir={rest}_{step}")
        assert done.returncode == 0, done.stderr
        first, second = (
            torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
            for folder in (whole, Path(f"{rest}_{step}"))
        )
        assert all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["augmentation.mixing.mosaic=2"], "augmentation.mixing: mosaic: expected a number from 0 to 1, got 2"),
        (["augmentation.mixing.mosiac=1"], "did you mean augmentation.mixing.mosaic"),
    ],
)
def test_a_mistake_is_answered_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    words = [f"+{word}" if "mosiac" in word else word for word in words]
    done = run("train.py", *TINY, *VARIED, *words, f"dataset.root={tmp_path}/shapes", f"hydra.run.dir={tmp_path}/run")
    assert said in only_error(done)
