"""What masks have to say in the matching (Mask2Former; RF-DETR-Seg, roboflow/rf-detr, models/matcher.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from detr.losses.mask_points import Sampling, at_points, draw, objects_at_points
from detr.structures import MASK_QUERIES, Predictions, Targets


def mask_costs(predictions: Predictions, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return binary cross-entropy and 1 − Dice of every query's mask with its image's objects, each [L, B, Q, n].

    Both are of points drawn anew for each layer, the same for all queries and images: one for 16 pixels of a mask.
    Columns beyond an image's count are padding.

    Raises:
        UserError: the targets have no masks.
    """
    assert predictions.pixels is not None
    found = [
        _layer_costs(pixels.to(queries), queries, targets)
        for pixels, queries in zip(predictions.pixels, predictions.extras[MASK_QUERIES], strict=True)
    ]
    entropies, dices = zip(*found, strict=True)
    return torch.stack(entropies), torch.stack(dices)


def _layer_costs(pixels: Tensor, queries: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Of pixels [B, D, h, w] and queries [B, Q, D + 1], each [B, Q, n]."""
    images, _, height, width = pixels.shape
    points = draw((1, max(1, height * width // Sampling.pixels_per_point), 2), queries)
    values = at_points(pixels, points.expand(images, -1, -1))
    logits = torch.einsum("bqd,bdp->bqp", queries[..., :-1], values) + queries[..., -1:]
    everyone = torch.arange(len(targets), device=points.device)
    objects = objects_at_points(targets, everyone, points.expand(len(targets), -1, -1))
    wanted = pad_sequence(objects.split(targets.counts), batch_first=True).mT  # [B, P, n]
    entropy = (F.softplus(-logits) @ wanted + F.softplus(logits) @ (1 - wanted)) / points.shape[1]
    probability = logits.sigmoid()
    sizes = probability.sum(-1)[..., None] + wanted.sum(1)[:, None]
    return entropy, 1 - (2 * probability @ wanted + 1) / (sizes + 1)
