"""DEIM's matchability-aware loss (Huang et al. 2025, section 3.3; ShihuaHuang95/DEIM, deim_criterion.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detr.boxes import cxcywh_to_xyxy, iou
from detr.losses.matched import Matched
from detr.losses.terms import Term


class Matchability(Term):
    """Classifies by sigmoids whose target is a power of the box's IoU with its object (MAL, equation 3).

    Unlike with the varifocal loss, a poor box that answers for an object has a loss as large as a good one's. Over the
    number of objects; no gradient goes through the IoU.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        gamma: exponent of the IoU, and of the probability that weighs what is no object.

    Raises:
        ValueError: a negative exponent.
    """

    classification = "sigmoid"

    def __init__(self, *, weight: float = 1.0, gamma: float = 1.5) -> None:
        super().__init__(weight=weight)
        if gamma < 0:
            raise ValueError(f"gamma: expected at least 0, got {gamma}")
        self.gamma = gamma

    def forward(self, matched: Matched) -> Tensor:
        logits, matches = matched.predictions.logits, matched.matches
        predicted, wanted = matched.boxes()
        quality = iou(cxcywh_to_xyxy(predicted.detach()), cxcywh_to_xyxy(wanted))
        answers = (*matches.index, matched.labels())
        scores = torch.zeros_like(logits).index_put(answers, quality**self.gamma)
        weights = (logits.detach().sigmoid() ** self.gamma).index_put(answers, torch.ones_like(quality))
        losses = F.binary_cross_entropy_with_logits(logits, scores, weight=weights, reduction="none")
        return losses.sum((1, 2, 3)) / matched.normalizer.objects
