"""Mask loss terms (DETR, section 4.4; facebookresearch/detr, models/segmentation.py), of the last layer only."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detr.losses.matched import Matched
from detr.losses.terms import Term, check_focus


class MaskFocal(Term):
    """Computes the focal loss (Lin et al. 2017), a mean over the pixels of a mask, over the number of objects.

    Args:
        weight, alpha, gamma: as for `Focal`.
    """

    of_groups = False
    last_layer_only = True

    def __init__(self, *, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        check_focus(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, matched: Matched) -> Tensor:
        """Return [1], of the last layer."""
        logits, wanted = matched.masks
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma, reduction="none")
        return losses.mean((1, 2)).sum().reshape(1) / matched.normalizer.objects


class Dice(Term):
    """Computes 1 − the Dice coefficient (Milletari et al. 2016), 1 added to both parts, over the number of objects."""

    of_groups = False
    last_layer_only = True

    def forward(self, matched: Matched) -> Tensor:
        """Return [1], of the last layer."""
        logits, wanted = matched.masks
        probability = logits.sigmoid()
        overlap = 2 * (probability * wanted).sum((1, 2))
        sizes = probability.sum((1, 2)) + wanted.sum((1, 2))
        return (1 - (overlap + 1) / (sizes + 1)).sum().reshape(1) / matched.normalizer.objects
