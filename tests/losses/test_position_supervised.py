"""Stable-DINO's loss against its formula, one logit at a time, and its gradient by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from builders import CLASSES, match, matched, random_predictions, random_targets
from torchvision.ops import box_convert, box_iou

from detr.losses.position_supervised import PositionSupervised
from detr.structures import Normalizer, Predictions

COUNTS = [3, 0, 2]


@pytest.mark.parametrize(("alpha", "gamma", "power"), [(0.25, 2.0, 2.0), (0.6, 1.0, 0.5)])
def test_equals_its_formula(alpha: float, gamma: float, power: float) -> None:
    predictions, targets = random_predictions(3, logits=CLASSES), random_targets(COUNTS)
    matches = match(predictions, targets, "sigmoid")[""]
    term = PositionSupervised(alpha=alpha, gamma=gamma, power=power)
    losses = term(matched(predictions, targets, Normalizer(objects=5, images=3), matches))
    rows = zip(*(each.tolist() for each in (matches.layer, matches.image, matches.query, matches.target)), strict=True)
    overlap = {}  # (layer, image, query) → (class, IoU to that power)
    for layer, image, query, target in rows:
        boxes = predictions.boxes[layer, image, query], targets.boxes[target]
        corners = (box_convert(box.detach(), "cxcywh", "xyxy")[None] for box in boxes)
        overlap[layer, image, query] = int(targets.labels[target]), box_iou(*corners).item() ** power
    for layer in range(2):
        total = 0.0
        for image in range(3):
            best = max([t for (own, its, _), (_, t) in overlap.items() if (own, its) == (layer, image)], default=0.0)
            stretch = max(1.0, 1 / (best + 1e-8))
            for query, logits in enumerate(predictions.logits[layer, image].tolist()):
                label, t = overlap.get((layer, image, query), (None, 0.0))
                for column, logit in enumerate(logits):
                    p = 1 / (1 + math.exp(-logit))
                    if column == label:
                        wanted = t * stretch
                        entropy = -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
                        total += alpha * abs(wanted - p) ** gamma * entropy
                    else:
                        total -= (1 - alpha) * p**gamma * math.log(1 - p)
        assert losses[layer].item() == pytest.approx(total / 5, rel=1e-4)


@pytest.mark.parametrize("counts", [COUNTS, [0, 0, 0]])
def test_its_gradient_is_that_of_its_value(counts: list[int]) -> None:
    targets, drawn = random_targets(counts), random_predictions(3, logits=CLASSES)
    matches = match(drawn, targets, "sigmoid")[""]
    boxes = drawn.boxes.detach().double()

    def value(logits: torch.Tensor) -> torch.Tensor:
        normalizer = Normalizer(objects=5, images=3)
        return PositionSupervised()(matched(Predictions(logits, boxes), targets, normalizer, matches)).sum()

    logits = drawn.logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(value, (logits,))
