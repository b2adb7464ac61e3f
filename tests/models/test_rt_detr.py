"""RT-DETR and RT-DETRv2 against transformers with the same weights; ResNet-D; what the authors do with references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import random_targets
from hugging_face_family import give_values_that_matter
from torch import Tensor, nn

from detr.assembly import build_model, build_optimizer
from detr.boxes import cxcywh_to_xyxy, iou
from detr.config import build, compose, resolved
from detr.models.backbones.resnet_d import AUTHORS, ResNetD, timm_names
from detr.models.box_coder import LogitBoxCoder
from detr.models.deformable import DeformableDecoder
from detr.models.denoising import ContrastiveDenoising
from detr.models.detr import DETR
from detr.models.heads import BoxHead
from detr.models.layers import LayerConfig
from detr.models.queries import Surroundings
from detr.models.structures import Memory, QuerySet
from detr.models.two_stage import TwoStageQueries
from detr.structures import Classes, Normalizer, Targets
from detr.weights.layouts import rt_detr
from detr.weights.renaming import Renaming

CLASSES = Classes.contiguous({index: str(index) for index in range(3)})
TINY = (
    *("queries.num_queries=20", "transformer.decoder.num_layers=2", "transformer.d_model=32"),
    *("transformer.num_heads=4", "transformer.dim_feedforward=48"),
)
SIZES = ("r18", "r34", "r50", "r101")


def detector(name: str, *overrides: str) -> DETR:
    torch.manual_seed(0)
    words = ["~experiment", f"detector={name}", "backbone.weights=null", *overrides]
    return build_model(resolved(compose(words)), CLASSES, pretrained=False)


@torch.no_grad()
def their_model(ours: DETR, kind: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForObjectDetection

    config = {name: value for name, value in rt_detr.config_of(ours).items() if name != "model_type"}
    given = AutoConfig.for_model(kind, num_labels=CLASSES.num_classes, **config)
    theirs = AutoModelForObjectDetection.from_config(given)
    give_values_that_matter(ours)
    for module in ours.backbone.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 1.5)
            module.weight.fill_(0.5)  # so that no block's output explodes
    state = rt_detr.to_theirs(ours.state_dict())
    in_memory = {"out_proj": "o_proj", ".fc": ".mlp.fc", "encoder.encoder.": "encoder.aifi."}
    for there, here in in_memory.items():
        state = {name.replace(there, here): value for name, value in state.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert unexpected == []
    tied = ("class_embed", "bbox_embed")  # to those of the decoder, in version 2
    assert [name for name in missing if not name.endswith("n_points_scale") and not name.startswith(tied)] == []
    return theirs.double().eval()


def check_alike(ours: DETR, kind: str, sizes: list[tuple[int, int]]) -> None:
    """In double precision, but for the sines of positions. Last layer, and what proposes."""
    theirs, ours = their_model(ours, kind), ours.double().eval()
    for height, width in sizes:
        images = torch.rand(2, 3, height, width, dtype=torch.double)
        with torch.no_grad():
            found = ours(images, torch.zeros(2, height, width, dtype=torch.bool))
            expected = theirs(pixel_values=images)
            inside = theirs.model(pixel_values=images)
        proposed = found.groups["encoder"].outputs
        pairs = (
            (found.logits[-1], expected.logits),
            (found.boxes[-1], expected.pred_boxes),
            (proposed.logits[-1], inside.enc_topk_logits),
            (proposed.boxes[-1], inside.enc_topk_bboxes),
        )
        for mine, their in pairs:
            assert their.std(1).mean() > 1e-2  # queries differ
            torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("rt_detr", ["transformer.encoder.layer.d_model=48"]),  # the encoder is wider, as that of R101
        ("rt_detr_v2", []),
        ("rt_detr_v2", ["transformer.decoder.discrete=true"]),
    ],
    ids=["rt_detr", "rt_detr_v2", "discrete"],
)
def test_the_answers_are_theirs(kind: str, changes: list[str]) -> None:
    check_alike(detector(f"{kind}_r18", *TINY, *changes), kind, [(96, 96), (64, 160)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"rt_detr_{size}" for size in SIZES), "rt_detr_v2_r18", "rt_detr_v2_r50"])
def test_the_answers_are_theirs_at_full_size(name: str) -> None:
    check_alike(detector(name), name.rpartition("_")[0], [(256, 256), (192, 320)])


def test_a_step_without_objects() -> None:
    """Everything that learns gets a finite gradient."""
    model = detector("rt_detr_v2_r18", *TINY, "denoising.num_queries=4").train()
    criterion = build(resolved(compose(["detector=rt_detr_v2_r18", "~experiment"]))["loss"])
    targets = random_targets([0, 0])
    predictions = model(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool), targets)
    assert {"encoder", "denoising"} == predictions.groups.keys()
    criterion(predictions, targets, Normalizer(objects=1, images=2)).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_content_passes_no_gradient_on() -> None:
    """With `detach` the encoder learns of what queries say from their attention alone."""
    reached = {}
    for detach in (True, False):
        queries = TwoStageQueries(
            surroundings=Surroundings(3, True), box_coder=LogitBoxCoder(), num_queries=4, d_model=16, detach=detach
        )
        tokens = torch.randn(1, 12, 16, requires_grad=True)
        memory = Memory(tokens, tokens.detach(), torch.zeros(1, 12, dtype=torch.bool), [(3, 4)], [8])
        content = queries(memory).content
        reached[detach] = content.requires_grad
    assert reached == {True: False, False: True}


def test_learned_content_starts_small() -> None:
    """As Xavier has it for a matrix of queries and width: a variance of 2 / (Q + D)."""
    queries = TwoStageQueries(
        surroundings=Surroundings(3, True), box_coder=LogitBoxCoder(), num_queries=900, d_model=256, content="learned"
    )
    assert queries.content is not None
    assert queries.content.weight.std().item() == pytest.approx((2 / 1156) ** 0.5, rel=0.02)


@torch.no_grad()
def test_positions_are_made_in_the_padded_image() -> None:
    """Of the second image the right half is padding: its boxes lie, and are, half as far and half as wide."""
    padding = torch.zeros(2, 2, 4, dtype=torch.bool)
    padding[1, :, 2:] = True
    memory = Memory(torch.randn(2, 8, 16), torch.randn(2, 8, 16), padding.flatten(1), [(2, 4)], [8])
    seen: dict[bool, Tensor] = {}
    for padded in (True, False):
        torch.manual_seed(0)
        decoder = DeformableDecoder(
            layer=LayerConfig(d_model=16, num_heads=2, dim_feedforward=16),
            box_coder=LogitBoxCoder(),
            num_layers=1,
            num_levels=1,
            place_in_padded=padded,
        )
        boxes: list[Tensor] = []
        queries = QuerySet(torch.randn(2, 3, 16), torch.randn(2, 3, 4), embed=lambda b, to=boxes: to.append(b) or 0)  # type: ignore[misc]
        decoder(queries, memory, BoxHead(d_model=16, corrects=True))
        (seen[padded],) = boxes
    ratios = torch.tensor([[1.0, 1, 1, 1], [0.5, 1, 0.5, 1]])[:, None]
    torch.testing.assert_close(seen[True], seen[False] * ratios)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_references_are_kept_inside_in_each_layer(eps: float) -> None:
    """As the authors write it out: from boxes to logits and back before each correction."""
    references = torch.tensor([-20.0, -5, 0, 9, 20], dtype=torch.double).repeat(4, 1).T
    corrections = torch.randn_like(references)
    boxes = references.sigmoid()
    expected = torch.log(boxes.clamp(min=eps) / (1 - boxes).clamp(min=eps)) + corrections
    coder = LogitBoxCoder(eps=eps, in_each_layer=True)
    torch.testing.assert_close(coder.correct(references, corrections), expected)
    torch.testing.assert_close(LogitBoxCoder(eps=eps).correct(references, corrections), references + corrections)
    with pytest.raises(ValueError, match=r"eps: expected a number between 0 and 0\.5, got 0\.5"):
        LogitBoxCoder(eps=0.5)


def test_negatives_may_be_slivers() -> None:
    """Whose corners pass each other: without area, as in the authors' code; sorted they may be the object again."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).expand(4000, -1)
    targets = Targets.of([torch.zeros(4000, dtype=torch.long)], [boxes])
    found = {}
    for slivers in (True, False):
        torch.manual_seed(0)
        noise = ContrastiveDenoising(
            num_classes=3, d_model=16, box_coder=LogitBoxCoder(), num_queries=1, slivers=slivers
        )
        noised = noise.noised(targets)
        found[slivers] = noised.boxes[0, noised.size // 2 :]
    crossed = (found[True][:, 2:] == 0).any(-1)
    assert 0.4 < crossed.float().mean() < 0.48  # 1 − (3/4)² = 7/16
    torch.testing.assert_close(found[True][~crossed], found[False][~crossed])
    overlaps = {key: iou(cxcywh_to_xyxy(each), cxcywh_to_xyxy(boxes)) for key, each in found.items()}
    assert overlaps[True].max() < 0.3
    assert 0.05 < (overlaps[False] > 0.3).float().mean() < 0.09


def test_what_of_a_resnet_d_learns() -> None:
    small, large = (ResNetD(name=name, weights=None) for name in ("resnet18", "resnet50"))
    assert all(parameter.requires_grad for parameter in small.parameters())
    frozen = {name.split(".")[1] for name, parameter in large.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1"}
    assert (small.channels, small.strides) == ([128, 256, 512], [8, 16, 32])
    assert torch.equal(large.normalize(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8), torch.zeros(1, 2, 2).bool()),
                       torch.full((1, 3, 2, 2), 0.2))  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_of_the_authors_backbone(name: str) -> None:
    """Every weight has one, as it stands in their files; what they have beside it is left out."""
    network = ResNetD(name=name, weights=None, frozen_norm=False).body.state_dict()
    renaming = Renaming(AUTHORS)
    theirs: dict[str, Any] = {str(renaming.theirs(key)): value for key, value in network.items()}
    assert len(theirs) == len(network)
    assert {"conv1.conv1_3.norm.running_var", "res_layers.0.blocks.0.short.conv.weight"} <= theirs.keys()
    assert {"res_layers.3.blocks.1.branch2b.conv.weight", "res_layers.1.blocks.0.short.conv.norm.bias"} <= theirs.keys()
    found = timm_names({**theirs, "fc.weight": torch.zeros(1)})
    assert found.keys() == network.keys()
    assert all(torch.equal(found[key], network[key]) for key in network)


def test_norms_and_biases_have_no_weight_decay() -> None:
    """In RT-DETR's recipe, but in the backbone."""
    model = detector("rt_detr_r18", *TINY)
    optimizer = build_optimizer(resolved(compose(["experiment=rt_detr_r50"]))["optimizer"], model)
    decayed = {id(each) for group in optimizer.param_groups if group["weight_decay"] > 0 for each in group["params"]}
    for part, module in model.named_children():
        for name, inner in module.named_modules():
            for key, parameter in inner.named_parameters(recurse=False):
                norm = isinstance(inner, nn.BatchNorm2d | nn.LayerNorm) and name != "token_head.1"  # as in their code
                free = part != "backbone" and (norm or "bias" in key)
                assert (id(parameter) not in decayed) == free, f"{part}.{name}.{key}"
