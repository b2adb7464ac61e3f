"""Parameter groups against the official split, and AdamW's steps over them."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from builders import random_images, random_targets, tiny_detr
from torch import nn

from detr.losses.criterion import SetCriterion
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, CrossEntropy, GIoU
from detr.models.backbone import ResNet
from detr.models.box_coder import LogitBoxCoder
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import LearnedQueries
from detr.structures import Normalizer
from detr.training.optim import adamw, parameter_groups, train_mode


def test_groups_of_detr_r50_are_the_official_ones() -> None:
    """Tensors and weights of facebookresearch/detr's two groups for COCO; its logs say 41302368 parameters."""
    model = DETR(
        backbone=ResNet(name="resnet50", weights=None),
        neck=functools.partial(Neck, d_model=256, position_embedding=SinePositionEmbedding(d_model=256)),
        encoder=TransformerEncoder(layer=LayerConfig()),
        decoder=TransformerDecoder(layer=LayerConfig()),
        queries=functools.partial(LearnedQueries, box_coder=LogitBoxCoder()),
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
    groups = parameter_groups(model, 1.0, 0.1, {"weight": 2.0, "encoder": 3.0}, {})
    assert [(group["name"], group["lr"]) for group in groups] == [("default", 1.0), ("weight", 2.0), ("encoder", 3.0)]
    assert {group["weight_decay"] for group in groups} == {0.1}
    expected = [[model["decoder"].bias], [model["encoder"].weight, model["decoder"].weight], [model["encoder"].bias]]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in each] for each in expected]


@pytest.mark.parametrize(
    ("lr", "patterns", "message"),
    [
        (-1.0, {}, "lr: expected a number of at least 0, got -1"),
        (math.nan, {}, "lr: expected a number of at least 0, got nan"),
        (1.0, {"backbone": -1e-5}, r"lr_by_pattern\.backbone: expected a number of at least 0"),
        (1.0, {"bakcbone": 1e-5}, "bakcbone is not found in any parameter's name; names start with backbone, neck"),
        (1.0, {"(": 1e-5}, "expected a regular expression, got"),
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
        outputs = [predictions, predictions.groups["encoder"].outputs]
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


def test_weight_decay_by_pattern() -> None:
    model = tiny_detr()
    optimizer = adamw(model=model, lr=1e-3, weight_decay=0.1, weight_decay_by_pattern={r"norm|bias$": 0.0})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        spared = {"norm" in names[id(p)] or names[id(p)].endswith("bias") for p in group["params"]}
        assert spared == {group["weight_decay"] == 0}
    assert len(optimizer.param_groups) == 2


def test_layer_decay_slows_stages_of_the_backbone_down() -> None:
    """The last stage by one factor, each before it by one more; everything else learns as it would."""
    model = tiny_detr()
    optimizer = adamw(model=model, lr=1.0, lr_by_pattern={"backbone": 0.5}, layer_decay=0.8)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        stage = name.removeprefix("backbone.body.").partition(".")[0]
        expected = {"layer4": 0.5 * 0.8, "layer3": 0.5 * 0.8**2, "layer2": 0.5 * 0.8**3}.get(stage, 1.0)
        assert rates[id(parameter)] == pytest.approx(expected), name
    with pytest.raises(ValueError, match="layer_decay: expected a number above 0 and at most 1, got 0"):
        adamw(model=model, lr=1.0, layer_decay=0)
    model.backbone.stages = ()
    with pytest.raises(ValueError, match="layer_decay: this backbone does not say which parameters belong"):
        adamw(model=model, lr=1.0, layer_decay=0.5)
