"""Bipartite matching of predictions and objects (DETR, section 3.1; facebookresearch/detr, models/matcher.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.losses.mask_costs import mask_costs
from detr.structures import Classification, Group, Matches, Predictions, Targets, at_least_fp32

EPSILON = 1e-8  # beside a probability whose logarithm is taken


class NonFiniteError(ArithmeticError):
    """Reports a NaN or infinite cost or loss. `images`: indices into the batch, or None when it cannot be told."""

    def __init__(self, what: str, images: list[int] | None = None) -> None:
        super().__init__(what)
        self.images = images


def softmax_class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Return minus the probability of the object's class.

    Args:
        logits: [L, B, Q, K].
        labels: [B, n].

    Returns:
        [L, B, Q, n]. The paper's choice in place of the log-likelihood: it is commensurable with the box costs.
    """
    return -_columns(logits.softmax(-1), labels)


def focal_class_cost(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of answering yes minus that of no for the object's class (Deformable DETR's matcher).

    Shapes as in `softmax_class_cost`.
    """
    chosen = _columns(logits, labels)
    probability = chosen.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -nn.functional.logsigmoid(chosen)
    negative = (1 - alpha) * probability**gamma * -nn.functional.logsigmoid(-chosen)
    return positive - negative


def probability_cost(probability: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return `focal_class_cost` of probabilities of the object's class instead of logits; shapes stay."""
    positive = alpha * (1 - probability) ** gamma * -(probability + EPSILON).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + EPSILON).log()
    return positive - negative


def _columns(scores: Tensor, labels: Tensor) -> Tensor:
    """scores [L, B, Q, K] at classes [B, n] → [L, B, Q, n]."""
    layers, _, queries, _ = scores.shape
    return scores.gather(-1, labels[None, :, None, :].expand(layers, -1, queries, -1))


CLASS_COSTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax": softmax_class_cost,
    "sigmoid": focal_class_cost,
}


class Matcher(nn.Module):
    """Offers what every matcher does: it says which queries answer for which objects.

    Attributes:
        classification: what the class logits mean.
    """

    classification: Classification

    def forward(self, groups: Mapping[str, Group], targets: Targets) -> dict[str, Matches]:
        """Return the pairs of every group by its name; those of a group that has `matches` are these."""
        raise NotImplementedError


