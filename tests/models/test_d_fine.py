"""What is D-FINE's own. That it gives the numbers of transformers' is in tests/weights/test_d_fine_layout.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from builders import random_images, random_targets
from d_fine_example import CLASSES, QUERIES, WIDTH, criterion_of_d_fine, hgnet, small_d_fine
from torch import Tensor

from detr.assembly import build_model, build_optimizer
from detr.config import build, compose, resolved
from detr.models.box_coder import LogitBoxCoder
from detr.models.d_fine import DFineDecoder, Gate
from detr.models.d_fine_encoder import DFineEncoder
from detr.models.detr import DETR
from detr.models.layers import LayerConfig
from detr.models.structures import Decoded
from detr.structures import Classes, Normalizer, Predictions, Targets
from detr.weights.layouts.d_fine import AUTHORS
from detr.weights.renaming import Renaming

SIZES = [(96, 128), (64, 96)]  # the second is padded
COUNTS = [2, 0]


@pytest.fixture(scope="module")
def trained() -> tuple[DETR, Predictions, Targets]:
    """While training, with denoising of the objects of one image."""
    model, targets = small_d_fine().train(), random_targets(COUNTS, classes=CLASSES)
    return model, model(*random_images(SIZES), targets), targets


def test_a_fresh_detector_says_its_preliminary_box_in_every_layer() -> None:
    """All bins are equally likely, and both gates are half open."""
    predictions = small_d_fine(fresh=True).train()(*random_images(SIZES))
    preliminary = predictions.groups["preliminary"].outputs.boxes
    torch.testing.assert_close(predictions.boxes, preliminary.expand_as(predictions.boxes))
    torch.testing.assert_close(predictions.groups["encoder"].outputs.boxes, preliminary)
    gate = Gate(WIDTH)
    one, other = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(gate(one, other), gate.norm((one + other) / 2))


def test_the_preliminary_box_is_supervised_for_queries_and_for_groups(
    trained: tuple[DETR, Predictions, Targets],
) -> None:
    model, predictions, _ = trained
    assert list(predictions.groups) == ["encoder", "denoising", "denoising_preliminary", "preliminary"]
    groups = predictions.groups
    assert [name for name, group in groups.items() if group.earlier] == ["encoder", "preliminary"]
    assert groups["preliminary"].outputs.logits.shape == (1, 2, QUERIES, CLASSES)
    noisy, early = groups["denoising"], groups["denoising_preliminary"]
    assert (early.parts, early.weight) == (noisy.parts, noisy.weight)
    assert noisy.matches is not None
    assert early.matches is not None
    assert early.matches.query.tolist() == noisy.matches.of_last_layer().query.tolist()
    assert early.outputs.boxes.shape[1:] == noisy.outputs.boxes.shape[1:]
    assert list(model.eval()(*random_images(SIZES)).groups) == ["encoder"]
    model.train()


def test_every_layer_starts_from_the_preliminary_box(trained: tuple[DETR, Predictions, Targets]) -> None:
    """Distributions move its edges, and its own gradient is that of its own losses alone."""
    _, predictions, _ = trained
    preliminary = predictions.groups["preliminary"].outputs.boxes
    assert torch.equal(predictions.extras["reference"], preliminary.detach().expand_as(predictions.boxes))
    assert not torch.equal(predictions.boxes[0], preliminary[0])
    gradient = torch.autograd.grad(predictions.boxes.sum(), preliminary, allow_unused=True, retain_graph=True)
    assert gradient == (None,)


def test_quality_is_added_to_all_classes(trained: tuple[DETR, Predictions, Targets]) -> None:
    model, predictions, _ = trained
    quality = predictions.extras["quality"]
    assert quality.std() > 1e-2
    head = model.class_head[0]  # type: ignore[index]
    state = torch.randn(1, 2, 4, WIDTH)
    plain, better = (
        head(Decoded(state, torch.zeros(0), extras)) for extras in ({}, {"quality": torch.ones(1, 2, 4, 1)})
    )
    torch.testing.assert_close(better, plain + 1)


def test_only_the_first_layers(trained: tuple[DETR, Predictions, Targets]) -> None:
    """Any number of them is a detector."""
    model = trained[0].eval()
    every = model(*random_images(SIZES))
    model.decoder.eval_layers = 2
    first = model(*random_images(SIZES))
    model.decoder.eval_layers = None
    model.train()
    torch.testing.assert_close((first.logits, first.boxes), (every.logits[:2], every.boxes[:2]))


def test_padding_changes_nothing() -> None:
    """The same image alone and in a batch; convolutions aside, which see the border of a padded image as zeros."""
    model = small_d_fine()
    images, padding = random_images([(64, 64), (64, 128)])
    found = model.decoder
    memory = model.encoder(model.neck(model.backbone(images), padding))
    queries = model.queries(memory)
    other = memory.tokens + memory.padding[..., None] * torch.randn_like(memory.tokens)
    changed = type(memory)(other, memory.positions, memory.padding, memory.shapes, memory.strides)
    torch.testing.assert_close(
        found(queries, memory, model.box_head).boxes, found(queries, changed, model.box_head).boxes
    )


def step(model: DETR, counts: list[int]) -> tuple[Predictions, Tensor]:
    """A forward and a backward pass."""
    targets = random_targets(counts, classes=CLASSES)
    predictions = model(*random_images(SIZES), targets)
    normalizer = Normalizer(objects=max(1, sum(counts)), images=2)
    total = criterion_of_d_fine()(predictions, targets, normalizer).total
    total.backward()
    return predictions, total


@pytest.mark.parametrize("counts", [COUNTS, [0, 0]])
def test_every_parameter_has_a_gradient(counts: list[int]) -> None:
    """Also without a single object: several processes would wait for it."""
    model = small_d_fine().train()
    _, total = step(model, counts)
    assert total.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


DETECTORS = [f"{family}_{size}" for family in ("d_fine", "deim") for size in "nsmlx"]
QUICK = ("d_fine_n", "deim_x")  # of the others each takes a second or more


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in DETECTORS]
)
def test_a_step_of_every_detector(name: str) -> None:
    """Its parts and its loss, at a small width."""
    words = [f"detector={name}", "~experiment", "backbone=hgnetv2_b0", "backbone.weights=null"]
    sizes = ["d_model=32", "num_heads=4", "dim_feedforward=32", "encoder.layer.d_model=32"]
    plain = resolved(compose([*words, *(f"transformer.{size}" for size in sizes), "queries.num_queries=6"]))
    classes = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    model, criterion = build_model(plain, classes, pretrained=False).train(), build(plain["loss"], "loss")
    targets = random_targets(COUNTS, classes=CLASSES)
    losses = criterion(model(*random_images(SIZES), targets), targets, Normalizer(objects=2, images=2))
    losses.total.backward()
    assert losses.total.isfinite()
    assert {"fgl", "ddf", "preliminary/giou", "denoising_preliminary/class"} <= losses.terms.keys()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in trained)


def test_batch_norm_of_the_backbone_learns_if_asked_for() -> None:
    backbone = hgnet(levels=2)
    assert not [each for each in backbone.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert backbone.mean.flatten().tolist() == [0, 0, 0]
    assert backbone.std.flatten().tolist() == [1, 1, 1]
    learning = type(backbone)(name="hgnetv2_b0", weights=None, levels=(-1,), frozen_norm=False, normalize=False)
    norm = learning.body.stem.stem1.bn
    before = norm.running_mean.clone()
    learning.train()(torch.rand(2, 3, 64, 64))
    assert norm.weight.requires_grad
    assert not torch.equal(norm.running_mean, before)


LAYER = LayerConfig(d_model=WIDTH, num_heads=4)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bins": 7}, "bins: expected an even number, at least 4, got 7"),
        ({"reach": 0.0}, "reach: expected a number above 0, got 0.0"),
        ({"curvature": -1.0}, "curvature: expected a number above 0, got -1.0"),
        ({"layer": LayerConfig(pre_norm=True)}, "pre_norm: this decoder normalises after each sublayer only"),
        ({"layer": LayerConfig(activation="gelu")}, "activation: expected relu or silu for this decoder, got gelu"),
        ({"num_points": [4, 4]}, "num_points: expected 3 numbers, one for each level"),
        ({"num_layers": 0}, "num_layers: expected at least 1 layer, got none"),
    ],
)
def test_settings_of_the_decoder_are_checked(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DFineDecoder(**{"layer": LAYER, "box_coder": LogitBoxCoder()} | settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_blocks": 0}, "num_blocks: expected at least 1, got 0"),
        ({"expansion": 0.05}, "expansion: expected at least 0.0625, got 0.05"),
        ({"num_levels": 1}, "num_levels: expected at least 2 levels to fuse, got 1"),
    ],
)
def test_settings_of_the_encoder_are_checked(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DFineEncoder(layer=LAYER, **settings)


# The authors' groups: the first pattern that is found in their name of a parameter, its learning rate and weight decay.
RATES = {
    "d_fine_m": [
        (r"^(?=.*backbone)(?!.*norm|bn).*$", 2e-5, 1e-4),
        (r"^(?=.*backbone)(?=.*norm|bn).*$", 2e-5, 0),
        (r"^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$", 2e-4, 0),
        ("", 2e-4, 1e-4),
    ],
    "deim_m": [
        (r"^(?=.*backbone)(?!.*bn).*$", 4e-5, 1e-4),
        (r"^(?=.*(?:norm|bn)).*$", 4e-4, 0),
        ("", 4e-4, 1e-4),
    ],
}


@pytest.mark.parametrize("experiment", RATES)
def test_rates_are_the_authors(experiment: str) -> None:
    """Of every parameter."""
    values, names = resolved(compose([f"experiment={experiment}"])), Renaming(AUTHORS)
    with torch.device("meta"):
        model = build_model(values, Classes.contiguous({0: "a"}), pretrained=False)
    optimizer = build_optimizer(values["optimizer"], model)
    groups_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        theirs, group = names.theirs(name), groups_of[id(parameter)]
        assert theirs is not None, name
        _, rate, decay = next(each for each in RATES[experiment] if re.search(each[0], theirs))
        assert (group["lr"], group["weight_decay"]) == (rate, decay), theirs
