"""Parameter groups against the official split, schedules against torch's."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from builders import random_images, random_targets, tiny_detr
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from detr.losses.criterion import SetCriterion
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, CrossEntropy, GIoU
from detr.models.backbone import ResNet
from detr.models.detr import DETR
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import LearnedQueries
from detr.models.transformer import TransformerDecoder, TransformerEncoder
from detr.structures import Normalizer
from detr.training.optim import Constant, Cosine, Moment, MultiStep, Schedule, Step, adamw, parameter_groups, train_mode


def moment(epoch: int = 0, step: int = 0, progress: float = 0.0) -> Moment:
    return Moment(epoch, step, progress)


# Groups.


def test_groups_of_detr_r50_are_the_official_ones() -> None:
    """Tensors and weights of facebookresearch/detr's two groups for COCO; its logs say 41302368 parameters."""
    model = DETR(
        backbone=ResNet(name="resnet50", weights=None),
        neck=functools.partial(Neck, d_model=256, position_embedding=SinePositionEmbedding(d_model=256)),
        encoder=TransformerEncoder(),
        decoder=TransformerDecoder(),
        queries=LearnedQueries,
        num_classes=91,
    )
    optimizer = adamw(model=model, lr=1e-4, lr_by_pattern={"backbone": 1e-5})
    rest, backbone = optimizer.param_groups
    assert (rest["lr"], backbone["lr"]) == (1e-4, 1e-5)
    assert rest["weight_decay"] == backbone["weight_decay"] == 1e-4
    names = {parameter: name for name, parameter in model.named_parameters()}
    # 53 convolutions, of which the stem's one and layer1's ten are frozen; batch norm has no parameters at all.
    assert len(backbone["params"]) == 42
    assert sum(parameter.numel() for parameter in backbone["params"]) == 23_232_512
    assert all("layer" in names[p] and "layer1" not in names[p] for p in backbone["params"])
    # Encoder 6 × 12, decoder 6 × 18 and its norm 2, projection 2, queries 1, class head 2, box head 6.
    assert len(rest["params"]) == 6 * 12 + 6 * 18 + 2 + 2 + 1 + 2 + 6
    assert sum(parameter.numel() for parameter in rest["params"]) == 41_302_368 - 23_232_512
    assert not any("backbone" in names[p] for p in rest["params"])


def test_a_rate_of_zero_freezes() -> None:
    model = tiny_detr()
    optimizer = adamw(model=model, lr=1e-4, lr_by_pattern={"backbone": 0.0, r"class_head\.weight": 1e-3})
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone"}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-3]
    assert optimizer.param_groups[1]["params"] == [model.class_head.weight]


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    """And learning ones do not: frozen parts say the same after a training."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    adamw(model=model, lr=1e-3, lr_by_pattern={r"^[01]\.": 0.0})
    train_mode(model)
    assert model.training
    model(torch.randn(2, 3, 5, 5))
    frozen, learning = model[1], model[3]
    assert frozen.running_mean.abs().max() == 0
    assert learning.running_mean.abs().max() > 0


def test_the_first_pattern_that_is_found_counts() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    groups = parameter_groups(model, 1.0, {"weight": 2.0, "encoder": 3.0})
    assert [rate for rate, _ in groups] == [1.0, 2.0, 3.0]
    expected = [[model["decoder"].bias], [model["encoder"].weight, model["decoder"].weight], [model["encoder"].bias]]
    assert [[id(p) for p in parameters] for _, parameters in groups] == [[id(p) for p in each] for each in expected]


@pytest.mark.parametrize(
    ("lr", "patterns", "message"),
    [
        (-1.0, {}, "lr must be at least 0"),
        (math.nan, {}, "lr must be at least 0"),
        (1.0, {"backbone": -1e-5}, r"lr_by_pattern\.backbone must be at least 0"),
        (1.0, {"bakcbone": 1e-5}, "bakcbone is found in no parameter's name; names start with backbone, neck"),
        (1.0, {"(": 1e-5}, "no regular expression"),
        (0.0, {"backbone": 0.0}, "every parameter is frozen"),
    ],
)
def test_senseless_rates_are_refused(lr: float, patterns: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adamw(model=tiny_detr(), lr=lr, lr_by_pattern=patterns)


def test_steps_equal_those_of_the_official_groups() -> None:
    """Three clipped steps with the same gradients over main.py's param_dicts end in the same weights."""
    ours = tiny_detr().train()
    official = copy.deepcopy(ours)
    named = [(name, p) for name, p in official.named_parameters() if p.requires_grad]
    param_dicts = [
        {"params": [p for name, p in named if "backbone" not in name]},
        {"params": [p for name, p in named if "backbone" in name], "lr": 1e-3},
    ]
    theirs = torch.optim.AdamW(param_dicts, lr=1e-2, weight_decay=0.1)
    mine = adamw(model=ours, lr=1e-2, weight_decay=0.1, lr_by_pattern={"backbone": 1e-3})
    criterion = SetCriterion(
        matcher=HungarianMatcher(), terms={"class": CrossEntropy(), "bbox": L1(weight=5), "giou": GIoU(weight=2)}
    )
    targets = random_targets([2, 1])
    before = copy.deepcopy(ours.state_dict())
    for seed in range(3):
        predictions = ours(*random_images([(64, 64)] * 2, seed=seed))
        criterion(predictions, targets, Normalizer(objects=3, images=2)).total.backward()
        for parameter, other in zip(ours.parameters(), official.parameters(), strict=True):
            other.grad = None if parameter.grad is None else parameter.grad.clone()
        for model, optimizer in ((ours, mine), (official, theirs)):
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    for (name, parameter), other in zip(ours.named_parameters(), official.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-6, msg=name)  # the fused kernel's rounding
        assert parameter.requires_grad != torch.equal(parameter, before[name]), name


