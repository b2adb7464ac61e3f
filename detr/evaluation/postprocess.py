"""From the last decoder layer's outputs to boxes and masks in pixels of the original image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from detr.structures import Classification, Detections, MaskDecoder, Predictions

Size = Sequence[int]  # (height, width)

MASK_THRESHOLD = 0.5  # of the probability
QUERIES_AT_ONCE = 16  # whose masks are computed and scaled together: bounds the memory


@torch.no_grad()
def postprocess(
    predictions: Predictions,
    original_sizes: Tensor,
    *,
    classification: Classification,
    max_detections: int = 100,
    sizes: Tensor | None = None,
    padded_size: Size | None = None,
) -> list[Detections]:
    """Turn the last layer's predictions into scored boxes, one `Detections` an image, scores descending.

    softmax: every query answers with its best real class (`PostProcess` in models/detr.py of facebookresearch/detr);
    nothing is cut off, as there. sigmoid: the `max_detections` best pairs of a query and a class, so that a query
    may answer with several classes (`PostProcess` in models/deformable_detr.py of fundamentalvision/Deformable-DETR).
    Of equal scores the earlier query (then class) comes first. Neither filters by score nor suppresses overlaps.

    Masks, where the predictions have them, are those of the boxes' queries (`masks_of_queries`), on the CPU.

    Args:
        predictions: logits [L, B, Q, K], boxes [L, B, Q, 4] cxcywh in [0, 1], and maybe masks.
        original_sizes: [B, 2] (height, width) in pixels of the images as stored.
        sizes: [B, 2] of the images in the batch without padding; only masks need it.
        padded_size: (height, width) of the batch with padding; only masks need it.

    Raises:
        ValueError: there are masks, but no `sizes` or `padded_size`.
    """
    scores, labels, queries = ranked(predictions.logits[-1].float(), classification, max_detections)
    boxes = to_pixels(predictions.boxes[-1].float(), original_sizes)
    detections = [
        Detections(scores=score, labels=label, boxes=box[query], queries=query)
        for score, label, query, box in zip(scores, labels, queries, boxes, strict=True)
    ]
    if predictions.masks is not None:
        if sizes is None or padded_size is None:
            raise ValueError("masks need the sizes of the images and of the padded batch")
        for image, (size, original) in enumerate(zip(sizes.tolist(), original_sizes.tolist(), strict=True)):
            direct = predictions.pixels is not None
            masks = masks_of_queries(predictions.masks, image, queries[image], padded_size, size, original, direct)
            detections[image].masks = masks
    return detections


def masks_of_queries(
    masks: MaskDecoder,
    image: int,
    queries: Tensor,
    padded_size: Size,
    size: Size,
    original_size: Size,
    direct: bool = False,
) -> Tensor:
    """Return [n, height, width] bool, on the CPU: the masks of queries [n] of one image, in the original size.

    As `PostProcessSegm` in models/segmentation.py of facebookresearch/detr: bilinear to the padded size, cut at
    probability one half, cropped to the image, nearest to the original size. Or directly, as RF-DETR-Seg has it:
    bilinear to the original size, then cut. A few queries at a time, each once even if it answers for several classes;
    what adds up is one byte a pixel.

    Args:
        masks: of the predictions.
        image: its number in the batch.
        queries: [n] indices.
        padded_size, size, original_size: (height, width) of the batch, of the image in it, and of the stored image.
        direct: what is said above, where masks are products of queries and pixels.
    """
    asked, position = queries.unique(return_inverse=True)
    larger = [round(side * stored / own) for side, stored, own in zip(padded_size, original_size, size, strict=True)]
    result = torch.empty(len(queries), *original_size, dtype=torch.bool)
    for start in range(0, len(asked), QUERIES_AT_ONCE):
        chunk = asked[start : start + QUERIES_AT_ONCE]
        logits = masks(torch.full_like(chunk, image), chunk)[:, None]
        scaled = F.interpolate(
            logits, size=tuple(larger if direct else padded_size), mode="bilinear", align_corners=False
        )
        cut = scaled.sigmoid() > MASK_THRESHOLD
        if direct:
            resized = cut[:, 0, : original_size[0], : original_size[1]]
        else:
            cropped = cut[..., : size[0], : size[1]].to(torch.uint8)
            resized = F.interpolate(cropped, size=tuple(original_size), mode="nearest")[:, 0].bool()
        (rows,) = torch.where((position >= start) & (position < start + len(chunk)))
        result[rows.cpu()] = resized[position[rows] - start].cpu()
    return result


def ranked(logits: Tensor, classification: Classification, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels and queries of the detections in logits [B, Q, K], each [B, n]; see `postprocess`."""
    if classification == "softmax":
        return _best_class_of_each_query(logits)
    return _best_pairs(logits, max_detections)


def to_pixels(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Convert [B, Q, 4] cxcywh in [0, 1] → xyxy in pixels of images of `sizes` [B, 2] (height, width)."""
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
