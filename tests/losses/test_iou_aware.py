"""IoU-aware binary cross-entropy against its formula, one number at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import CLASSES, match, matched, random_predictions, random_targets
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy, iou
from detr.losses.iou_aware import LEAST, IoUAwareBCE
from detr.losses.matcher import HungarianMatcher
from detr.structures import Group, Matches, Normalizer, Predictions, Targets

COUNTS = [3, 0, 2]


def by_hand(
    predictions: Predictions, targets: Targets, matches: Matches, layer: int, alpha: float, gamma: float
) -> Tensor:
    """Σ −t log p − (1 − t) log(1 − p) of answers, Σ −p^γ log(1 − p) of the rest; t is a number, p^γ is not."""
    quality = {}
    for index in range(len(matches)):
        if matches.layer[index] == layer:
            image, query, target = (int(each[index]) for each in (matches.image, matches.query, matches.target))
            box = predictions.boxes[layer, image, query].detach()
            quality[image, query, int(targets.labels[target])] = float(
                iou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(targets.boxes[target].to(box)))
            )
    total = predictions.logits.new_zeros(())
    for place in torch.cartesian_prod(*(torch.arange(side) for side in predictions.logits.shape[1:])).tolist():
        p = predictions.logits[layer][tuple(place)].sigmoid()
        if tuple(place) in quality:
            t = max(LEAST, float(p.detach()) ** alpha * quality[tuple(place)] ** (1 - alpha))
            total = total - t * p.log() - (1 - t) * (1 - p).log()
        else:
            total = total - p**gamma * (1 - p).log()
    return total


def in_double(predictions: Predictions) -> Predictions:
    return Predictions(*(each.detach().double().requires_grad_() for each in (predictions.logits, predictions.boxes)))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_values_and_gradients(alpha: float, gamma: float) -> None:
    predictions, targets = in_double(random_predictions(3, logits=CLASSES)), random_targets(COUNTS)
    matches = match(predictions, targets, "sigmoid")[""]
    losses = IoUAwareBCE(alpha=alpha, gamma=gamma)(
        matched(predictions, targets, Normalizer(objects=5, images=3), matches)
    )
    (gradient,) = torch.autograd.grad(losses.sum(), predictions.logits, retain_graph=True)
    expected = torch.stack([by_hand(predictions, targets, matches, layer, alpha, gamma) for layer in range(2)]) / 5
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), predictions.logits)[0])
    assert torch.autograd.grad(losses.sum(), predictions.boxes, allow_unused=True)[0] is None


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_what_is_sure_stays_finite(logit: float) -> None:
    """Where the logarithm of a probability is not: of 1 − sigmoid(200)."""
    predictions, targets = random_predictions(3, logits=CLASSES), random_targets(COUNTS)
    predictions = Predictions(torch.full_like(predictions.logits, logit).requires_grad_(), predictions.boxes)
    matches = match(random_predictions(3, logits=CLASSES), targets, "sigmoid")[""]
    losses = IoUAwareBCE()(matched(predictions, targets, Normalizer(objects=5, images=3), matches))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert predictions.logits.grad is not None
    assert predictions.logits.grad.isfinite().all()


def test_the_target_is_at_least_a_hundredth() -> None:
    """A box that misses its object, and a score of nothing: the answer goes on learning to say yes."""
    targets = Targets.of([torch.tensor([1])], [torch.tensor([[0.9, 0.9, 0.1, 0.1]])])
    logits = torch.full((1, 1, 1, CLASSES), -3.0).requires_grad_()
    predictions = Predictions(logits, torch.tensor([[[[0.1, 0.1, 0.1, 0.1]]]]))
    zero = torch.zeros(1, dtype=torch.long)
    loss = IoUAwareBCE()(
        matched(predictions, targets, Normalizer(objects=1, images=1), Matches(zero, zero, zero, zero, 1))
    )
    p = 1 / (1 + math.exp(3))
    others = -(CLASSES - 1) * p**2 * math.log(1 - p)
    assert loss.item() == pytest.approx(-LEAST * math.log(p) - (1 - LEAST) * math.log(1 - p) + others, rel=1e-5)


def test_without_objects() -> None:
    predictions, targets = random_predictions(2, logits=CLASSES), random_targets([0, 0])
    matches = match(predictions, targets, "sigmoid")[""]
    IoUAwareBCE()(matched(predictions, targets, Normalizer(objects=1, images=2), matches)).sum().backward()
    assert predictions.logits.grad is not None
    assert predictions.logits.grad.isfinite().all()
    assert predictions.logits.grad.abs().max() > 0


def test_the_better_of_several_answers_count_more() -> None:
    """With copies: by ranks that loops find; alone, or without tau, nothing changes."""
    predictions, targets = in_double(random_predictions(3, logits=CLASSES)), random_targets(COUNTS)
    group = Group(predictions=predictions, copies=2)
    matches = HungarianMatcher(classification="sigmoid")({"": group}, targets)[""]
    assert len(matches) == 2 * 2 * sum(COUNTS)
    seen = replace(matched(predictions, targets, Normalizer(objects=10, images=3), matches), copies=2)
    quality = torch.rand(len(matches), dtype=torch.float64)
    rows = list(zip(matches.layer.tolist(), matches.target.tolist(), quality.tolist(), strict=True))
    by_loops = [sum(own[:2] == other[:2] and other[2] > own[2] for other in rows) for own in rows]
    assert seen.ranks(quality).tolist() == by_loops
    assert set(by_loops) == {0, 1}
    plain, ranked = IoUAwareBCE()(seen), IoUAwareBCE(tau=1.5)(seen)
    assert not torch.allclose(plain, ranked)
    torch.testing.assert_close(plain, IoUAwareBCE(tau=1e9)(seen))
    torch.testing.assert_close(plain, IoUAwareBCE(tau=1.5)(replace(seen, copies=1)))