class HungarianMatcher(Matcher):
    """Finds the assignment of least total cost between queries and objects, for every layer and image.

    Args:
        classification: what the class logits mean; decides the class cost.
        cost_class: weight of the class cost.
        cost_bbox: weight of the L1 distance between cxcywh boxes.
        cost_giou: weight of minus the generalised IoU.
        position_power: exponent of the overlap that a class's probability is multiplied with before its cost is taken,
            (GIoU + 1) / 2, stretched until the best of each image is 1 (Stable-DINO, Liu et al. 2023, equation 7: 0.5).
            Otherwise than there, where objects of a class all get the overlap with the last of them, each has its own.
            0: none.
        cost_mask_ce, cost_mask_dice: weights of binary cross-entropy and of 1 − Dice at points of masks, where masks
            are products.

    Raises:
        ValueError: a negative weight or power, all weights zero, or a power where the logits are softmax's.
    """

    def __init__(
        self,
        *,
        classification: Classification = "softmax",
        cost_class: float = 1.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        position_power: float = 0.0,
        cost_mask_ce: float = 0.0,
        cost_mask_dice: float = 0.0,
    ) -> None:
        super().__init__()
        weights = {"cost_class": cost_class, "cost_bbox": cost_bbox, "cost_giou": cost_giou}
        weights |= {"cost_mask_ce": cost_mask_ce, "cost_mask_dice": cost_mask_dice}
        for name, weight in (weights | {"position_power": position_power}).items():
            if weight < 0:
                raise ValueError(f"{name}: expected at least 0, got {weight}")
        if not any(weights.values()):
            raise ValueError("all matching costs are 0; give at least one of " + ", ".join(weights))
        if position_power and classification == "softmax":
            raise ValueError("position_power is for independent sigmoids: use loss=focal or another of them")
        self.classification, self.position_power = classification, position_power
        self.class_cost = CLASS_COSTS[classification]
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.cost_mask_ce, self.cost_mask_dice = cost_mask_ce, cost_mask_dice

    @torch.no_grad()
    def forward(self, groups: Mapping[str, Group], targets: Targets) -> dict[str, Matches]:
        """Match what each group says to the objects.

        Args:
            groups: by name, as `Predictions.supervised` gives them.

        Returns:
            Pairs of each group, known ones as they are. In an image with more objects than queries the cheapest are
            matched.

        Raises:
            NonFiniteError: a class logit or a cost is NaN or infinite.
        """
        asked = {name: group for name, group in groups.items() if group.matches is None}
        costs = [self.costs(each.outputs, targets, class_agnostic=each.class_agnostic) for each in asked.values()]
        # One copy to the host: what scipy needs, and whether logits are finite where there are no costs to tell.
        finite = _finite_images([group.outputs for group in groups.values()])
        host = torch.cat([*(cost.flatten() for cost in costs), finite.to(costs[0])]).cpu().numpy()
        *blocks, finite_images = np.split(host, np.cumsum([cost.numel() for cost in costs]))
        found = {
            name: _assign(block.reshape(cost.shape), targets.counts, group).to(cost.device, non_blocking=True)
            for (name, group), block, cost in zip(asked.items(), blocks, costs, strict=True)
        }
        if not finite_images.all():
            raise NonFiniteError("a class logit is not finite", np.flatnonzero(finite_images == 0).tolist())
        return {name: found[name] if group.matches is None else group.matches for name, group in groups.items()}

    def costs(self, predictions: Predictions, targets: Targets, *, class_agnostic: bool = False) -> Tensor:
        """Return costs [L, B, Q, n] of every query against its image's objects, in fp32; n is the largest count.

        Columns beyond an image's count are padding.
        """
        labels = pad_sequence(targets.labels.split(targets.counts), batch_first=True)
        if class_agnostic:
            labels = torch.zeros_like(labels)
        # Any box with an area will do as padding.
        boxes = pad_sequence(targets.boxes.split(targets.counts), batch_first=True, padding_value=0.5)
        with torch.autocast(predictions.logits.device.type, enabled=False):
            predictions = predictions.map(at_least_fp32)
            boxes = boxes.to(predictions.boxes)
            distances = torch.cdist(predictions.boxes, boxes.expand(len(predictions.boxes), -1, -1, -1), p=1)
            overlaps = generalized_iou(
                cxcywh_to_xyxy(predictions.boxes)[..., :, None, :], cxcywh_to_xyxy(boxes)[:, None, :, :]
            )
            if self.position_power:
                closeness = self._closeness(overlaps, targets.counts)
                class_cost = probability_cost(_columns(predictions.logits.sigmoid(), labels) * closeness)
            else:
                class_cost = self.class_cost(predictions.logits, labels)
            costs = self.cost_class * class_cost + self.cost_bbox * distances - self.cost_giou * overlaps
            if predictions.pixels is not None and (self.cost_mask_ce or self.cost_mask_dice):
                entropy, dice = mask_costs(predictions, targets)
                costs = costs + self.cost_mask_ce * entropy + self.cost_mask_dice * dice
            return costs

    def _closeness(self, overlaps: Tensor, counts: list[int]) -> Tensor:
        """What probabilities are multiplied with, by GIoU [L, B, Q, n] with the objects, so many in each image."""
        closeness = (overlaps + 1) / 2
        if not closeness.numel():
            return closeness
        there = torch.arange(overlaps.shape[-1]) < torch.tensor(counts)[:, None]
        best = (closeness * there[:, None].to(closeness)).amax((-2, -1), keepdim=True)
        return (closeness / (best + EPSILON).clamp(max=1)) ** self.position_power


def _finite_images(outputs: list[Predictions]) -> Tensor:
    """[B] whether every class logit of an image is finite: 0 times what is not is NaN, and so is a sum with it."""
    return torch.stack([(each.logits * 0).sum((0, 2, 3)) == 0 for each in outputs]).all(0)


def _assign(costs: np.ndarray, counts: list[int], group: Group) -> Matches:
    """The Hungarian algorithm on each layer, part of the queries and image of costs [L, B, Q, n]."""
    layers, images, queries, _ = costs.shape
    if not np.isfinite(costs).all():
        _check_finite(costs, counts)
    size = queries // group.parts
    pairs = []
    for at, part, (place, count) in product(range(layers), range(group.parts), enumerate(counts)):
        cost = costs[at, place, part * size : (part + 1) * size, :count]
        pairs.append(linear_sum_assignment(cost if group.copies == 1 else np.tile(cost, group.copies)))
    rows, columns = (np.concatenate(each) for each in zip(*pairs, strict=True))
    of_pairs = np.indices((layers, group.parts, images)).reshape(3, -1)
    layer_, part_, image_ = of_pairs.repeat([len(each) for each, _ in pairs], axis=1)
    starts = np.cumsum([0, *counts])
    target = starts[image_] + columns % np.maximum(counts, 1)[image_]
    layer, image, query, target = torch.from_numpy(np.stack([layer_, image_, rows + part_ * size, target])).unbind()
    return Matches(layer, image, query, target, layers)


def _check_finite(costs: np.ndarray, counts: list[int]) -> None:
    """Raises NonFiniteError unless the costs [L, B, Q, n] of the objects there are finite."""
    images = [image for image, count in enumerate(counts) if not np.isfinite(costs[:, image, :, :count]).all()]
    if images:
        raise NonFiniteError("a matching cost is not finite", images)
