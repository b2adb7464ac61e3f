"""Parameter groups against the official split, and AdamW's steps over them."""

from __future__ import annotations

import copy
import functools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_images, random_targets, tiny_detr
from torch import nn

from detr.assembly import build_optimizer
from detr.config import check, compose
from detr.errors import UserError
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


def test_of_several_patterns_the_last_counts() -> None:
    """So that what an experiment adds excepts from what the options before it say; a pattern may be all excepted."""
    model = tiny_detr()
    rates = {"backbone": 1e-5, "class_head": 1e-6, r"backbone.*conv1": 1e-3, "class_head|box_head": 1e-3}
    optimizer = adamw(
        model=model, lr=1e-4, lr_by_pattern=rates, weight_decay_by_pattern={"bias": 0, r"norm\d\.bias": 0.5}
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, (rate, decay) in seen.items():
        backbone = 1e-3 if "conv1" in name else 1e-5
        own = backbone if "backbone" in name else 1e-3 if name.startswith(("class_head", "box_head")) else 1e-4
        assert rate == own, name
        assert decay == (0.5 if re.search(r"norm\d\.bias", name) else 0 if "bias" in name else 1e-4), name


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


def test_the_last_pattern_that_is_found_counts() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    groups = parameter_groups(model, 1.0, 0.1, {"encoder": 3.0, "weight": 2.0}, {})
    assert [(group["name"], group["lr"]) for group in groups] == [("default", 1.0), ("encoder", 3.0), ("weight", 2.0)]
    assert {group["weight_decay"] for group in groups} == {0.1}
    expected = [[model["decoder"].bias], [model["encoder"].bias], [model["encoder"].weight, model["decoder"].weight]]
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


def noisy_steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3, factor: float = 1.0) -> None:
    """Steps along gradients that depend on nothing but the parameter's name and the step."""
    for step in range(count):
        for place, parameter in enumerate(model.parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * step + place))
                parameter.grad = torch.empty_like(parameter).copy_(noise)  # with the parameter's own strides
        for group in optimizer.param_groups:
            group["lr"] *= factor
        optimizer.step()
        optimizer.zero_grad()


def own(model: DETR, *overrides: str) -> torch.optim.Optimizer:
    """The optimizer of a command line, over this model."""
    values, _ = check(compose(["~experiment", *overrides]))
    return build_optimizer(values["optimizer"], model)


ALGORITHMS = ["optimizer=adamw", "optimizer=sgd", "optimizer=muon", "optimizer._target_=torch.optim.RAdam"]


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        (["optimizer=adamw", "+optimizer.betas=[0.8,0.9]"], functools.partial(torch.optim.AdamW, betas=(0.8, 0.9))),
        (["optimizer=sgd"], functools.partial(torch.optim.SGD, momentum=0.9)),
        (["optimizer._target_=torch.optim.RAdam"], torch.optim.RAdam),
    ],
    ids=["adamw", "sgd", "radam"],
)
def test_each_is_torchs_own_over_the_groups(words: list[str], theirs: Any) -> None:
    ours, other = tiny_detr(), tiny_detr()
    mine = own(ours, *words, "optimizer.lr=1e-2", "optimizer.weight_decay=0.1", "optimizer.lr_by_pattern.backbone=1e-3")
    learning = [(name, parameter) for name, parameter in other.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in learning if "backbone" not in name]},
        {"params": [parameter for name, parameter in learning if "backbone" in name], "lr": 1e-3},
    ]
    noisy_steps(ours, mine)
    noisy_steps(other, theirs(groups, lr=1e-2, weight_decay=0.1))
    for (name, parameter), same in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, rtol=1e-6, atol=1e-6, msg=name)


def test_muon_is_torchs_for_hidden_matrices_and_adamw_for_the_rest() -> None:
    ours, other = tiny_detr(), tiny_detr()
    words = ["optimizer.lr=1e-2", "optimizer.weight_decay=0.1", "optimizer.lr_by_pattern={backbone: 1e-3}"]
    mine = own(ours, "optimizer=muon", *words)
    parameters = {name: parameter for name, parameter in other.named_parameters() if parameter.requires_grad}
    hidden = {
        name for name in parameters if re.search(r"(in_proj_|(out_proj|linear\d|box_head\.layers\.[01])\.)weight", name)
    }
    assert {parameters[name].ndim for name in hidden} == {2}
    spared = {name for name, parameter in parameters.items() if parameter.ndim == 2} - hidden
    assert spared == {"queries.embedding.weight", "class_head.weight", "box_head.layers.2.weight"}
    rest = [
        {
            "params": [
                parameter for name, parameter in parameters.items() if name not in hidden and "backbone" not in name
            ]
        },
        {"params": [parameter for name, parameter in parameters.items() if "backbone" in name], "lr": 1e-3},
    ]
    matrices = [parameters[name] for name in parameters if name in hidden]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw_ = torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.1)
    noisy_steps(ours, mine)
    gradients = copy.deepcopy(other)
    noisy_steps(other, muon)
    noisy_steps(other, adamw_)
    assert any(not torch.equal(a, b) for a, b in zip(gradients.parameters(), other.parameters(), strict=True))
    for (name, parameter), same in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, rtol=1e-6, atol=1e-6, msg=name)
    assert [group["name"] for group in mine.param_groups] == ["default", "default.muon", "backbone"]


