"""From the last decoder layer's outputs to boxes in pixels of the original image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert

from detr.structures import Classification, Detections, Predictions


@torch.no_grad()
def postprocess(
    predictions: Predictions,
    original_sizes: Tensor,
    *,
    classification: Classification,
    max_detections: int = 100,
) -> list[Detections]:
    """Turn the last layer's predictions into scored boxes, one `Detections` an image, scores descending.

    softmax: every query answers with its best real class (`PostProcess` in models/detr.py of facebookresearch/detr);
    nothing is cut off, as there. sigmoid: the `max_detections` best pairs of a query and a class, so that a query
    may answer with several classes (`PostProcess` in models/deformable_detr.py of fundamentalvision/Deformable-DETR).
    Of equal scores the earlier query (then class) comes first. Neither filters by score nor suppresses overlaps.

    Args:
        predictions: logits [L, B, Q, K], boxes [L, B, Q, 4] cxcywh in [0, 1].
        original_sizes: [B, 2] (height, width) in pixels of the images as stored.
    """
    logits = predictions.logits[-1].float()
    boxes = _to_pixels(predictions.boxes[-1].float(), original_sizes)
    if classification == "softmax":
        scores, labels, queries = _best_class_of_each_query(logits)
    else:
        scores, labels, queries = _best_pairs(logits, max_detections)
    return [
        Detections(scores=score, labels=label, boxes=box[query])
        for score, label, query, box in zip(scores, labels, queries, boxes, strict=True)
    ]


def _to_pixels(boxes: Tensor, sizes: Tensor) -> Tensor:
    """[B, Q, 4] cxcywh in [0, 1] → xyxy in pixels."""
    height, width = sizes.to(boxes).unbind(1)
    scale = torch.stack([width, height, width, height], dim=1)
    return box_convert(boxes, "cxcywh", "xyxy") * scale[:, None]


def _best_class_of_each_query(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, Q, K] → scores, labels and queries, each [B, Q]; the last column is "no object"."""
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    scores, queries = scores.sort(dim=1, descending=True, stable=True)
    return scores, labels.gather(1, queries), queries


def _best_pairs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, Q, K] → scores, labels and queries, each [B, min(count, Q·K)]."""
    classes = logits.shape[-1]
    # Not topk: it breaks ties as it likes, and differently on different devices.
    scores, pairs = logits.sigmoid().flatten(1).sort(dim=1, descending=True, stable=True)
    scores, pairs = scores[:, :count], pairs[:, :count]
    return scores, pairs % classes, pairs // classes
