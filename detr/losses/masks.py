"""Mask loss terms (DETR, section 4.4; facebookresearch/detr, models/segmentation.py), of the last layer only."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from detr.structures import Matches, Normalizer, Predictions, Targets


class MatchedMasks(NamedTuple):
    """Masks of the last layer's M matched queries and of their objects, in the size of the padded images."""

    logits: Tensor  # [M, H, W]
    wanted: Tensor  # [M, H, W] 0 or 1


def matched_masks(predictions: Predictions, targets: Targets, matches: Matches) -> MatchedMasks:
    """Ask the mask head for what was matched, and bring it to the size of the images (bilinear).

    Raises:
        ValueError: the model has no mask head, or the targets no masks.
    """
    if predictions.masks is None or targets.masks is None:
        missing = "a mask head" if predictions.masks is None else "masks in the targets"
        raise ValueError(f"mask terms need {missing}; choose mask_head=fpn, or mask_head=none")
    # Matches come layer by layer, and how many the last one has is known on the host: nobody waits for the device.
    count = sum(min(each, predictions.logits.shape[2]) for each in targets.counts)
    last = slice(len(matches) - count, None)
    logits = predictions.masks(matches.image[last], matches.query[last])
    wanted = targets.masks[matches.target[last]].to(logits)
    scaled = F.interpolate(logits[:, None], size=wanted.shape[-2:], mode="bilinear", align_corners=False)
    return MatchedMasks(scaled[:, 0], wanted)


class MaskTerm(nn.Module):
    """One addend of the loss.

    Args:
        weight: what the criterion multiplies it with; at least 0.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must be at least 0, not {weight}")
        self.weight = weight

    def forward(self, masks: MatchedMasks, normalizer: Normalizer) -> Tensor:
        """The unweighted loss of the last layer, [1]."""
        raise NotImplementedError


class MaskFocal(MaskTerm):
    """Focal loss (Lin et al. 2017), a mean over the pixels of a mask, over the number of objects."""

    def __init__(self, *, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(weight=weight)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, masks: MatchedMasks, normalizer: Normalizer) -> Tensor:
        losses = sigmoid_focal_loss(masks.logits, masks.wanted, self.alpha, self.gamma, reduction="none")
        return losses.mean((1, 2)).sum().reshape(1) / normalizer.objects


class Dice(MaskTerm):
    """1 − the Dice coefficient (Milletari et al. 2016) with 1 added above and below, over the number of objects."""

    def forward(self, masks: MatchedMasks, normalizer: Normalizer) -> Tensor:
        probability = masks.logits.sigmoid()
        overlap = 2 * (probability * masks.wanted).sum((1, 2))
        sizes = probability.sum((1, 2)) + masks.wanted.sum((1, 2))
        return (1 - (overlap + 1) / (sizes + 1)).sum().reshape(1) / normalizer.objects
