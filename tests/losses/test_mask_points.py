"""Losses and costs of masks at points, against their formulas, one point at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import match, matched, random_predictions, random_targets
from torch import Tensor

from detr.errors import UserError
from detr.losses.mask_costs import mask_costs
from detr.losses.mask_points import PointCrossEntropy, PointDice, Sampling, at_points, objects_at_points
from detr.losses.matcher import HungarianMatcher
from detr.structures import MASK_QUERIES, Normalizer, Predictions, Targets

COUNTS, SIZE, MAP, WIDTH = [2, 0, 1], (12, 20), (6, 10), 4
NORMALIZER = Normalizer(objects=5, images=3)


def scene(dtype: torch.dtype = torch.float32) -> tuple[Predictions, Targets]:
    """Two layers with pixels [3, 4, 6, 10] each."""
    draw = torch.Generator().manual_seed(7)
    predictions = random_predictions(3).map(lambda value: value.detach().to(dtype))
    layers, images, queries = predictions.boxes.shape[:3]
    asked = torch.randn(layers, images, queries, WIDTH + 1, generator=draw).to(dtype)
    pixels = [torch.randn(images, WIDTH, *MAP, generator=draw).to(dtype) for _ in range(layers)]
    return replace(predictions, extras={MASK_QUERIES: asked}, pixels=pixels), random_targets(COUNTS, masks=SIZE)


def logit_at(predictions: Predictions, layer: int, image: int, query: int, point: list[float]) -> float:
    """Of a mask at a point: bilinear between the middles of pixels, at the border that of the border."""
    assert predictions.pixels is not None
    pixels, asked = predictions.pixels[layer][image], predictions.extras[MASK_QUERIES][layer, image, query]
    mask = (pixels * asked[:-1, None, None]).sum(0) + asked[-1]
    height, width = mask.shape
    x = min(max(point[0] * width - 0.5, 0), width - 1)
    y = min(max(point[1] * height - 0.5, 0), height - 1)
    total = 0.0
    for row in {math.floor(y), math.ceil(y)}:
        for column in {math.floor(x), math.ceil(x)}:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * mask[row, column].item()
    return total


def object_at(targets: Targets, target: int, point: list[float]) -> float:
    assert targets.masks is not None
    height, width = targets.masks.shape[1:]
    row, column = min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)
    return float(targets.masks[target, row, column])


def by_hand(logits: list[float], wanted: list[float]) -> tuple[float, float]:
    """Cross-entropy and 1 − Dice."""
    sure = [1 / (1 + math.exp(-each)) for each in logits]
    entropy = -sum(w * math.log(p) + (1 - w) * math.log(1 - p) for p, w in zip(sure, wanted, strict=True))
    overlap = sum(p * w for p, w in zip(sure, wanted, strict=True))
    return entropy / len(logits), 1 - (2 * overlap + 1) / (sum(sure) + sum(wanted) + 1)


def test_terms_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both layers, at points in the middle and at the border; both terms are of the same points."""
    predictions, targets = scene()
    points = torch.tensor([[0.03, 0.02], [0.41, 0.52], [0.999, 0.3], [0.72, 0.98], [0.57, 0.61]])
    calls: list[Tensor] = []

    def fixed(self: Sampling, logits: Tensor) -> Tensor:
        calls.append(logits)
        return points.expand(len(logits), -1, -1)

    monkeypatch.setattr(Sampling, "points", fixed)
    matches = match(predictions, targets)[""]
    expected = torch.zeros(2, 2)
    for layer, image, query, target in torch.stack(
        [matches.layer, matches.image, matches.query, matches.target], 1
    ).tolist():
        logits = [logit_at(predictions, layer, image, query, each) for each in points.tolist()]
        wanted = [object_at(targets, target, each) for each in points.tolist()]
        expected[:, layer] += torch.tensor(by_hand(logits, wanted)) / 5
    seen = matched(predictions, targets, NORMALIZER, matches)
    torch.testing.assert_close(PointCrossEntropy()(seen), expected[0])
    torch.testing.assert_close(PointDice()(seen), expected[1])
    assert [len(each) for each in calls] == [3, 3]  # once a layer


