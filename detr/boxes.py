"""Box formats and overlaps. Boxes are [..., 4]; xyxy corners or cxcywh centre and size."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert [..., 4] (centre x, centre y, width, height) → [..., 4] (left, top, right, bottom)."""
    return box_convert(boxes, "cxcywh", "xyxy")


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert [..., 4] (left, top, right, bottom) → [..., 4] (centre x, centre y, width, height)."""
    return box_convert(boxes, "xyxy", "cxcywh")


def area(boxes: Tensor) -> Tensor:
    """Return the area of xyxy boxes: [..., 4] → [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of xyxy boxes, broadcast as in `generalized_iou`: in [0, 1]; 0 where both boxes are empty."""
    intersection, union = _intersection_and_union(_sides(boxes1), _sides(boxes2))
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalised IoU (Rezatofighi et al. 2019, algorithm 1) of xyxy boxes, broadcast: in [-1, 1].

    Unlike torchvision's `generalized_box_iou`, which is pairwise over two flat lists only, this takes any shapes
    that broadcast: ([..., Q, 1, 4], [..., 1, N, 4]) gives the costs of a whole batch, ([M, 4], [M, 4]) the losses
    of matched pairs.
    """
    sides1, sides2 = _sides(boxes1), _sides(boxes2)
    intersection, union = _intersection_and_union(sides1, sides2)
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = sides1, sides2
    hull_area = (torch.maximum(right1, right2) - torch.minimum(left1, left2)) * (
        torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    )
    return intersection / union - (hull_area - union) / hull_area


Sides = tuple[Tensor, ...]  # left, top, right, bottom


def _sides(boxes: Tensor) -> Sides:
    """[..., 4] → four of [...], each contiguous: what is computed for all pairs is then vectorised over boxes."""
    return boxes.movedim(-1, 0).contiguous().unbind()


def _intersection_and_union(sides1: Sides, sides2: Sides) -> tuple[Tensor, Tensor]:
    (left1, top1, right1, bottom1), (left2, top2, right2, bottom2) = sides1, sides2
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    intersection = width * height
    areas = (right1 - left1) * (bottom1 - top1), (right2 - left2) * (bottom2 - top2)
    return intersection, areas[0] + areas[1] - intersection


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of x, with x kept `eps` away from 0 and 1."""
    return torch.logit(x, eps=eps)
