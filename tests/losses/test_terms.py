"""Each term against its formula, one query at a time."""

from __future__ import annotations

import math

import pytest
import torch
from builders import CLASSES, match, matched, random_predictions, random_targets
from torch import Tensor

from detr.losses.position_supervised import PositionSupervised
from detr.losses.terms import L1, CrossEntropy, Focal, GIoU, Term, Varifocal
from detr.structures import Matches, Normalizer, Predictions, Targets

COUNTS = [3, 0, 2]


def assigned(matches: Matches, targets: Targets, layer: int) -> dict[tuple[int, int], int]:
    """(image, query) → class of one layer."""
    rows = zip(*(each.tolist() for each in (matches.layer, matches.image, matches.query, matches.target)), strict=True)
    return {(image, query): int(targets.labels[target]) for own, image, query, target in rows if own == layer}


def cross_entropy_by_hand(logits: Tensor, labels: dict[tuple[int, int], int], no_object: float) -> tuple[float, float]:
    """Sum of weighted negative log-likelihoods, and of the weights."""
    total = weights = 0.0
    for image in range(logits.shape[0]):
        for query in range(logits.shape[1]):
            row = logits[image, query].tolist()
            label = labels.get((image, query), len(row) - 1)
            weight = no_object if label == len(row) - 1 else 1.0
            total += weight * (math.log(sum(map(math.exp, row))) - row[label])
            weights += weight
    return total, weights


def focal_by_hand(logits: Tensor, labels: dict[tuple[int, int], int], alpha: float, gamma: float) -> float:
    """Deformable DETR's sigmoid focal loss, summed."""
    total = 0.0
    for image in range(logits.shape[0]):
        for query in range(logits.shape[1]):
            for column, logit in enumerate(logits[image, query].tolist()):
                p = 1 / (1 + math.exp(-logit))
                if labels.get((image, query)) == column:
                    total -= alpha * (1 - p) ** gamma * math.log(p)
                else:
                    total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total


@pytest.mark.parametrize("no_object", [0.1, 0.7])
def test_cross_entropy(no_object: float) -> None:
    predictions, targets = random_predictions(3), random_targets(COUNTS)
    matches = match(predictions, targets)[""]
    normalizers = (
        Normalizer(objects=99, images=3),
        Normalizer(objects=99, images=6, micro_batches=2),
        Normalizer(objects=8, images=6, micro_batches=2, whole_step=True),
    )
    term = CrossEntropy(no_object_weight=no_object)
    losses, in_two, whole = (term(matched(predictions, targets, each, matches)) for each in normalizers)
    queries = predictions.logits.shape[2]
    for layer in range(2):
        total, weights = cross_entropy_by_hand(
            predictions.logits[layer].detach(), assigned(matches, targets, layer), no_object
        )
        assert losses[layer].item() == pytest.approx(total / weights, rel=1e-5)  # the boxes do not count
        assert in_two[layer].item() == pytest.approx(total / weights / 2, rel=1e-5)
        assert whole[layer].item() == pytest.approx(total / (8 + no_object * (6 * queries - 8)), rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal(alpha: float, gamma: float) -> None:
    predictions, targets = random_predictions(3, logits=CLASSES), random_targets(COUNTS)
    matches = match(predictions, targets, "sigmoid")[""]
    losses = Focal(alpha=alpha, gamma=gamma)(matched(predictions, targets, Normalizer(objects=5, images=3), matches))
    for layer in range(2):
        expected = focal_by_hand(predictions.logits[layer].detach(), assigned(matches, targets, layer), alpha, gamma)
        assert losses[layer].item() == pytest.approx(expected / 5, rel=1e-4)


def test_varifocal() -> None:
    """Against Hugging Face's loss of RT-DETR."""
    from transformers import RTDetrConfig
    from transformers.loss.loss_rt_detr import RTDetrLoss

    predictions, targets = random_predictions(3, logits=CLASSES), random_targets(COUNTS)
    matches = match(predictions, targets, "sigmoid")[""]
    losses = Varifocal()(matched(predictions, targets, Normalizer(objects=5, images=3), matches))
    theirs = RTDetrLoss(RTDetrConfig(num_labels=CLASSES))
    labels = [
        {"class_labels": label, "boxes": box}
        for label, box in zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True)
    ]
    starts = [0, 3, 3]
    for layer in range(2):
        indices = []
        for image, start in enumerate(starts):
            mine = (matches.layer == layer) & (matches.image == image)
            indices.append((matches.query[mine], matches.target[mine] - start))
        outputs = {"logits": predictions.logits[layer], "pred_boxes": predictions.boxes[layer]}
        expected = theirs.loss_labels_vfl(outputs, labels, indices, num_boxes=5)["loss_vfl"]
        assert losses[layer].item() == pytest.approx(expected.item(), rel=1e-5)
    losses.sum().backward()
    assert predictions.boxes.grad is None or predictions.boxes.grad.abs().max() == 0  # boxes are judged, not moved


