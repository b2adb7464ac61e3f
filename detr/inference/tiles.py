"""Large images in tiles: small objects are seen in their full size, and nothing is found twice at the seams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detr.errors import UserError
from detr.structures import Detections

View = tuple[int, int, int, int]  # left, top, right, bottom: what a pass saw of the image, in pixels
Numbers = NDArray[np.float64]

SAME = 0.5  # least IoU of two boxes for the same object, of the parts that both passes saw
SEAM = 0.02  # of a tile's side: a box that ends so close to where the tile was cut may have been cut, too
MIN_SIDE = 16  # of a tile, in pixels


@dataclass(frozen=True)
class Tiling:
    """Holds how images are cut: into squares that overlap, evenly, none of them smaller.

    Raises:
        UserError: tiles too small, or an overlap that leaves them no step.
    """

    size: int  # side of a tile in pixels
    overlap: float = 0.2  # of neighbours, at least, as a part of the side

    def __post_init__(self) -> None:
        if self.size < MIN_SIDE:
            raise UserError(f"tiles: expected a side of at least {MIN_SIDE} pixels, got {self.size}")
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"overlap: expected a part of the tile from 0 to 0.9, got {self.overlap:g}")

    @property
    def shared(self) -> float:
        """Return the least overlap of neighbours in pixels: any smaller object lies wholly in some tile."""
        return self.size * self.overlap

    def views(self, size: tuple[int, int]) -> list[View]:
        """Return the tiles of an image of (width, height); none where a single one would do."""
        if max(size) <= self.size:
            return []
        columns, rows = (self._starts(side) for side in size)
        return [
            (left, top, min(left + self.size, size[0]), min(top + self.size, size[1]))
            for top in rows
            for left in columns
        ]

    def _starts(self, side: int) -> list[int]:
        if side <= self.size:
            return [0]
        steps = math.ceil((side - self.size) / max(1, math.floor(self.size - self.shared)))
        return [round(number * (side - self.size) / steps) for number in range(steps + 1)]


def merged(
    whole: Detections,
    tiles: Sequence[tuple[View, Detections]],
    size: tuple[int, int],
    tiling: Tiling,
    top_k: int | None = None,
) -> Detections:
    """Return what was found in an image and its tiles, each object once, best first.

    Objects that are small enough to lie wholly in some tile come from the tiles, the others from the whole image, too.
    Two passes found the same object if their boxes, cut to what both passes saw, agree, and so do their classes. Then
    one that was not cut at a seam counts; of pieces only, the box around them. Within a pass nothing is suppressed: a
    detector of this family answers once for an object.

    Args:
        whole: found in the whole image.
        tiles: what each saw, and what was found in it, in pixels of the tile.
        size: (width, height) of the image.
        tiling: that was used.
        top_k: how many to return; None: all.
    """
    passes: list[tuple[View, Detections]] = [((0, 0, *size), _large(whole, tiling.shared)), *tiles]
    pieces = _Pieces(passes, size, tiling)
    groups = pieces.groups()
    scores = pieces.scores[[members[0] for members in groups]] if groups else np.zeros(0)
    best = [groups[index] for index in np.argsort(-scores, kind="stable")[:top_k]]
    leaders = [members[0] for members in best]
    masks = None
    if whole.masks is not None:
        masks = torch.zeros(len(best), size[1], size[0], dtype=torch.bool)
        for target, members in zip(masks, best, strict=True):
            for number in members:
                (left, top, right, bottom), found = passes[pieces.owners[number]]
                assert found.masks is not None
                target[top:bottom, left:right] |= found.masks[int(pieces.rows[number])]
    return Detections(
        scores=torch.tensor(pieces.scores[leaders], dtype=torch.float32),
        labels=torch.tensor(pieces.labels[leaders], dtype=torch.int64),
        boxes=torch.tensor(pieces.boxes[leaders], dtype=torch.float32).view(-1, 4),
        masks=masks,
    )


class _Pieces:
    """What all passes found, in pixels of the image; `boxes` of pieces that are put together grow."""

    def __init__(self, passes: Sequence[tuple[View, Detections]], size: tuple[int, int], tiling: Tiling) -> None:
        counts = [len(found.scores) for _, found in passes]
        self.owners = np.repeat(np.arange(len(passes)), counts)  # [N] which pass
        self.rows = np.concatenate([np.arange(count) for count in counts])  # [N] which of its detections
        self.views = np.repeat(np.array([view for view, _ in passes], dtype=np.float64), counts, axis=0)
        self.boxes: Numbers = np.concatenate(
            [found.boxes.double().cpu().numpy() + np.tile(view[:2], 2) for view, found in passes]
        )
        self.scores: Numbers = np.concatenate([found.scores.double().cpu().numpy() for _, found in passes])
        self.labels: NDArray[np.int64] = np.concatenate([found.labels.cpu().numpy() for _, found in passes])
        seam = np.array([0, 0, *size]) != self.views  # [N, 4] sides that the image goes on beyond
        self.cut = (seam & (np.abs(self.boxes - self.views) < SEAM * tiling.size)).any(axis=1)

    def groups(self) -> list[list[int]]:
        """Return which detections make an object: one, or pieces of it, the best first."""
        kept: list[list[int]] = []
        leaders = np.zeros(0, dtype=np.int64)
        for number in np.lexsort((-self.scores, self.cut)):
            same = self._same(number, leaders)
            if not same.any():
                kept.append([int(number)])
                leaders = np.append(leaders, number)
                continue
            group = kept[int(same.argmax())]
            if self.cut[group[0]]:
                self._join(group[0], number)
                group.append(int(number))
        return kept

    def _same(self, number: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[others] whether another pass found the same object."""
        mine, theirs = np.broadcast_to(self.boxes[number], (len(others), 4)), self.boxes[others]
        common = _intersection(self.views[number], self.views[others])
        either = (self.cut[number] | self.cut[others])[:, None]
        mine, theirs = (np.where(either, _intersection(each, common), each) for each in (mine, theirs))
        shared = _area(_intersection(mine, theirs))
        union = _area(mine) + _area(theirs) - shared
        other = (self.labels[others] == self.labels[number]) & (self.owners[others] != self.owners[number])
        return other & (shared > SAME * union)

    def _join(self, first: int, second: int) -> None:
        for each in (self.boxes, self.views):
            each[first, :2] = np.minimum(each[first, :2], each[second, :2])
            each[first, 2:] = np.maximum(each[first, 2:], each[second, 2:])


def _large(found: Detections, side: float) -> Detections:
    """Those whose longer side is at least `side` pixels."""
    keep = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(dim=1) >= side
    masks = None if found.masks is None else found.masks[keep.cpu()]
    return Detections(found.scores[keep], found.labels[keep], found.boxes[keep], masks)


def _intersection(a: Numbers, b: Numbers) -> Numbers:
    """[n, 4] what two boxes have in common; its sides are negative where that is nothing."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)


def _area(boxes: Numbers) -> Numbers:
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0)
    return sides[..., 0] * sides[..., 1]
