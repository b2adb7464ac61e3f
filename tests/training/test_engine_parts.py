"""One optimizer step at a time: accumulation, clipping, averages, what happens when a loss is not finite."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import tiny_detr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from trainers import samples, trainer

from detr.data.loader import collate, grouped
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Batch, Classification, Losses
from detr.training.average import averaged
from detr.training.meter import Meter
from detr.training.options import TrainerOptions
from detr.training.schedule import MultiStep

# Accumulation.


@pytest.mark.parametrize("classification", ["softmax", "sigmoid"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulation_equals_the_larger_batch(
    classification: Classification, clip_norm: float | None, tmp_path: Path
) -> None:
    """Two steps of two micro-batches and of one batch: the same losses and weights, to the rounding of float64."""
    small = tiny_detr(queries="two_stage", classification=classification).double().train()
    large = copy.deepcopy(small)
    before = copy.deepcopy(small.state_dict())
    accumulating, whole = (trainer(model, tmp_path, clip_norm=clip_norm) for model in (small, large))
    for seed in range(2):
        images = samples([3, 0, 0, 1] if seed else [0, 0, 2, 4], seed)
        in_two = accumulating.train_step([collate(images[:2]), collate(images[2:])])
        in_one = whole.train_step([collate(images)])
        torch.testing.assert_close(in_two.total, in_one.total, rtol=1e-7, atol=1e-9)
        assert in_two.terms.keys() == in_one.terms.keys()
        for name, term in in_two.terms.items():
            torch.testing.assert_close(term, in_one.terms[name], rtol=1e-7, atol=1e-9)
    for (name, mine), theirs in zip(small.named_parameters(), large.parameters(), strict=True):
        # AdamW divides a gradient by its own size, so that rounding counts where there is none to speak of.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4, msg=name)
        assert mine.requires_grad != torch.equal(mine, before[name]), name


def test_process_normalization_differs_with_unequal_objects(tmp_path: Path) -> None:
    """The paper's cross-entropy is a mean for each micro-batch: what the test above finds is no matter of course."""
    images = samples([5, 5, 0, 0])
    totals = [
        trainer(tiny_detr().train(), tmp_path, normalization="process").train_step(micro_batches).terms["class"]
        for micro_batches in ([collate(images[:2]), collate(images[2:])], [collate(images)])
    ]
    assert (totals[0] - totals[1]).abs().max() > 1e-2


# Steps.


def test_a_step_is_clipped_adamw(tmp_path: Path) -> None:
    """The trainer's step is backward, clip, AdamW; gradients are gone afterwards."""
    mine = tiny_detr().train()
    theirs = copy.deepcopy(mine)
    batch = collate(samples([2, 1]))
    ours = trainer(mine, tmp_path, clip_norm=0.1)
    losses = ours.train_step([batch])
    other = trainer(theirs, tmp_path)
    expected = other.criterion(theirs(batch.images, batch.padding), batch.targets, other.agree([batch]))
    expected.total.backward()
    assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.1) > 0.1
    other.optimizer.step()
    assert torch.equal(losses.total, expected.total)
    assert not losses.total.requires_grad
    for (name, parameter), reference in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, reference), name
        assert parameter.grad is None


def test_the_schedule_multiplies_every_groups_rate(tmp_path: Path) -> None:
    ours = trainer(tiny_detr().train(), tmp_path, schedule=MultiStep(milestones=[1], unit="steps"))
    batch = collate(samples([1, 1]))
    for step, factor in enumerate([1.0, 0.1, 0.1]):
        ours.progress.step = step
        ours.train_step([batch])
        assert [group["lr"] for group in ours.optimizer.param_groups] == pytest.approx([1e-2 * factor, 1e-3 * factor])


def test_batches_without_objects_are_steps(tmp_path: Path) -> None:
    model = tiny_detr().train()
    before = copy.deepcopy(model.state_dict())
    losses = trainer(model, tmp_path).train_step([collate(samples([0, 0]))])
    assert losses.total.isfinite()
    assert losses.terms["bbox"].abs().max() == losses.terms["giou"].abs().max() == 0
    assert not torch.equal(model.class_head.weight, before["class_head.weight"])


def poison(model: DETR, what: str) -> None:
    head = model.class_head if what == "class" else model.box_head.layers[-1]
    with torch.no_grad():
        head.bias.fill_(torch.nan)


