"""Stable-DINO's position-supervised classification (Liu et al. 2023; IDEA-Research/Stable-DINO, dn_criterion.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detr.boxes import cxcywh_to_xyxy, iou
from detr.losses.matched import Matched
from detr.losses.terms import Term, check_focus

EPSILON = 1e-8  # beside the best target of an image, which may be 0


class PositionSupervised(Term):
    """Classifies by sigmoids whose target is a power of the box's IoU with its object, stretched image by image.

    An answer counts by how far its score p is from its target: α · |t - p|^γ; what is no object (1 - α) · p^γ
    (equation 5). In each image targets are stretched until the best is 1, so that somebody is sure from the beginning.
    Over the number of objects; no gradient goes through targets.

    Args:
        weight: what the criterion multiplies it with; at least 0. The authors' is 6, and 1 for denoising.
        alpha, gamma: as of a focal loss.
        power: of the IoU.

    Raises:
        ValueError: no such weight or exponent.
    """

    classification = "sigmoid"

    def __init__(self, *, weight: float = 6.0, alpha: float = 0.25, gamma: float = 2.0, power: float = 2.0) -> None:
        super().__init__(weight=weight)
        check_focus(alpha, gamma)
        if power < 0:
            raise ValueError(f"power: expected at least 0, got {power}")
        self.alpha, self.gamma, self.power = alpha, gamma, power

    def forward(self, matched: Matched) -> Tensor:
        logits, index = matched.predictions.logits, matched.matches.index
        predicted, wanted = matched.boxes()
        quality = iou(cxcywh_to_xyxy(predicted.detach()), cxcywh_to_xyxy(wanted)) ** self.power
        queries = torch.zeros_like(logits[..., 0]).index_put(index, quality)  # [L, B, Q]
        targets = quality / (queries.amax(2)[index[:2]] + EPSILON).clamp(max=1)
        answers = (*index, matched.labels())
        scores = logits.sigmoid()
        wanted_scores = torch.zeros_like(logits).index_put(answers, targets)
        distance = (targets - scores[answers]).abs() ** self.gamma
        weights = ((1 - self.alpha) * scores**self.gamma).index_put(answers, self.alpha * distance)
        losses = weights * F.binary_cross_entropy_with_logits(logits, wanted_scores, reduction="none")
        return losses.sum((1, 2, 3)) / matched.normalizer.objects