def test_boxes() -> None:
    """Two matched pairs worked out by hand, in different layers."""
    boxes = torch.zeros(2, 1, 3, 4) + 0.5
    boxes[0, 0, 1] = torch.tensor([0.25, 0.25, 0.5, 0.5])  # the top left quarter
    boxes[1, 0, 2] = torch.tensor([0.75, 0.75, 0.5, 0.5])  # the bottom right quarter
    targets = Targets.of([torch.tensor([0])], [torch.tensor([[0.25, 0.25, 0.5, 0.5]])])
    matches = Matches(*torch.tensor([[0, 1], [0, 0], [1, 2], [0, 0]]), layers=2)
    predictions = Predictions(torch.zeros(2, 1, 3, 4), boxes)
    seen = matched(predictions, targets, Normalizer(objects=4, images=1), matches)
    assert L1()(seen).tolist() == pytest.approx([0, 1 / 4])
    # No overlap, union 1/2, hull 1: a GIoU of -1/2.
    assert GIoU()(seen).tolist() == pytest.approx([0, 1.5 / 4])


@pytest.mark.parametrize("term", [L1(), GIoU(), CrossEntropy(), Focal(), Varifocal(), PositionSupervised()])
def test_without_objects(term: Term) -> None:
    """Finite; the boxes' losses are zero, but part of the graph: DDP wants every parameter in every step."""
    logits = CLASSES if term.classification == "sigmoid" else CLASSES + 1
    predictions, targets = random_predictions(2, logits=logits), random_targets([0, 0])
    normalizer = Normalizer(objects=1, images=2)
    losses = term(matched(predictions, targets, normalizer, classification=term.classification or "softmax"))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert losses.shape == (2,)
    if term.classification is None:
        assert losses.tolist() == [0, 0]
        assert predictions.boxes.grad is not None
        assert predictions.boxes.grad.abs().max() == 0
    else:
        assert predictions.logits.grad is not None
        assert predictions.logits.grad.abs().sum() > 0


def test_gradient_reaches_matched_boxes_only() -> None:
    predictions, targets = random_predictions(3), random_targets(COUNTS)
    matches = match(predictions, targets)[""]
    seen = matched(predictions, targets, Normalizer(objects=5, images=3), matches)
    (L1()(seen) + GIoU()(seen))[0].backward()
    touched = predictions.boxes.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    expected = torch.zeros_like(touched)
    first = matches.layer == 0
    expected[0, matches.image[first], matches.query[first]] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("term", [L1, GIoU, CrossEntropy, Focal, Varifocal, PositionSupervised])
def test_negative_weights_are_refused(term: type[Term]) -> None:
    with pytest.raises(ValueError, match="weight"):
        term(weight=-1)


def test_no_object_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="no_object_weight"):
        CrossEntropy(no_object_weight=0)
