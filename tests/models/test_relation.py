"""Relation-DETR's bias against its formula, one pair of boxes at a time, and what it does in a decoder."""

from __future__ import annotations

import math

import pytest
import torch
from builders import CLASSES, random_images, random_targets

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.errors import UserError
from detr.models.relation import PositionRelation
from detr.structures import Classes

SMALL = (
    *("~experiment", "backbone=resnet18", "backbone.weights=null", "queries.num_queries=6"),
    *("transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=32"),
    *("transformer.encoder.num_layers=1", "transformer.decoder.num_layers=2"),
)


def test_equals_its_formula() -> None:
    torch.manual_seed(0)
    bias = PositionRelation(num_heads=2).double()
    before, after = (torch.rand(2, 3, 4, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
    found = bias(before, after, mask).unflatten(0, (2, 2))
    weight, constant = bias.projection.weight.tolist(), bias.projection.bias.tolist()
    for image in range(2):
        for i, (x, y, w, h) in enumerate(before[image].tolist()):
            for k, (u, v, a, b) in enumerate(after[image].tolist()):
                eps = 1e-5
                numbers = [
                    math.log(abs(x - u) / (w + eps) + 1),
                    math.log(abs(y - v) / (h + eps) + 1),
                    math.log((w + eps) / (a + eps)),
                    math.log((h + eps) / (b + eps)),
                ]
                embedded = [
                    function(100 * number / 10000 ** (2 * step / 16))
                    for number in numbers
                    for step in range(8)
                    for function in (math.sin, math.cos)
                ]
                for head in range(2):
                    value = sum(a * b for a, b in zip(weight[head], embedded, strict=True)) + constant[head]
                    wanted = -math.inf if mask[i, k] else max(0.0, value)
                    assert found[image, head, i, k].item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("transformer", ["dino", "top_down_anchor"])
def test_every_parameter_learns_beside_denoising_queries(transformer: str) -> None:
    """Queries of denoising stay unseen by the others."""
    words = [f"transformer={transformer}", "neck=multi_level", "backbone.levels=[-3,-2,-1]", "queries=two_stage"]
    words += ["loss=focal", "denoising=contrastive", "transformer.decoder.relation=true"]
    classes = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    torch.manual_seed(0)
    model = build_model(resolved(compose([*SMALL, *words])), classes, pretrained=False)
    images, padding = random_images([(96, 128), (64, 96)])
    said = model.train()(images, padding, random_targets([3, 1]))
    said.boxes.sum().backward()
    relation = {name: value.grad for name, value in model.named_parameters() if "relation" in name}
    assert len(relation) == 2
    assert all(grad is not None and grad.isfinite().all() for grad in relation.values())
    model.eval()
    with torch.no_grad():
        plain, again = (model(images, padding).boxes for _ in range(2))
        model.decoder.relation.projection.bias.fill_(50)  # the same for all pairs: no difference
        model.decoder.relation.projection.weight.zero_()
        assert torch.equal(plain, again)
        model.decoder.relation.projection.bias.zero_()
        without = model(images, padding).boxes
        model.decoder.relation.projection.bias.fill_(50)
        torch.testing.assert_close(model(images, padding).boxes, without)


def test_one_layer_is_refused() -> None:
    words = [
        "neck=multi_level",
        "backbone.levels=[-3,-2,-1]",
        "transformer=deformable",
        "queries=two_stage",
        "loss=focal",
    ]
    words += ["loss=focal", "transformer.decoder.num_layers=1", "transformer.decoder.relation=true"]
    config = resolved(compose([*SMALL, *words]))
    with pytest.raises((UserError, ValueError), match="num_layers has to be 2 or more"):
        build_model(config, Classes.contiguous({0: "x"}), pretrained=False)
