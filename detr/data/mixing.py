"""Training images made of several, so that there is more to find in each: mosaic, mixup and copy-blend.

DEIM's "Dense O2O": as many pairs of query and object in a step as one-to-many matching has, with one-to-one matching
(Huang et al. 2025; engine/data of ShihuaHuang95/DEIM, and of Intellindust-AI-Lab/DEIMv2 for copy-blend). Other than
there, images are augmented one by one before they are mixed, with partners from the whole data set, a mosaic is not
turned by up to 10° (boxes would no longer fit), and its tiles meet in one point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr.data.transforms import GREY
from detr.data.variations import check_part, resized
from detr.structures import Sample

SHIFT = 0.1  # of an image's sides, by which the point where tiles meet is off its middle at most
SHARE = (0.45, 0.55)  # of the partner in each pixel of a blend
CONTEXT = (0.1, 0.25)  # of an object's sides, that is copied with it all around
SMALLEST = 100  # pixels of an object's box that is worth copying


class DenseMixing:
    """Mixes training images with others until a part of the run is over: first mosaic, then mixup or copy-blend.

    Args:
        mosaic: how often four images share one, in [0, 1].
        mixup: how often another image shows through, with its objects.
        copy_blend: how often, of images without mixup, objects of another image show through.
        scale: of the tiles of a mosaic, beside images of half the size; drawn uniformly.
        objects: copied at most.
        stop_at: the part of the run after which there is neither mosaic nor mixup.
        copy_blend_stop_at: likewise, of copy-blend.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        *,
        mosaic: float = 0.5,
        mixup: float = 0.5,
        copy_blend: float = 0.5,
        scale: Sequence[float] = (0.5, 1.5),
        objects: int = 3,
        stop_at: float = 0.5,
        copy_blend_stop_at: float = 0.85,
    ) -> None:
        parts = {"mosaic": mosaic, "mixup": mixup, "copy_blend": copy_blend}
        parts |= {"stop_at": stop_at, "copy_blend_stop_at": copy_blend_stop_at}
        for name, value in parts.items():
            check_part(name, value)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale: expected two numbers above 0 in ascending order, got {list(scale)}")
        if objects < 1:
            raise ValueError(f"objects: expected at least 1, got {objects}")
        self.mosaic, self.mixup, self.copy_blend = mosaic, mixup, copy_blend
        self.scale, self.objects = (scale[0], scale[1]), objects
        self.stop_at, self.copy_blend_stop_at = stop_at, copy_blend_stop_at

    def __call__(self, sample: Sample, partner: Callable[[], Sample], part: float, draw: np.random.Generator) -> Sample:
        """Return the image, mixed or as it is; see `Mixing`."""
        if part < self.stop_at and draw.random() < self.mosaic:
            scale = draw.uniform(*self.scale)
            shift = draw.uniform(-SHIFT, SHIFT, size=2)
            sample = mosaic([sample, partner(), partner(), partner()], scale=scale, shift=shift.tolist())
        if part < self.stop_at and draw.random() < self.mixup:
            return mixup(sample, partner(), share=draw.uniform(*SHARE))
        if part < self.copy_blend_stop_at and draw.random() < self.copy_blend:
            return copy_blend(sample, partner(), draw, objects=self.objects)
        return sample


def mosaic(samples: Sequence[Sample], *, scale: float, shift: Sequence[float]) -> Sample:
    """Return four images around a point, each of half its size times `scale`; the rest is grey.

    What is cut off is lost; objects of which less than a pixel is left go.

    Args:
        samples: top left (the result is as large as it, and has its name), top right, bottom left, bottom right.
        scale: above 0.
        shift: of the point from the middle, downwards and to the right, in parts of the height and width.
    """
    first = samples[0]
    height, width = first.image.shape[-2:]
    down, right = round(height * (0.5 + shift[0])), round(width * (0.5 + shift[1]))
    image = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].expand_as(first.image)
    tiles = []
    for number, sample in enumerate(samples):
        tile = resized(sample, scale / 2)
        h, w = tile.image.shape[-2:]
        tile, cover = placed(
            tile, top=down - h * (number < 2), left=right - w * (number % 2 == 0), size=(height, width)
        )
        image = torch.where(cover, tile.image, image)
        tiles.append(tile)
    return together(first, image, tiles)


