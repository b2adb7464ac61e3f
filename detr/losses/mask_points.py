"""Mask losses at sampled points (PointRend, Kirillov et al. 2020, section 3.2; Mask2Former, Cheng et al. 2022, 3.4).

Of every decoder layer, of the proposals and of all groups, where masks are products (RF-DETR-Seg, roboflow/rf-detr).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detr.errors import UserError
from detr.losses.matched import Matched
from detr.losses.terms import Term
from detr.structures import MASK_QUERIES, Targets


@dataclass(frozen=True)
class Sampling:
    """Says at how many points of a mask its losses are, and where.

    Args:
        pixels_per_point: one point for so many pixels of the predicted mask, but at least as many as it has rows.
        oversample: how many times as many points are drawn as are kept.
        uncertain: part of the points that are those of all drawn ones where the logit is closest to 0; others lie
            anywhere.

    Raises:
        ValueError: a number out of its range.
    """

    pixels_per_point: int = 16
    oversample: float = 3.0
    uncertain: float = 0.75

    def __post_init__(self) -> None:
        for name, value in {"pixels_per_point": self.pixels_per_point, "oversample": self.oversample}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if not 0 <= self.uncertain <= 1:
            raise ValueError(f"uncertain: expected a number from 0 to 1, got {self.uncertain}")

    @torch.no_grad()
    def points(self, logits: Tensor) -> Tensor:
        """Return points [m, P, 2], (x, y) in [0, 1], of masks with logits [m, h, w]."""
        masks, height, width = logits.shape
        count = max(height, height * width // self.pixels_per_point)
        drawn = draw((masks, int(count * self.oversample), 2), logits)
        surest = at_points(logits, drawn).abs()
        kept = surest.topk(int(self.uncertain * count), dim=1, largest=False).indices
        others = draw((masks, count - kept.shape[1], 2), logits)
        return torch.cat([drawn.gather(1, kept[..., None].expand(-1, -1, 2)), others], 1)


def draw(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return numbers in [0, 1) on the same device; in evaluations always the same ones, drawn from nowhere else."""
    generator = None
    if torch.is_inference_mode_enabled():
        generator = torch.Generator(like.device).manual_seed(0)
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


def at_points(values: Tensor, points: Tensor) -> Tensor:
    """Return maps [m, h, w] or [m, D, h, w] at points [m, P, 2], bilinear: [m, P] or [m, D, P]."""
    maps = values[:, None] if values.ndim == 3 else values
    grid = 2 * points[:, :, None] - 1
    found = F.grid_sample(maps, grid.to(maps), mode="bilinear", padding_mode="border", align_corners=False)[..., 0]
    return found[:, 0] if values.ndim == 3 else found


def objects_at_points(targets: Targets, rows: Tensor, points: Tensor) -> Tensor:
    """Return [m, P] 0 or 1: the masks of objects `rows` [m] at points [m, P, 2], of the nearest pixel.

    Raises:
        UserError: the targets have no masks.
    """
    if targets.masks is None:
        raise UserError("loss terms of masks need masks in the targets; choose mask_head=product, or mask_head=none")
    sides = points.new_tensor(targets.masks.shape[:0:-1])  # (width, height)
    x, y = (points * sides - 0.5).round().long().clamp(min=0).unbind(-1)
    height, width = targets.masks.shape[1:]
    return targets.masks[rows[:, None], y.clamp(max=height - 1), x.clamp(max=width - 1)].to(points)


class Points(NamedTuple):
    """Holds logits of masks and those of their objects, at points, [m, P] both."""

    logits: Tensor
    wanted: Tensor


def sampled(matched: Matched, sampling: Sampling) -> list[Points]:
    """Return each layer's pairs at points; all terms that ask for the same sampling get the same points."""
    if sampling not in matched.memo:
        outputs, matches = matched.predictions, matched.matches
        assert outputs.pixels is not None
        images, size = matches.image.cpu(), len(matches) // matches.layers
        found = []
        for layer, pixels in enumerate(outputs.pixels):
            rows = slice(layer * size, (layer + 1) * size)
            queries = outputs.extras[MASK_QUERIES][layer]
            logits, order = _masks(pixels.to(queries), queries, images[rows], matches.query[rows])
            points = sampling.points(logits)
            wanted = objects_at_points(matched.targets, matches.target[rows][order], points)
            found.append(Points(at_points(logits, points), wanted))
        matched.memo[sampling] = found
    known: list[Points] = matched.memo[sampling]
    return known


def _masks(pixels: Tensor, queries: Tensor, images: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits [m, h, w] of queries `asked` [m] of `images` [m], which are on the host, and in which order they are.

    Image by image: a product of all queries would take many times the memory, a copy of the pixels for each pair, too.
    """
    of_images = [torch.nonzero(images == image)[:, 0].to(asked.device) for image in range(len(pixels))]
    logits = []
    for image, rows in enumerate(of_images):
        some = queries[image, asked[rows]]
        logits.append(torch.einsum("nd,dhw->nhw", some[:, :-1], pixels[image]) + some[:, -1, None, None])
    return torch.cat(logits), torch.cat(of_images)


class PointTerm(Term):
    """Offers what losses of masks at points have in common.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        pixels_per_point, oversample, uncertain: as for `Sampling`.
    """

    extras = (MASK_QUERIES,)

    def __init__(
        self, *, weight: float = 1.0, pixels_per_point: int = 16, oversample: float = 3.0, uncertain: float = 0.75
    ) -> None:
        super().__init__(weight=weight)
        self.sampling = Sampling(pixels_per_point, oversample, uncertain)

    def of_masks(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of each mask, [m], of logits and objects [m, P]."""
        raise NotImplementedError

    def forward(self, matched: Matched) -> Tensor:
        """Return the unweighted loss of each layer, [L], over the number of objects."""
        losses = [self.of_masks(*points).sum() for points in sampled(matched, self.sampling)]
        return torch.stack(losses) / matched.normalizer.objects


class PointCrossEntropy(PointTerm):
    """Computes binary cross-entropy, as a mean over the points of a mask."""

    def of_masks(self, logits: Tensor, wanted: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)


class PointDice(PointTerm):
    """Computes 1 − the Dice coefficient of the points of a mask, 1 added to both parts."""

    def of_masks(self, logits: Tensor, wanted: Tensor) -> Tensor:
        probability = logits.sigmoid()
        sizes = probability.sum(1) + wanted.sum(1)
        return 1 - (2 * (probability * wanted).sum(1) + 1) / (sizes + 1)
