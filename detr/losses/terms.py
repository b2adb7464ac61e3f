"""Loss terms (DETR, section 3.1; facebookresearch/detr, models/detr.py). Each gives one value for every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from detr.boxes import cxcywh_to_xyxy, generalized_iou, iou
from detr.structures import Classification, Matches, Normalizer, Predictions, Targets


class Term(nn.Module):
    """One addend of the loss.

    Args:
        weight: what the criterion multiplies it with; at least 0.
    """

    classification: Classification | None = None  # which meaning of the logits it needs; None: any

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must be at least 0, not {weight}")
        self.weight = weight

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        """The unweighted loss of each layer, [L].

        Args:
            whole_step: True: the micro-batches of all processes count as one batch (`normalization=global`).
        """
        raise NotImplementedError


class CrossEntropy(Term):
    """Softmax cross-entropy over classes and no-object, as a mean weighted by class.

    The paper's code takes the mean over its own process's queries and does not divide by the number of boxes.
    Args:
        no_object_weight: weight of the no-object class, the last column (`eos_coef`).
    """

    classification = "softmax"

    def __init__(self, *, weight: float = 1.0, no_object_weight: float = 0.1) -> None:
        super().__init__(weight=weight)
        if no_object_weight <= 0:
            raise ValueError(f"no_object_weight must be above 0, not {no_object_weight}")
        self.no_object_weight = no_object_weight

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        logits = predictions.logits
        no_object = logits.shape[-1] - 1
        labels = _labels_of_queries(predictions, targets, matches, elsewhere=no_object)
        class_weights = logits.new_ones(no_object + 1)
        class_weights[no_object] = self.no_object_weight
        losses = F.cross_entropy(logits.movedim(-1, 1), labels, class_weights, reduction="none").sum((1, 2))
        if whole_step:
            queries = normalizer.images * logits.shape[2]
            return losses / (normalizer.objects + (queries - normalizer.objects) * self.no_object_weight)
        return losses / class_weights[labels].sum((1, 2)) / normalizer.micro_batches


class Focal(Term):
    """Sigmoid focal loss (Lin et al. 2017), summed over queries and classes, over the number of objects."""

    classification = "sigmoid"

    def __init__(self, *, weight: float = 2.0, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        logits = predictions.logits
        wanted = torch.zeros_like(logits)
        wanted[matches.layer, matches.image, matches.query, targets.labels[matches.target]] = 1
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma, reduction="none")
        return losses.sum((1, 2, 3)) / normalizer.objects


class Varifocal(Term):
    """Sigmoid classification whose target is the box's IoU with its object (Zhang et al. 2021, equation 2).

    RT-DETR (Zhao et al. 2024, section 4.3) trains queries and proposals with it, so that a score tells the quality of
    the box, too. Over the number of objects; no gradient goes through the IoU.
    Args:
        alpha, gamma: of the weight alpha · p^gamma of what is no object.
    """

    classification = "sigmoid"

    def __init__(self, *, weight: float = 1.0, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        logits = predictions.logits
        predicted, wanted = _matched_boxes(predictions, targets, matches)
        quality = iou(cxcywh_to_xyxy(predicted.detach()), cxcywh_to_xyxy(wanted))
        answers = (matches.layer, matches.image, matches.query, targets.labels[matches.target])
        scores = torch.zeros_like(logits).index_put(answers, quality)
        positive = torch.zeros_like(logits).index_put(answers, torch.ones_like(quality))
        weights = self.alpha * logits.detach().sigmoid() ** self.gamma * (1 - positive) + scores
        losses = F.binary_cross_entropy_with_logits(logits, scores, weight=weights, reduction="none")
        return losses.sum((1, 2, 3)) / normalizer.objects


class L1(Term):
    """Absolute difference of cxcywh boxes, summed over the four numbers, over the number of objects."""

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        predicted, wanted = _matched_boxes(predictions, targets, matches)
        return _sum_by_layer((predicted - wanted).abs().sum(-1), matches, predictions) / normalizer.objects


class GIoU(Term):
    """1 − generalised IoU, over the number of objects."""

    def forward(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer, whole_step: bool
    ) -> Tensor:
        predicted, wanted = _matched_boxes(predictions, targets, matches)
        losses = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return _sum_by_layer(losses, matches, predictions) / normalizer.objects


def _labels_of_queries(predictions: Predictions, targets: Targets, matches: Matches, elsewhere: int) -> Tensor:
    """Class index wanted of every query, [L, B, Q]."""
    labels = targets.labels.new_full(predictions.logits.shape[:-1], elsewhere)
    labels[matches.layer, matches.image, matches.query] = targets.labels[matches.target]
    return labels


def _matched_boxes(predictions: Predictions, targets: Targets, matches: Matches) -> tuple[Tensor, Tensor]:
    predicted = predictions.boxes[matches.layer, matches.image, matches.query]
    return predicted, targets.boxes[matches.target].to(predicted)


def _sum_by_layer(values: Tensor, matches: Matches, predictions: Predictions) -> Tensor:
    """Values [M] of matched pairs, summed to [L]."""
    return values.new_zeros(len(predictions.logits)).index_add(0, matches.layer, values)
