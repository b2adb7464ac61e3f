"""Seconds of the criterion with matching: ours against one that goes layer by layer and image by image, as the paper's.

python benchmarks/criterion.py                  # about a minute on two cores

100 queries, 6 layers, 91 classes; forward and backward. The peer is written after section 3.1 and appendix A.2 of the
paper: for each layer the costs of all queries with all objects of the batch, split by image, and the losses of the
layer. Losses and gradients are compared before the time is.
"""

from __future__ import annotations

from collections.abc import Iterator

import detr_r50
import torch
from alternating import alternate
from figure import Figure, main
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from detr.config import build
from detr.structures import Normalizer, Predictions, Targets

LAYERS, QUERIES = 6, 100
NO_OBJECT = 0.1
COSTS = CLASS, L1, GIOU = 1.0, 5.0, 2.0
CASES = [(32, 7), (8, 20), (8, 100)]  # images, objects of each
TARGET = 0.15


def corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


@torch.no_grad()
def matched(logits: Tensor, boxes: Tensor, labels: list[Tensor], wanted: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return queries and objects of each image, for one layer: logits [B, Q, K], boxes [B, Q, 4]."""
    probability, flat = logits.flatten(0, 1).softmax(-1), boxes.flatten(0, 1)
    all_labels, all_wanted = torch.cat(labels), torch.cat(wanted)
    cost = (
        L1 * torch.cdist(flat, all_wanted, p=1)
        - CLASS * probability[:, all_labels]
        - GIOU * generalized_box_iou(corners(flat), corners(all_wanted))
    ).view(*logits.shape[:2], -1)
    pairs = [linear_sum_assignment(part[i]) for i, part in enumerate(cost.split([len(each) for each in labels], -1))]
    return [(torch.as_tensor(queries), torch.as_tensor(objects)) for queries, objects in pairs]


def layer_loss(logits: Tensor, boxes: Tensor, labels: list[Tensor], wanted: list[Tensor], objects: float) -> Tensor:
    """Return the loss of one layer."""
    pairs = matched(logits, boxes, labels, wanted)
    image = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(pairs)])
    query = torch.cat([queries for queries, _ in pairs])
    chosen_labels = torch.cat([each[objects] for each, (_, objects) in zip(labels, pairs, strict=True)])
    chosen_boxes = torch.cat([each[objects] for each, (_, objects) in zip(wanted, pairs, strict=True)])
    classes = torch.full(logits.shape[:2], logits.shape[-1] - 1)
    classes[image, query] = chosen_labels
    weights = torch.ones(logits.shape[-1])
    weights[-1] = NO_OBJECT
    entropy = F.cross_entropy(logits.transpose(1, 2), classes, weights)
    predicted = boxes[image, query]
    distance = F.l1_loss(predicted, chosen_boxes, reduction="sum") / objects
    overlap = generalized_box_iou(corners(predicted), corners(chosen_boxes)).diag()
    return CLASS * entropy + L1 * distance + GIOU * (1 - overlap).sum() / objects


def figures(quick: bool = False, turns: int = 15) -> Iterator[Figure]:
    """Yield how long losses and gradients take, after comparing them."""
    criterion = build(detr_r50.values()["loss"])
    for images, count in CASES:
        torch.manual_seed(0)
        labels, wanted = detr_r50.objects(images, count)
        logits = torch.randn(LAYERS, images, QUERIES, detr_r50.CLASSES + 1, requires_grad=True)
        boxes = torch.stack([torch.stack(detr_r50.objects(images, QUERIES)[1]) for _ in range(LAYERS)])
        boxes.requires_grad_()

        def ours() -> tuple[Tensor, ...]:
            normalizer = Normalizer(objects=float(images * count), images=float(images))  # noqa: B023
            losses = criterion(Predictions(logits, boxes), Targets.of(labels, wanted), normalizer)  # noqa: B023
            return losses.total.detach(), *torch.autograd.grad(losses.total, (logits, boxes))  # noqa: B023

        def theirs() -> tuple[Tensor, ...]:
            number = float(images * count)  # noqa: B023
            layers = zip(logits, boxes, strict=True)  # noqa: B023
            total = torch.stack([layer_loss(*layer, labels, wanted, number) for layer in layers]).sum()  # noqa: B023
            return total.detach(), *torch.autograd.grad(total, (logits, boxes))  # noqa: B023

        for mine, other in zip(ours(), theirs(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        what = "losses, matching and gradients with those of a per-layer, per-image implementation after the paper"
        found = alternate(ours, theirs, turns=2 if quick else turns)
        yield Figure(f"criterion, {images} images with {count} objects", found, what, TARGET)


if __name__ == "__main__":
    main(__doc__, figures, turns=15)