def mixup(sample: Sample, partner: Sample, *, share: float) -> Sample:
    """Return an image through which another one shows, with the objects of both.

    The other one is scaled to fit into the image and lies at its top left.

    Args:
        sample: the image.
        partner: the other one.
        share: of the other one, in [0, 1].
    """
    height, width = sample.image.shape[-2:]
    h, w = partner.image.shape[-2:]
    scaled = partner if (h, w) == (height, width) else resized(partner, min(height / h, width / w))
    other, cover = placed(scaled, top=0, left=0, size=(height, width))
    image = torch.where(cover, blended(sample.image, other.image, share), sample.image)
    return together(sample, image, [sample, other])


def copy_blend(sample: Sample, partner: Sample, draw: np.random.Generator, *, objects: int) -> Sample:
    """Return an image through which objects of another one show, with a little around them, each at a random place.

    Args:
        sample: the image.
        partner: the other one.
        draw: that all randomness comes from.
        objects: of the other one at most.
    """
    height, width = sample.image.shape[-2:]
    h, w = partner.image.shape[-2:]
    image, copies = sample.image.clone(), [sample]
    corners = cxcywh_to_xyxy(partner.boxes) * partner.boxes.new_tensor([w, h, w, h])
    large = np.flatnonzero(((corners[:, 2:] - corners[:, :2]).prod(dim=1) >= SMALLEST).numpy())
    for row in draw.permutation(large)[:objects].tolist():
        left, top = corners[row, :2].floor().clamp(min=0).int().tolist()
        right, bottom = corners[row, 2:].ceil().int().clamp(max=torch.tensor([w, h])).tolist()
        if right - left > width or bottom - top > height:
            continue
        dx = int(draw.integers(width - (right - left) + 1)) - left
        dy = int(draw.integers(height - (bottom - top) + 1)) - top
        around = draw.uniform(*CONTEXT)
        more_x, more_y = int(around * (right - left)), int(around * (bottom - top))
        left, right = max(left - more_x, 0, -dx), min(right + more_x, w, width - dx)
        top, bottom = max(top - more_y, 0, -dy), min(bottom + more_y, h, height - dy)
        spot = image[:, top + dy : bottom + dy, left + dx : right + dx]
        spot.copy_(blended(spot, partner.image[:, top:bottom, left:right], draw.uniform(*SHARE)))
        copies.append(placed(only(partner, row), top=dy, left=dx, size=(height, width))[0])
    return together(sample, image, copies)


def placed(sample: Sample, *, top: int, left: int, size: tuple[int, int]) -> tuple[Sample, Tensor]:
    """Return an image of another size, (height, width), on which this one lies, and where it does [height, width] bool.

    Objects of which less than a pixel is left go.
    """
    height, width = size
    h, w = sample.image.shape[-2:]
    around = (left, width - left - w, top, height - top - h)  # where it is negative, it is cut off
    sides, limits = sample.boxes.new_tensor([w, h, w, h]), sample.boxes.new_tensor([width, height, width, height])
    corners = cxcywh_to_xyxy(sample.boxes) * sides + sample.boxes.new_tensor([left, top, left, top])
    corners = torch.minimum(corners.clamp(min=0), limits)
    kept = (corners[:, 2:] - corners[:, :2] >= 1).all(dim=1)
    moved = replace(
        sample,
        image=F.pad(sample.image, around),
        labels=sample.labels[kept],
        boxes=xyxy_to_cxcywh(corners / limits)[kept],
        masks=None if sample.masks is None else F.pad(sample.masks[kept], around),
    )
    return moved, F.pad(torch.ones(h, w, dtype=torch.bool), around)


def only(sample: Sample, row: int) -> Sample:
    """Return an image with one of its objects."""
    masks = None if sample.masks is None else sample.masks[row : row + 1]
    return replace(sample, labels=sample.labels[row : row + 1], boxes=sample.boxes[row : row + 1], masks=masks)


def together(sample: Sample, image: Tensor, samples: Sequence[Sample]) -> Sample:
    """Return `image` with the objects of all `samples`, which are as large as it; the rest is that of `sample`."""
    masks = [each.masks for each in samples if each.masks is not None]
    return replace(
        sample,
        image=image,
        labels=torch.cat([each.labels for each in samples]),
        boxes=torch.cat([each.boxes for each in samples]),
        masks=torch.cat(masks) if masks else None,
    )


def blended(image: Tensor, other: Tensor, share: float) -> Tensor:
    """Return `image` with a share of `other`, [3, H, W] uint8 both."""
    return ((1 - share) * image + share * other).round().to(torch.uint8)
