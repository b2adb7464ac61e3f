"""From the last decoder layer's masks to panoptic segments (DETR, section 4.4).

The recipe is `PostProcessPanoptic` in models/segmentation.py of facebookresearch/detr, to the pixel for an image
without padding, with two differences: ids begin at 1, since 0 means void in COCO's format; and the masks of a padded
batch are scaled to the batch's size and cropped, where the original squeezes them, padding included, into the image.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from detr.structures import Batch, Classification, MaskDecoder, PanopticSegments, Predictions

MIN_AREA = 5  # pixels of the original image; smaller segments are dropped


@torch.no_grad()
def panoptic_segments(
    predictions: Predictions,
    batch: Batch,
    *,
    classification: Classification,
    things: Tensor,
    min_score: float,
) -> list[PanopticSegments]:
    """Return one `PanopticSegments` for each image.

    Queries that are sure enough compete for each pixel, the highest mask logit wins; those of one stuff class are one
    segment. Segments of hardly any pixel are dropped and theirs shared out anew among the others, as long as there
    are any. Where no query is sure enough, everything is void.

    Args:
        predictions: with masks.
        batch: what they are predictions of.
        things: [K] bool, which classes are things; for softmax without the no-object column.
        min_score: a query's best class must score higher (the paper: 0.85, of a softmax).
    """
    assert predictions.masks is not None
    logits = predictions.logits[-1].float()
    if classification == "softmax":
        scores, labels = logits.softmax(-1).max(-1)
        keep = (scores > min_score) & (labels < logits.shape[-1] - 1)
    else:
        scores, labels = logits.sigmoid().max(-1)
        keep = scores > min_score
    things = things.to(labels.device)
    results = []
    for index in range(len(batch)):
        queries = keep[index].nonzero()[:, 0]
        masks = _masks(predictions.masks, index, queries, batch)
        stuff = [None if things[label] else label for label in labels[index, queries].tolist()]
        ids, rows = share_out(masks, stuff, tuple(batch.original_sizes[index].tolist()))
        kept = queries[rows.to(queries.device)]
        results.append(PanopticSegments(ids, labels[index, kept].cpu(), scores[index, kept].cpu()))
    return results


def share_out(masks: Tensor, stuff: list[int | None], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Decide who gets which pixel.

    Args:
        masks: [n, h, w] logits.
        stuff: [n] the class of what is stuff, None for things.
        size: (height, width) that the result is scaled to, by the nearest pixel.

    Returns:
        ids [height, width] int32 as in `PanopticSegments`, and which masks [m] the segments are.
    """
    rows = torch.arange(len(masks))
    owners = _representatives(stuff)
    while len(rows):
        ids = _scaled(owners[_winners(masks[rows.to(masks.device)])], size)
        large = torch.bincount(ids.flatten(), minlength=len(rows)) >= MIN_AREA
        if large.all():
            return (ids + 1).int(), rows
        rows = rows[large]
        # Nothing is merged again: who was merged had no pixel and is gone; its pixels are anybody's now.
        owners = torch.arange(len(rows))
    return torch.zeros(size, dtype=torch.int32), rows


def _masks(decode: MaskDecoder, index: int, queries: Tensor, batch: Batch) -> Tensor:
    """[n, h, w] logits of some queries of an image, at the size in which the model saw it."""
    height, width = batch.sizes[index].tolist()
    if not len(queries):
        return torch.zeros(0, height, width)
    masks = decode(torch.full_like(queries, index), queries)
    masks = F.interpolate(masks[:, None], size=batch.images.shape[-2:], mode="bilinear", align_corners=False)
    return masks[:, 0, :height, :width]


def _winners(masks: Tensor) -> Tensor:
    """[n, h, w] → [h, w] index of the highest; by the softmax, whose rounding decides between all but equal logits."""
    return masks.flatten(1).transpose(0, 1).softmax(-1).argmax(-1).view(masks.shape[1:]).cpu()


def _representatives(stuff: list[int | None]) -> Tensor:
    """[n] for stuff, the first of its class; for a thing, itself."""
    owners = [index if label is None else stuff.index(label) for index, label in enumerate(stuff)]
    return torch.tensor(owners, dtype=torch.int64)


def _scaled(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] → [height, width] by the nearest pixel, as Pillow finds it."""
    height, width = size
    image = Image.fromarray(ids.numpy().astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image)).long()