@pytest.mark.parametrize(
    "algorithm", [pytest.param(each, marks=[] if "muon" in each else [pytest.mark.slow]) for each in ALGORITHMS]
)
def test_a_resumed_optimizer_goes_on_bit_for_bit(algorithm: str, tmp_path: Path) -> None:
    """Also a copy of it, and a copy whose rates are set leaves the first alone."""
    model = tiny_detr()
    optimizer = own(model, algorithm, "optimizer.lr=1e-2")
    noisy_steps(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    copied = copy.deepcopy((model, optimizer))
    noisy_steps(*copied, count=2, factor=0.5)
    resumed = tiny_detr()
    again = own(resumed, algorithm, "optimizer.lr=1e-2")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 1e-2
    noisy_steps(resumed, again, count=2, factor=0.5)
    noisy_steps(model, optimizer, count=2, factor=0.5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
        assert torch.equal(parameter, copied[0].get_parameter(name)), name


def test_muon_skips_a_step_whose_gradient_overflows() -> None:
    model = tiny_detr()
    optimizer, scaler = own(model, "optimizer=muon"), torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(model.state_dict())
    for factor in (math.inf, 1.0):
        scaler.scale(sum(p.sum() for p in model.parameters() if p.requires_grad) * factor).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
        assert bool(moved) == (factor == 1.0)
        optimizer.zero_grad()
    assert scaler.get_scale() == 2.0


def test_groups_have_names_fit_for_metrics() -> None:
    patterns = {"backbone": 1e-3, r"class_head|box_head": 1e-4}
    optimizer = adamw(model=tiny_detr(), lr=1e-2, lr_by_pattern=patterns | {"decoder": 0.0})
    assert [group["name"] for group in optimizer.param_groups] == ["default", "backbone", "class_head_box_head"]
    spared = adamw(model=tiny_detr(), lr=1e-2, weight_decay_by_pattern={r"norm|bias$": 0})
    assert [group["name"] for group in spared.param_groups] == ["default", "default.norm_bias"]
    staged = adamw(model=tiny_detr(), lr=1e-2, lr_by_pattern={"backbone": 1e-3}, layer_decay=0.5)
    assert [group["name"] for group in staged.param_groups] == ["default", "backbone.1", "backbone.2", "backbone.3"]
    model = nn.ModuleDict({"a_b": nn.Linear(2, 2), "a": nn.ModuleDict({"b": nn.Linear(2, 2)})})
    same = parameter_groups(model, 1.0, None, {r"a.b": 3.0, r"a_b": 2.0}, {})
    assert [group["name"] for group in same] == ["a_b", "a_b-2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.weight_decay", "optimizer.lr_by_pattern=null"], "LBFGS"),
        (["optimizer._target_=torch.optim.Rprop"], "Rprop does not take weight_decay"),
        (["optimizer._target_=torch.optim.Muon"], "Muon only supports 2D parameters"),
        (["optimizer._target_=torch.optim.RAdm"], "did you mean torch.optim.RAdam"),
        (["optimizer._target_=torch.optim.RAdam", "optimizer.lr=much"], "optimizer.lr: expected a number"),
        (["optimizer._target_=torch.optim.RAdam", "~optimizer.lr"], "give it with optimizer.lr="),
        (["+optimizer.beta=[0.9,0.99]"], "did you mean optimizer.betas"),
        (["+optimizer.betas=[0.9,2]"], "optimizer: Invalid beta"),
        (["optimizer=muon", "optimizer.adamw=['(']"], "optimizer: adamw: expected a regular expression"),
        (
            [
                "optimizer._target_=torch.optim.Rprop",
                "~optimizer.weight_decay",
                "+optimizer.weight_decay_by_pattern.norm=0",
            ],
            "weight_decay_by_pattern: it needs a weight_decay",
        ),
    ],
)
def test_what_an_optimizer_does_not_take_is_told(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        own(tiny_detr(), *words)