@pytest.mark.parametrize(
    ("what", "counts", "named"), [("class", [1, 1], ["0", "1"]), ("box", [0, 2], ["1"]), ("class", [0, 0], ["0", "1"])]
)
def test_a_loss_that_is_not_finite_stops_and_is_kept(
    what: str, counts: list[int], named: list[str], tmp_path: Path
) -> None:
    """One line that names the images; the file holds what is needed to see it again."""
    model = tiny_detr(dropout=0.5).train()
    poison(model, what)
    batch = collate(samples(counts))
    with pytest.raises(UserError, match="not finite in step 1") as error:
        trainer(model, tmp_path).train_step([batch])
    message = str(error.value)
    assert "\n" not in message
    assert [name for name in "01" if f"images/{name}.png" in message] == named
    (path,) = tmp_path.rglob("non_finite*")
    assert str(path) in message
    saved = torch.load(path, weights_only=True)
    again = tiny_detr(dropout=0.5).train()
    again.load_state_dict(saved["model"])
    torch.set_rng_state(saved["step"]["random_state"])
    predictions = again(saved["step"]["batch"]["images"], saved["step"]["batch"]["padding"])
    assert not (predictions.logits if what == "class" else predictions.boxes).isfinite().all()
    assert saved["step"]["batch"]["files"] == batch.files


# Averages.


def losses_of(value: float) -> Losses:
    return Losses(
        total=torch.tensor(value),
        terms={"bbox": torch.tensor([value, 2 * value])},
        metrics={"error": torch.tensor([value])},
    )


def test_meter() -> None:
    """Means over steps; the last layer has the plain name, earlier ones theirs."""
    meter = Meter()
    first = losses_of(1.0)
    meter.add(first, images=2)
    meter.add(losses_of(4.0), images=3)
    assert meter.images == 5
    assert meter.means() == {"loss": 2.5, "bbox/layer0": 2.5, "bbox": 5.0, "error": 2.5}
    assert meter.latest() == {"loss": 4.0, "bbox/layer0": 4.0, "bbox": 8.0, "error": 4.0}
    assert first.total == 1  # what was added is not written to


def test_losses_add_up() -> None:
    both = losses_of(1.0) + losses_of(3.0)
    assert (both.total.item(), both.terms["bbox"].tolist(), both.metrics["error"].tolist()) == (4, [4, 8], [3])


@given(count=st.integers(0, 20), size=st.integers(1, 6))
def test_grouped(count: int, size: int) -> None:
    """Nothing is lost, the order is kept, all groups but the last are full."""
    batches: list[Any] = list(range(count))
    groups: list[list[Batch]] = list(grouped(batches, size))
    assert [each for group in groups for each in group] == batches
    assert all(len(group) == size for group in groups[:-1])
    assert all(groups)
    assert len(groups) == -(-count // size)


@pytest.mark.parametrize("tau", [None, 3.0])
def test_moving_average(tau: float | None) -> None:
    """Starts at the weights, follows by 1 − (1 + n) / (10 + n) at first and by 1 − decay later; buffers are copied."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = averaged(model, 0.5, tau)
    expected = None
    for step in range(12):
        with torch.no_grad():
            model[0].weight.fill_(float(step**2))
            model[1].running_mean.fill_(float(step))
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step)) if tau is None else 0.5 * (1 - math.exp(-step / tau))
        expected = float(step**2) if expected is None else decay * expected + (1 - decay) * step**2
        assert average.module[0].weight[0, 0].item() == pytest.approx(expected)
        assert average.module[1].running_mean.item() == step


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": None}, "no end"),
        ({"max_epochs": 0}, "max_epochs: expected a number above 0, got 0"),
        ({"accumulate": -1}, "accumulate: expected a number above 0, got -1"),
        ({"clip_norm": 0.0}, "clip_norm: expected a number above 0, got 0.0"),
        ({"ema_decay": 1.0}, "ema_decay: expected a number below 1, got 1.0"),
        ({"ema_tau": 100}, "ema_tau says how ema_decay rises, but that is null"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**options)


def test_limits_may_be_any_of_three() -> None:
    for options in ({"max_steps": 5}, {"max_minutes": 0.5}, {"max_epochs": 1}):
        TrainerOptions(**({"max_epochs": None} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("monitor", "values", "expected"),
    [
        ("AP", {"AP": [0.1, 0.3, 0.2, 0.3], "loss": [1, 2, 3, 4]}, [True, True, False, False]),
        ("loss", {"AP": [0.1, 0.2, 0.3, 0.4], "loss": [3, 2, 4, 1]}, [True, True, False, True]),
        ("segm/AP", {"AP": [0.5, 0.5, 0.5, 0.5], "segm/AP": [0.0, 0.1, 0.2, 0.1]}, [True, True, True, False]),
    ],
)
def test_the_best_epoch_is_that_of_the_monitored_metric(
    tmp_path: Path, monitor: str, values: dict[str, list[float]], expected: list[bool]
) -> None:
    judging = trainer(tiny_detr(), tmp_path, monitor=monitor)
    found = []
    for row in zip(*values.values(), strict=True):
        named = {f"val/{name}": value for name, value in zip(values, row, strict=True)}
        found.append(judging.is_better(named))
        if found[-1]:
            judging.progress.best = named
    assert found == expected


def test_a_resumed_run_may_monitor_something_else(tmp_path: Path) -> None:
    judging = trainer(tiny_detr(), tmp_path, monitor="segm/AP")
    judging.progress.best = {"val/AP": 0.9}
    assert judging.is_better({"val/AP": 0.1, "val/segm/AP": 0.1})
