"""Loss terms (DETR, section 3.1; facebookresearch/detr, models/detr.py). Each gives one value for every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from detr.boxes import cxcywh_to_xyxy, generalized_iou, iou
from detr.losses.matched import Matched
from detr.structures import Classification


class Term(nn.Module):
    """Computes one addend of the loss.

    Args:
        weight: what the criterion multiplies it with; at least 0.

    Attributes:
        classification: the meaning of class logits that it needs; None: any.
        of_groups: whether groups beside the queries that count have this loss, too.
        last_layer_only: whether it returns [1], of the last layer, instead of [L].
        extras: what it reads of `Predictions.extras`; groups without it do not have this loss.
        localizes: whether it is about boxes: with `unite_matches` it sees the union of all layers' matches.
    """

    classification: Classification | None = None
    of_groups = True
    last_layer_only = False
    extras: tuple[str, ...] = ()
    localizes = False

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.weight = weight

    def forward(self, matched: Matched) -> Tensor:
        """Return the unweighted loss of each layer, [L]."""
        raise NotImplementedError


def check_focus(alpha: float, gamma: float) -> None:
    """Raise ValueError unless these are a weight and an exponent of a focal loss."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number from 0 to 1, got {alpha}")
    if gamma < 0:
        raise ValueError(f"gamma: expected at least 0, got {gamma}")


class CrossEntropy(Term):
    """Computes softmax cross-entropy over classes and no-object, as a mean weighted by class.

    The paper's code takes the mean over its own process's queries and does not divide by the number of boxes.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        no_object_weight: weight of the no-object class, the last column (`eos_coef`).
    """

    classification = "softmax"

    def __init__(self, *, weight: float = 1.0, no_object_weight: float = 0.1) -> None:
        super().__init__(weight=weight)
        if no_object_weight <= 0:
            raise ValueError(f"no_object_weight: expected a number above 0, got {no_object_weight}")
        self.no_object_weight = no_object_weight

    def forward(self, matched: Matched) -> Tensor:
        logits, normalizer = matched.predictions.logits, matched.normalizer
        no_object = logits.shape[-1] - 1
        labels = matched.labels_of_queries(elsewhere=no_object)
        class_weights = logits.new_ones(no_object + 1)
        class_weights[no_object:].fill_(self.no_object_weight)  # by index it would wait for the device
        # As one long list: classes stay side by side in memory.
        entropies = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), class_weights, reduction="none")
        losses = entropies.view_as(labels).sum((1, 2))
        if normalizer.whole_step:
            queries = normalizer.images * logits.shape[2]
            return losses / (normalizer.objects + (queries - normalizer.objects) * self.no_object_weight)
        return losses / class_weights[labels].sum((1, 2)) / normalizer.micro_batches


class Focal(Term):
    """Computes sigmoid focal loss (Lin et al. 2017), summed over queries and classes, over the number of objects.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        alpha: weight of the classes that are there, 1 - alpha of all others.
        gamma: how much less what is easy counts.
    """

    classification = "sigmoid"

    def __init__(self, *, weight: float = 2.0, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        check_focus(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, matched: Matched) -> Tensor:
        logits, matches = matched.predictions.logits, matched.matches
        wanted = torch.zeros_like(logits)
        wanted[*matches.index, matched.labels()] = wanted.new_ones(())  # a number would be copied, which waits
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma, reduction="none")
        return losses.sum((1, 2, 3)) / matched.normalizer.objects


class Varifocal(Term):
    """Classifies by sigmoids whose target is the box's IoU with its object (Zhang et al. 2021, equation 2).

    RT-DETR (Zhao et al. 2024, section 4.3) trains queries and proposals with it, so that a score tells the quality of
    the box, too. Over the number of objects; no gradient goes through the IoU.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        alpha, gamma: of the weight alpha · p^gamma of what is no object.
    """

    classification = "sigmoid"

    def __init__(self, *, weight: float = 1.0, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        check_focus(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, matched: Matched) -> Tensor:
        logits, matches = matched.predictions.logits, matched.matches
        predicted, wanted = matched.boxes()
        quality = iou(cxcywh_to_xyxy(predicted.detach()), cxcywh_to_xyxy(wanted))
        answers = (*matches.index, matched.labels())
        scores = torch.zeros_like(logits).index_put(answers, quality)
        positive = torch.zeros_like(logits).index_put(answers, torch.ones_like(quality))
        weights = self.alpha * logits.detach().sigmoid() ** self.gamma * (1 - positive) + scores
        losses = F.binary_cross_entropy_with_logits(logits, scores, weight=weights, reduction="none")
        return losses.sum((1, 2, 3)) / matched.normalizer.objects


class L1(Term):
    """Computes the absolute difference of cxcywh boxes, summed over the four numbers, over the number of objects.

    Args:
        weight: what the criterion multiplies it with; at least 0.
    """

    localizes = True

    def __init__(self, *, weight: float = 5.0) -> None:
        super().__init__(weight=weight)

    def forward(self, matched: Matched) -> Tensor:
        predicted, wanted = matched.boxes()
        return matched.sum_by_layer((predicted - wanted).abs().sum(-1)) / matched.normalizer.objects


class GIoU(Term):
    """Computes 1 − generalised IoU, over the number of objects.

    Args:
        weight: what the criterion multiplies it with; at least 0.
    """

    localizes = True

    def __init__(self, *, weight: float = 2.0) -> None:
        super().__init__(weight=weight)

    def forward(self, matched: Matched) -> Tensor:
        predicted, wanted = matched.boxes()
        losses = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return matched.sum_by_layer(losses) / matched.normalizer.objects