def test_costs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every query with every object of its image."""
    predictions, targets = scene()
    points = torch.tensor([[0.12, 0.2], [0.47, 0.85], [0.77, 0.05]])
    monkeypatch.setattr("detr.losses.mask_costs.draw", lambda shape, like: points[None])
    entropy, dice = mask_costs(predictions, targets)
    assert entropy.shape == dice.shape == (2, 3, 9, 2)
    starts = [0, 2, 2]
    for layer, image, query in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(9)).tolist():
        for column in range(COUNTS[image]):
            logits = [logit_at(predictions, layer, image, query, each) for each in points.tolist()]
            wanted = [object_at(targets, starts[image] + column, each) for each in points.tolist()]
            found = entropy[layer, image, query, column].item(), dice[layer, image, query, column].item()
            assert found == pytest.approx(by_hand(logits, wanted), rel=1e-4)
    plain, weighted = HungarianMatcher(), HungarianMatcher(cost_mask_ce=2, cost_mask_dice=3)
    costs = weighted.costs(predictions, targets) - plain.costs(predictions, targets)
    torch.testing.assert_close(costs, 2 * entropy + 3 * dice, rtol=1e-4, atol=1e-4)
    boxes_only = replace(predictions, pixels=None, extras={})
    assert torch.equal(weighted.costs(boxes_only, targets), plain.costs(boxes_only, targets))


def test_the_least_sure_points_are_kept() -> None:
    logits = torch.randn(5, 8, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    points = Sampling(pixels_per_point=4, oversample=3, uncertain=0.75).points(logits)
    torch.manual_seed(3)
    drawn = torch.rand(5, 96, 2)
    assert points.shape == (5, 32, 2)
    kept = at_points(logits, points[:, :24]).abs()
    torch.testing.assert_close(kept, at_points(logits, drawn).abs().sort(dim=1).values[:, :24])
    assert torch.equal(points[:, 24:], torch.rand(5, 8, 2))  # others lie anywhere
    assert Sampling().points(logits).shape == (5, 8, 2)  # at least as many as rows
    assert Sampling(uncertain=0).points(logits).shape == (5, 8, 2)


def test_the_nearest_pixel_of_an_object() -> None:
    masks = torch.zeros(1, 2, 4, dtype=torch.bool)
    masks[0, 1, 3] = True
    targets = replace(random_targets([1]), masks=masks)
    points = torch.tensor([[[1.0, 1.0], [0.76, 0.51], [0.74, 0.51], [0.76, 0.49], [0.0, 0.0]]])
    assert objects_at_points(targets, torch.tensor([0]), points).tolist() == [[1, 1, 0, 0, 0]]


def test_gradients_in_double_precision() -> None:
    predictions, targets = scene(torch.float64)
    matches = match(predictions, targets)[""]
    assert predictions.pixels is not None

    def losses(asked: Tensor, first: Tensor, second: Tensor) -> Tensor:
        torch.manual_seed(0)
        said = replace(predictions, extras={MASK_QUERIES: asked}, pixels=[first, second])
        seen = matched(said, targets, NORMALIZER, matches)
        return PointCrossEntropy(uncertain=0)(seen) + PointDice(uncertain=0)(seen)

    given = [predictions.extras[MASK_QUERIES], *predictions.pixels]
    assert torch.autograd.gradcheck(losses, [each.requires_grad_() for each in given], fast_mode=True)


def test_no_objects() -> None:
    """Losses are 0, and every pixel and query has a gradient, which is 0."""
    predictions, _ = scene()
    targets = random_targets([0, 0, 0], masks=SIZE)
    assert predictions.pixels is not None
    given = [predictions.extras[MASK_QUERIES].requires_grad_(), *(each.requires_grad_() for each in predictions.pixels)]
    matches = HungarianMatcher(cost_mask_ce=5, cost_mask_dice=5)(predictions.supervised(), targets)[""]
    seen = matched(predictions, targets, Normalizer(objects=1, images=3), matches)
    total = PointCrossEntropy()(seen) + PointDice()(seen)
    assert total.tolist() == [0, 0]
    total.sum().backward()
    assert all(each.grad is not None and not each.grad.any() for each in given)


def test_evaluations_draw_the_same_points_and_nothing_from_elsewhere() -> None:
    predictions, targets = scene()
    matches = match(predictions, targets)[""]
    before = torch.get_rng_state()
    with torch.inference_mode():
        first, second = (PointDice()(matched(predictions, targets, NORMALIZER, matches)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_refusals() -> None:
    predictions, targets = scene()
    matches = match(predictions, targets)[""]
    with pytest.raises(UserError, match="need masks in the targets"):
        PointDice()(matched(predictions, replace(targets, masks=None), NORMALIZER, matches))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"pixels_per_point": 0}, "pixels_per_point: expected at least 1, got 0"),
        ({"oversample": 0.5}, "oversample: expected at least 1, got 0.5"),
        ({"uncertain": 1.5}, "uncertain: expected a number from 0 to 1, got 1.5"),
    ]
    for arguments, complaint in wrong:
        with pytest.raises(ValueError, match=complaint):
            PointCrossEntropy(**arguments)
    with pytest.raises(ValueError, match="cost_mask_ce: expected at least 0, got -1"):
        HungarianMatcher(cost_mask_ce=-1)
