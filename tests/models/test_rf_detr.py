"""RF-DETR and LW-DETR against Hugging Face's with the same weights, and what their parts promise."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from builders import CLASSES, random_images, random_targets
from lw_detr_family import QUERIES, WIDTH, detector, saved, theirs_of
from torch import nn

from detr.assembly import build_model, build_optimizer, check_model
from detr.config import build, check, compose, resolved
from detr.config.compose import groups
from detr.errors import UserError
from detr.models.backbones.dinov2 import DinoV2
from detr.models.backbones.plain_vit import PlainViT
from detr.models.box_coder import RelativeBoxCoder
from detr.models.grouped_two_stage import GroupedTwoStageQueries
from detr.models.groups import GroupMatching, HybridMatching
from detr.models.projector import C2fProjector
from detr.models.queries import Surroundings
from detr.models.structures import Features
from detr.structures import Classes, Normalizer
from detr.weights.checkpoint import load_weights
from detr.weights.layouts import lw_detr, rf_detr
from detr.weights.layouts.blocks import their_names
from detr.weights.layouts.lw_detr import their_groups

DETECTORS = [name for name in groups()["detector"] if name.startswith(("rf_detr_", "lw_detr_"))]

CASES = {
    "rf": ("rf", (1.0,), 24, [(96, 96)]),
    "rf_other_size": ("rf", (1.0,), 24, [(128, 128), (96, 128)]),
    "lw": ("lw", (1.0,), 24, [(128, 128), (64, 96)]),
    "lw_two_levels": ("lw", (2.0, 0.5), 24, [(64, 192), (64, 100)]),
    "lw_two_levels_of_wide": ("lw", (2.0, 0.5), 520, [(128, 128)]),
}


@pytest.mark.parametrize(
    ("case", "training"), [*((case, False) for case in CASES), ("rf", True), ("lw_two_levels", True)]
)
@torch.no_grad()
def test_the_same_numbers(case: str, training: bool) -> None:
    """Logits and boxes of the last layer and of the proposals; while training, of all groups."""
    family, scales, width, sizes = CASES[case]
    ours = detector(family, scales=scales, width=width)  # type: ignore[arg-type]
    layout = rf_detr if family == "rf" else lw_detr
    theirs = theirs_of(family, layout.config_of(ours))  # type: ignore[arg-type]
    load_weights(ours, layout.to_ours(saved(theirs)), "theirs")
    ours, theirs = ours.double().train(training), theirs.double().train(training)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images, padding = random_images(sizes)
    images = images.double()
    predictions = ours(images, padding)
    expected = theirs(pixel_values=ours.backbone.normalize(images, padding), pixel_mask=(~padding).long())
    groups = predictions.groups
    logits = [predictions.logits[-1], *([groups["one_to_many"].outputs.logits[-1]] if training else [])]
    boxes = [predictions.boxes[-1], *([groups["one_to_many"].outputs.boxes[-1]] if training else [])]
    proposals = [groups[name].outputs for name in ("encoder", *(["encoder_further"] if training else []))]
    found = {
        "logits": torch.cat(logits, 1),
        "pred_boxes": torch.cat(boxes, 1),
        "enc_outputs_class": torch.cat([each.logits[0] for each in proposals], 1),
        "enc_outputs_coord_logits": torch.cat([each.boxes[0] for each in proposals], 1),
    }
    for name, mine in found.items():
        assert mine.std(1).mean() > 1e-2, name  # queries differ: the comparison is not one of constants
        torch.testing.assert_close(mine, expected[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: name + text)


@torch.no_grad()
def test_the_same_masks() -> None:
    """Of RF-DETR-Seg; and its weights there and back."""
    ours = detector("rf", masks=True)
    theirs = theirs_of("rf", rf_detr.config_of(ours))
    written = saved(theirs)
    ours.load_state_dict(rf_detr.to_ours(written), strict=True)
    assert rf_detr.to_theirs(ours.state_dict()).keys() == written.keys()
    ours, theirs = ours.double().eval(), theirs.double().eval()
    images, padding = random_images([(96, 96), (96, 96)])
    images = images.double()
    predictions = ours(images, padding)
    expected = theirs(pixel_values=ours.backbone.normalize(images, padding))
    assert predictions.masks is not None
    image, query = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 5])
    masks = predictions.masks(image, query)
    assert masks.shape == (3, 24, 24)
    torch.testing.assert_close(masks, expected.pred_masks[image, query], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(predictions.boxes[-1], expected.pred_boxes, rtol=1e-6, atol=1e-6)


VITS = {
    "dino": functools.partial(DinoV2, width=24, depth=2, num_heads=2, levels=[2], patch_size=4, grid=4, weights=None),
    "dino_with_registers": functools.partial(
        DinoV2, width=24, depth=2, num_heads=2, levels=[2], patch_size=4, grid=4, weights=None, registers=3
    ),
    "plain": functools.partial(PlainViT, width=24, depth=2, num_heads=2, levels=[2], patch_size=4, grid=4),
}


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("size", [(32, 48), (64, 32)])
@torch.no_grad()
def test_windows_are_parts_of_the_image(name: str, size: tuple[int, int]) -> None:
    """Of whatever shape; what one sees reaches no other, but for blocks that see everything."""
    torch.manual_seed(0)
    for blocks, reached in (([], 1), ([0], 4)):
        model = VITS[name](windows=2, global_blocks=blocks).eval()
        image = torch.randn(1, 3, *size)
        changed = image.clone()
        changed[..., : size[0] // 2, size[1] // 2 :] += 1  # the upper right window
        (before,), (after,) = model(image), model(changed)
        assert before.shape == (1, 24, size[0] // 4, size[1] // 4)
        moved = (before - after).abs().amax(1)[0] > 1e-6
        parts = torch.stack([half for rows in moved.chunk(2, 0) for half in rows.chunk(2, 1)]).flatten(1)
        assert parts.any(1).sum() == reached
        assert parts[1].all()


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_one_window_is_no_window(name: str) -> None:
    torch.manual_seed(0)
    one, other = VITS[name](windows=1, global_blocks=[]).eval(), VITS[name](windows=1, global_blocks=[0, 1]).eval()
    other.load_state_dict(one.state_dict())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(image)[0], other(image)[0])


def test_images_that_windows_do_not_divide_are_told() -> None:
    with pytest.raises(UserError, match="their sides have to be multiples of 8") as error:
        VITS["dino"](windows=2, global_blocks=[])(torch.zeros(1, 3, 32, 36))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"levels": [3]}, "levels: expected ascending numbers from 1 to depth=2"),
        ({"levels": [2, 1]}, "levels: expected ascending"),
        ({"global_blocks": [2]}, "global_blocks: expected numbers from 0 to 1"),
        ({"windows": 0}, "windows: expected at least 1, got 0"),
        ({"drop_path": 1.0}, "drop_path: expected at least 0 and below 1"),
        ({"registers": -1}, "registers: expected at least 0"),
    ],
)
def test_senseless_backbones_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        VITS["dino"](**{"windows": 1, "global_blocks": [], **arguments})


def test_blocks_behind_the_last_level_do_not_learn() -> None:
    model = DinoV2(width=24, depth=3, num_heads=2, levels=[2], global_blocks=[], patch_size=4, grid=4, weights=None)
    model(torch.randn(1, 3, 16, 16))[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("blocks.2.")), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert model.stage_of() | {"blocks.2.norm1.weight": 3} == model.stage_of()


def test_patches_and_positions_are_brought_to_size() -> None:
    """Weights of 14-pixel patches and another table of positions: linear functions of an image stay what they are."""
    torch.manual_seed(0)
    small, large = (VITS["dino"](windows=1, global_blocks=[], patch_size=size) for size in (4, 8))
    large.load(dict(small.state_dict()), "somewhere")
    flat = torch.full((1, 3, 4, 4), 0.5)
    torch.testing.assert_close(
        large.patch_embed(torch.full((1, 3, 8, 8), 0.5)), small.patch_embed(flat), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(small.own_table(small.pos_embed), small.pos_embed)
    constant = torch.ones(1, 26, 24)
    torch.testing.assert_close(small.own_table(constant), torch.ones(1, 17, 24))


def test_the_projector_wants_one_stride() -> None:
    with pytest.raises(ValueError, match="levels of one stride, but those of the backbone have 8, 16"):
        C2fProjector(channels=[4, 4], strides=[8, 16], d_model=8, position_embedding=nn.Identity())
    with pytest.raises(ValueError, match="scales: expected num_levels=2"):
        C2fProjector(channels=[4], strides=[8], d_model=8, position_embedding=nn.Identity(), num_levels=2)
    with pytest.raises(ValueError, match="scales: expected 2, 1 or"):
        C2fProjector(channels=[4], strides=[8], d_model=8, position_embedding=nn.Identity(), scales=[3.0])


def test_boxes_relative_to_sides() -> None:
    coder = RelativeBoxCoder()
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.1]])
    assert torch.equal(coder.decode(coder.encode(boxes)), boxes)
    assert torch.equal(coder.correct(boxes, torch.zeros(1, 4)), boxes)
    moved = coder.correct(boxes, torch.tensor([[0.5, -1.0, 0.0, torch.tensor(2.0).log()]]))
    torch.testing.assert_close(moved, torch.tensor([[0.6, 0.3, 0.2, 0.2]]))
    assert 0 < coder.from_free(torch.tensor([-3.0])) < 1


def memory_of(side: int) -> Any:
    level = torch.randn(2, WIDTH, side, side)
    return Features([level], [torch.zeros(2, side, side, dtype=torch.bool)], [level], [16]).flatten()


@pytest.mark.parametrize("more", [None, GroupMatching(groups=3), HybridMatching(num_queries=11, copies=2)])
@pytest.mark.parametrize("side", [2, 8], ids=["few_tokens", "tokens"])
def test_each_group_chooses_for_itself(more: Any, side: int) -> None:
    torch.manual_seed(0)
    queries = GroupedTwoStageQueries(
        surroundings=Surroundings(CLASSES, sigmoid=True, one_to_many=more),
        box_coder=RelativeBoxCoder(),
        num_queries=QUERIES,
        d_model=WIDTH,
    )
    memory = memory_of(side)
    found, alone = queries.train()(memory), queries.eval()(memory)
    first, further = min(QUERIES, side * side), 0 if more is None else more.further(QUERIES)
    assert len(found) == first + further
    assert len(alone) == first
    assert torch.equal(found.content[:, :first], alone.content)
    assert torch.equal(found.reference[:, :first], alone.reference)
    assert alone.groups.keys() == {"encoder"}
    if more is None:
        return
    group = found.groups["encoder_further"]
    assert (group.parts, group.copies) == (more.parts, more.copies)
    assert group.outputs.logits.shape[2] == more.parts * min(further // more.parts, side * side)
    with torch.no_grad():
        queries.further_heads[0].class_head.weight.zero_()
    assert not torch.equal(found.reference[:, first:], queries.train()(memory).reference[:, first:])
    assert torch.equal(found.reference[:, :first], queries(memory).reference[:, :first])


REDUCED = [
    "~experiment",
    "backbone.width=24",
    "backbone.num_heads=2",
    "backbone.weights=null",
    "backbone.grid=5",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "transformer.decoder.cross_heads=8",
    "queries.num_queries=6",
    "one_to_many.groups=3",
]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_takes_a_step(name: str) -> None:
    """With objects and without any: whatever learns has a finite gradient."""
    config = compose([f"detector={name}", *REDUCED])
    check(config)
    plain = resolved(config)
    check_model(plain)
    torch.manual_seed(0)
    classes = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    model, criterion = build_model(plain, classes, pretrained=False).train(), build(plain["loss"], "loss")
    side = model.backbone.size_divisor * (1 if name == "rf_detr_base" else 2)
    images, padding = random_images([(side, side), (side, side // 2)])
    for counts in ([2, 1], [0, 0]):
        model.zero_grad()
        targets = random_targets(counts, masks=(side, side) if "_seg_" in name else None)
        losses = criterion(model(images, padding, targets), targets, Normalizer(max(1, sum(counts)), 2))
        losses.total.backward()
        assert losses.total.isfinite()
        for key, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, key
            assert parameter.grad is None or parameter.grad.isfinite().all(), key
    for term in ("class", *(("mask", "dice") if "_seg_" in name else ())):
        assert {f"encoder/{term}", f"encoder_further/{term}", f"one_to_many/{term}"} <= losses.terms.keys()


def their_rate(name: str, *, blocks: int, rate: float, decay: float, base: float) -> float:
    """The authors' learning rate of a parameter of theirs (get_dinov2_lr_decay_rate, get_vit_lr_decay_rate)."""
    if not name.startswith("backbone.0.encoder"):
        return base * (0.7 if name.startswith("transformer.decoder") else 1)
    layer = blocks + 1
    if "embed" in name or ".cls_token" in name:
        layer = 0
    elif ".layer." in name or ".blocks." in name:
        layer = int(name.split(".layer." if ".layer." in name else ".blocks.")[1].split(".")[0]) + 1
    return rate * decay ** (blocks + 1 - layer) * 0.7**2


@pytest.mark.parametrize(("experiment", "blocks"), [("rf_detr_small", 13), ("lw_detr_small", 10)])
def test_rates_are_the_authors(experiment: str, blocks: int) -> None:
    """Of every parameter, but for the norm behind the last block, which has the rate of one more block's step."""
    values = resolved(compose([f"experiment={experiment}", *REDUCED[1:]]))
    model = build_model(values, Classes.contiguous({0: "a"}), pretrained=False)
    optimizer = build_optimizer(values["optimizer"], model)
    layout = rf_detr if experiment.startswith("rf") else lw_detr
    groups_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        for theirs in their_names(their_groups({name: parameter.detach()}), layout.AUTHORS, experiment, "here"):
            rate = their_rate(theirs, blocks=blocks, rate=1.5e-4, decay=0.8, base=1e-4)
            if "backbone.norm" in name:
                rate *= 0.8
            group = groups_of[id(parameter)]
            assert group["lr"] == pytest.approx(rate), theirs
            exempt = ("gamma", "pos_embed", "bias", "norm", "embeddings")
            plain = theirs.startswith("backbone.0.encoder") and any(each in theirs for each in exempt)
            assert group["weight_decay"] == (0 if plain else 1e-4), theirs
