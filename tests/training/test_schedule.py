"""Schedules of the learning rate against torch's."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from detr.training.schedule import Constant, Cosine, FlatCosine, Moment, MultiStep, Schedule, Step


def moment(epoch: int = 0, step: int = 0, progress: float = 0.0) -> Moment:
    return Moment(epoch, step, progress)


def torch_factors(build: type[lr_scheduler.LRScheduler], positions: int, **options: object) -> list[float]:
    """What torch's scheduler makes of a rate of 1, before each of so many epochs."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer, **options)  # type: ignore[arg-type]
    factors = []
    for _ in range(positions):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@given(every=st.integers(1, 7), gamma=st.sampled_from([0.1, 0.5]))
def test_step_is_torchs(every: int, gamma: float) -> None:
    expected = torch_factors(lr_scheduler.StepLR, 20, step_size=every, gamma=gamma)
    epochs, steps = Step(every=every, gamma=gamma), Step(every=every, gamma=gamma, unit="steps")
    assert [epochs.factor(moment(epoch=i, step=99 * i)) for i in range(20)] == pytest.approx(expected)
    assert [steps.factor(moment(step=i, epoch=i // 6)) for i in range(20)] == pytest.approx(expected)


@given(milestones=st.lists(st.integers(1, 15), max_size=4))
def test_multistep_is_torchs(milestones: list[int]) -> None:
    expected = torch_factors(lr_scheduler.MultiStepLR, 20, milestones=milestones, gamma=0.3)
    schedule = MultiStep(milestones=milestones, gamma=0.3)
    assert [schedule.factor(moment(epoch=i)) for i in range(20)] == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    expected = torch_factors(lr_scheduler.CosineAnnealingLR, 21, T_max=20, eta_min=final)
    schedule = Cosine(final=final)
    assert [schedule.factor(moment(progress=i / 20)) for i in range(21)] == pytest.approx(expected)


def deims_rate(iteration: int, total: int, warmup: int, flat: int, still: int, least: float) -> float:
    """Formula of DEIM's authors (engine/solver/lr_scheduler.py), of a rate of 1."""
    if iteration <= warmup:
        return (iteration / warmup) ** 2
    if iteration <= flat:
        return 1
    if iteration >= total - still:
        return least
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (iteration - flat) / (total - flat - still)))


def test_flat_cosine_is_deims() -> None:
    """With 102 epochs of 10 steps, of which 49 are flat and the last 12, too; our warm-up never starts from 0."""
    schedule = FlatCosine(flat=49 / 102, rest=12 / 102, final=0.5, warmup_steps=19)
    factors = [schedule.factor(moment(step=step, progress=step / 1020)) for step in range(1021)]
    assert factors[20:] == pytest.approx([deims_rate(step, 1020, 20, 490, 120, 0.5) for step in range(20, 1021)])
    assert factors[:20] == pytest.approx([deims_rate(step + 1, 1020, 20, 490, 120, 0.5) for step in range(20)])
    line = FlatCosine(warmup_steps=3, warmup_power=1)
    assert [line.factor(moment(step=step)) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize("schedule", [Constant, functools.partial(MultiStep, milestones=[3], unit="steps"), Cosine])
def test_warmup_rises_to_the_schedule(schedule: functools.partial[Schedule]) -> None:
    """Linearly, never from 0; afterwards the schedule is what it is without."""
    warm, plain = schedule(warmup_steps=4), schedule()
    for step in range(12):
        here = moment(step=step, progress=step / 12)
        assert warm.factor(here) == pytest.approx(plain.factor(here) * min(1, (step + 1) / 5))


def drops_after(schedule: Schedule, epochs: int, steps: int = 7) -> list[int]:
    """The epochs, from 1, at whose end a checkpoint is kept: the last step of the next one has a lower rate."""
    last = [
        moment(epoch=epoch, step=(epoch + 1) * steps - 1, progress=((epoch + 1) * steps - 1) / (epochs * steps))
        for epoch in range(epochs + 1)
    ]
    return [epoch for epoch in range(1, epochs + 1) if schedule.drops(last[epoch - 1], last[epoch])]


def test_official_lr_drop() -> None:
    """--lr_drop 200: the first 200 epochs at full rate; the checkpoint at the end of the 200th is kept."""
    for schedule in (Step(every=200), MultiStep(milestones=[200])):
        factors = [schedule.factor(moment(epoch=epoch)) for epoch in (0, 199, 200, 299)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1])
        assert drops_after(schedule, 300) == [200]


def test_checkpoints_are_kept_from_before_drops() -> None:
    assert drops_after(Step(every=4), 12) == [4, 8, 12]
    assert drops_after(MultiStep(milestones=[3, 9]), 12) == [3, 9]
    assert drops_after(Step(every=28, unit="steps"), 12) == [4, 8, 12]  # of 7 steps each
    assert drops_after(MultiStep(milestones=[30], unit="steps"), 12) == [4]  # within the fifth
    assert drops_after(MultiStep(milestones=[0.5]), 12) == [6]
    assert drops_after(MultiStep(milestones=[0.7]), 12) == [8]  # within the ninth
    assert drops_after(Cosine(), 12) == drops_after(Constant(), 12) == []


def test_milestones_are_parts_of_the_run_or_counts() -> None:
    """The defaults drop in every run, however long it is."""
    for schedule in (MultiStep(), MultiStep(milestones=[0.8], unit="steps")):
        factors = [schedule.factor(moment(epoch=9, step=9, progress=part)) for part in (0, 0.79, 0.8, 1)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1])
    both = MultiStep(milestones=[0.5, 8])
    assert both.factor(moment(epoch=8, progress=0.6)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Step(every=0), "every: expected at least 1, got 0"),
        (
            lambda: MultiStep(milestones=[0]),
            "milestones: expected parts of the run below 1, or whole numbers of epochs",
        ),
        (lambda: MultiStep(milestones=[2.5]), "whole numbers of epochs, got 2.5"),
        (lambda: FlatCosine(flat=0.6, rest=0.4), "flat and rest: expected parts of the run that leave some of it"),
        (lambda: FlatCosine(rest=-0.1), "rest: expected a number from 0 to 1, got -0.1"),
        (lambda: FlatCosine(warmup_power=0), "warmup_power: expected a number above 0, got 0"),
        (lambda: Cosine(final=2), "final: expected a number from 0 to 1, got 2"),
        (lambda: Constant(warmup_steps=-1), "warmup_steps: expected at least 0, got -1"),
    ],
)
def test_senseless_schedules_are_refused(build: functools.partial[Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