def test_layouts_agree(tmp_path: Path) -> None:
    """AdamW's fused kernel reads weights, gradients and state in memory order: where one is channels-last and another
    is not, it is silently wrong. So all have the parameter's strides, also after saving and loading."""
    model = tiny_detr(queries="two_stage", masks=True).train()
    optimizer = adamw(model=model, lr=1e-3)
    for _ in range(2):  # also where a gradient is added to another
        predictions = model(*random_images([(64, 64), (48, 64)]))
        assert predictions.masks is not None
        masks = predictions.masks(torch.tensor([0, 1]), torch.tensor([3, 1]))
        outputs = [predictions, predictions.groups["encoder"].predictions]
        sums = [each.logits.sum() + each.boxes.sum() for each in outputs]
        torch.stack([*sums, masks.square().sum()]).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = tiny_detr(queries="two_stage", masks=True)
    again = adamw(model=resumed, lr=1e-3)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    trained = [parameter for parameter in resumed.parameters() if parameter.requires_grad]
    assert any(not parameter.is_contiguous() for parameter in trained)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.stride() == parameter.stride(), name
    for parameter in trained:
        for value in (again.state[parameter]["exp_avg"], again.state[parameter]["exp_avg_sq"]):
            assert value.stride() == parameter.stride()


# Schedules.


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


@pytest.mark.parametrize("schedule", [Constant, functools.partial(MultiStep, milestones=[3], unit="steps"), Cosine])
def test_warmup_rises_to_the_schedule(schedule: functools.partial[Schedule]) -> None:
    """Linearly, never from 0; afterwards the schedule is what it is without."""
    warm, plain = schedule(warmup_steps=4), schedule()
    for step in range(12):
        here = moment(step=step, progress=step / 12)
        assert warm.factor(here) == pytest.approx(plain.factor(here) * min(1, (step + 1) / 5))


def test_official_lr_drop() -> None:
    """--lr_drop 200: the first 200 epochs at full rate; the checkpoint at the end of the 200th is kept."""
    for schedule in (Step(every=200), MultiStep(milestones=[200])):
        factors = [schedule.factor(moment(epoch=epoch)) for epoch in (0, 199, 200, 299)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1])
        assert [epoch for epoch in range(1, 301) if schedule.drops_after(epoch)] == [200]


def test_drops_after_epochs_only() -> None:
    assert [epoch for epoch in range(1, 13) if Step(every=4).drops_after(epoch)] == [4, 8, 12]
    assert [epoch for epoch in range(1, 13) if MultiStep(milestones=[3, 9]).drops_after(epoch)] == [3, 9]
    for schedule in (Step(every=4, unit="steps"), MultiStep(milestones=[3], unit="steps"), Cosine(), Constant()):
        assert not any(schedule.drops_after(epoch) for epoch in range(1, 13))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Step(every=0), "every must be at least 1"),
        (lambda: MultiStep(milestones=[0]), "milestones must be 1 or more"),
        (lambda: Cosine(final=2), "final must lie between 0 and 1"),
        (lambda: Constant(warmup_steps=-1), "warmup_steps must be at least 0"),
    ],
)
def test_senseless_schedules_are_refused(build: functools.partial[Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
