"""Boxes as distributions over how far each edge moves (D-FINE, Peng et al. 2024, section 4.1).

A box is said beside a reference: each of its edges moves outward by a part of the reference's side, and what part is
the mean of a distribution over bins, which lie closer to each other where edges move little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

MIN_SIDE = 1e-16  # of a reference whose edges are to move, in units of the image


def bin_values(bins: int, reach: Tensor, curvature: Tensor) -> Tensor:
    """Return W(n), the part of a side that bin n stands for, [bins + 1] from -2a to 2a (equation 4).

    Args:
        bins: N, an even number, at least 4.
        reach: [1] a, where the outermost bins but one lie; those at the ends are for whatever is beyond.
        curvature: [1] c; the larger, the more evenly the others are spread.
    """
    steps = torch.arange(1, bins // 2, device=reach.device, dtype=reach.dtype)
    outward = curvature * ((reach / curvature + 1) ** (2 * steps / (bins - 2)) - 1)
    end = 2 * reach
    return torch.cat([-end, -outward.flip(0), torch.zeros_like(end), outward, end])


def moved(reference: Tensor, distributions: Tensor, values: Tensor) -> Tensor:
    """Return the boxes whose edges have moved by the mean of their distributions (equation 2).

    Args:
        reference: [..., 4] cxcywh.
        distributions: [..., 4, bins + 1] logits of left, top, right and bottom edge.
        values: [bins + 1] of the bins.

    Returns:
        [..., 4] cxcywh; edges that have passed each other leave sides of 0.
    """
    outward = distributions.softmax(-1) @ values
    boxes = xyxy_to_cxcywh(cxcywh_to_xyxy(reference) + outward * _outward(reference))
    return torch.cat([boxes[..., :2], boxes[..., 2:].clamp(min=0)], -1)


def movement(reference: Tensor, boxes: Tensor) -> Tensor:
    """Return [..., 4] how far left, top, right and bottom edge have to move outward, in sides of the reference.

    Args:
        reference, boxes: [..., 4] cxcywh.
    """
    reference = torch.cat([reference[..., :2], reference[..., 2:].clamp(min=MIN_SIDE)], -1)
    return (cxcywh_to_xyxy(boxes) - cxcywh_to_xyxy(reference)) / _outward(reference)


def _outward(reference: Tensor) -> Tensor:
    """[..., 4] the reference's sides, with a sign for left, top, right and bottom: which way is outward."""
    return torch.cat([-reference[..., 2:], reference[..., 2:]], -1)


def between_bins(places: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left one of the two bins around each place, [...], and the share of the right one, in [0, 1].

    Places beyond the outermost bins count as theirs.

    Args:
        places: [...].
        values: [bins + 1] of the bins, ascending.
    """
    left = (torch.searchsorted(values, places.contiguous(), right=True) - 1).clamp(0, len(values) - 2)
    share = (places - values[left]) / (values[left + 1] - values[left])
    return left, share.clamp(0, 1)
