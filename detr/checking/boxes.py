"""Boxes: without area, outside the image, in another convention, twice, with an area that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from detr.boxes import iou
from detr.checking.finding import MAX_PLACES, Finding, Kind
from detr.checking.records import Records

WITHOUT_AREA = Kind(
    "box-without-area", "damage", "boxes without area, which training drops", "draw them again; fix=true removes them"
)
OUTSIDE = Kind(
    "box-outside",
    "damage",
    "boxes that lie wholly outside their image, which training drops",
    "draw them again; fix=true removes them",
)
STICKING_OUT = Kind(
    "box-sticks-out",
    "damage",
    "boxes of which a good part lies outside their image",
    "compare them with the picture; fix=true clips them",
)
BEYOND_EDGE = Kind(
    "box-beyond-edge", "hint", "boxes that end just outside their image", "training clips them, so does fix=true"
)
CORNERS = Kind(
    "corners-as-size",
    "damage",
    "boxes that look like x1, y1, x2, y2; COCO's are x, y, width, height",
    "subtract x1 and y1 from the other two; fix=true does",
)
CENTRES = Kind(
    "centres-as-corners",
    "damage",
    "boxes that look like centre x, centre y, width, height; COCO's begin with the upper left corner",
    "subtract half of the size; fix=true does",
)
FRACTIONS = Kind(
    "fractions-as-pixels",
    "damage",
    "boxes that look like fractions of the image; COCO's are in pixels",
    "multiply them by width and height; fix=true does",
)
EXCHANGED = Kind(
    "axes-exchanged",
    "damage",
    "boxes that look like y, x, height, width; COCO's are x, y, width, height",
    "exchange the numbers; fix=true does",
)
IN_A_CORNER = Kind(
    "boxes-in-a-corner",
    "hint",
    "all boxes lie in the upper left quarter, as if they were made for images of half the size",
    "compare them with the pictures",
)
UNDER_A_PIXEL = Kind(
    "box-under-a-pixel", "damage", "boxes of less than a pixel in width or height", "draw them again, or remove them"
)
TWICE = Kind("object-twice", "damage", "objects that are annotated twice", "remove one; fix=true does")
TWO_CLASSES = Kind(
    "box-with-two-classes",
    "damage",
    "boxes that have two classes, of which a detector can learn one",
    "decide for one class",
)
AREA = Kind(
    "area-mismatch",
    "damage",
    'values of "area" that fit neither box nor mask: APs, APm and APl count these objects as of another size',
    "compute them anew; fix=true does",
)
MANY_CROWDS = Kind(
    "mostly-crowds",
    "damage",
    'most annotations have "iscrowd": 1, and training leaves crowds out',
    "set it to 0 where a box is one object",
)

ROUNDING = 2.0  # pixels; tools round, and some count a box's last pixel as outside of it
MOSTLY_INSIDE = 0.9  # of a box's area; a box that lies less inside was not drawn on this image
SUSPICIOUS = 0.1  # of a split's boxes outside the image: more than slips of the hand
SENSIBLE = 0.98  # of the boxes inside the image, read in another way
ENOUGH = 3  # boxes; with fewer, chance makes them look like another convention
SURELY = 50  # boxes all in one quarter are no chance
SAME = 0.95  # IoU of two boxes of one object; hands differ more than that between two objects
WRONG_AREA = 1.1  # times what the box has; masks have less, rounding makes it a little more


def box_findings(records: Records) -> Iterator[Finding]:
    """Yield what is wrong with the boxes of a split."""
    if not len(records.boxes):
        return
    convention = convention_of(records)
    if convention is not None:
        yield from records.find(convention, np.ones(len(records.boxes), dtype=np.bool_))
    else:
        yield from _extents(records)
    if 2 * records.crowd.sum() > len(records.crowd):
        yield from records.find(MANY_CROWDS, records.crowd)
    first, second = same_boxes(records)
    same_class = records.category_ids[first] == records.category_ids[second]
    yield from records.find(TWICE, np.unique(second[same_class]))
    yield from records.find(TWO_CLASSES, np.unique(second[~same_class]))
    if convention is None:
        yield from _areas(records)


def _extents(records: Records) -> Iterator[Finding]:
    corners, frames = records.corners, records.frames
    empty: NDArray[np.bool_] = np.any(records.boxes[:, 2:] <= 0, axis=1)
    outside: NDArray[np.bool_] = ~empty & np.any((corners[:, :2] >= frames) | (corners[:, 2:] <= 0), axis=1)
    inside = (np.minimum(corners[:, 2:], frames) - np.maximum(corners[:, :2], 0)).clip(min=0).prod(axis=1)
    rest = ~empty & ~outside
    share = np.divide(inside, records.boxes[:, 2:].prod(axis=1), out=np.ones(len(inside)), where=rest)
    beyond = rest & out_of(corners, frames)
    yield from records.find(WITHOUT_AREA, empty)
    yield from records.find(OUTSIDE, outside)
    yield from records.find(STICKING_OUT, beyond & (share < MOSTLY_INSIDE))
    yield from records.find(BEYOND_EDGE, beyond & (share >= MOSTLY_INSIDE))
    yield from records.find(UNDER_A_PIXEL, ~empty & np.any(records.boxes[:, 2:] < 1, axis=1))
    if rest.sum() >= SURELY and (corners[rest, 2:] <= frames[rest] / 2 + ROUNDING).all():
        yield from records.find(IN_A_CORNER, rest)


def out_of(corners: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return [A] whether xyxy boxes [A, 4] leave their frames [A, 2] (width, height); not where these are unknown."""
    out: NDArray[np.bool_] = np.any((corners[:, :2] < -ROUNDING) | (corners[:, 2:] > frames + ROUNDING), axis=1)
    return out


def convention_of(records: Records) -> Kind | None:
    """Return how all boxes of a split are to be read, where it is not as COCO has them.

    They must make sense in the other reading, but for a few slips, and often not in COCO's.
    """
    boxes, frames = records.boxes, records.frames
    known = np.isfinite(frames).all(axis=1) & boxes.any(axis=1)
    boxes, frames = boxes[known], frames[known]
    if len(boxes) < ENOUGH:
        return None
    if boxes.min() >= 0 and boxes.max() <= 1.0 and frames.min() > ROUNDING:
        return FRACTIONS
    wrong = out_of(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), frames)
    if wrong.mean() < SUSPICIOUS:
        return None
    half = boxes[:, 2:] / 2
    y_x = boxes[:, [1, 0, 3, 2]]
    readings = {
        CORNERS: boxes,
        CENTRES: np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1),
        EXCHANGED: np.concatenate([y_x[:, :2], y_x[:, :2] + y_x[:, 2:]], axis=1),
    }
    for kind, corners in readings.items():
        sensible = (corners[:, 2:] > corners[:, :2]).all(axis=1) & ~out_of(corners, frames)
        if sensible.mean() >= SENSIBLE:
            return kind
    return None


def same_boxes(records: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of rows ([P], [P]) whose boxes are one and the same, the second being the later; crowds apart.

    Boxes are sorted by image and left edge, so that only neighbours have to be compared.
    """
    corners = records.corners
    usable = np.flatnonzero(~records.crowd & (records.boxes[:, 2:] > 0).all(axis=1))
    order = usable[np.lexsort((corners[usable, 0], records.owners[usable]))]
    owners, sorted_corners = records.owners[order], torch.from_numpy(corners[order])
    left, slack = corners[order, 0], (1 - SAME) * records.boxes[order, 2] / SAME
    found: list[NDArray[np.int64]] = []
    rows, step = np.arange(len(order) - 1), 1
    while len(rows):
        others = rows + step
        near = (owners[rows] == owners[others]) & (left[others] - left[rows] <= slack[rows])
        rows, others = rows[near], others[near]
        same = (iou(sorted_corners[rows], sorted_corners[others]) >= SAME).numpy()
        found.append(np.sort(order[np.stack([rows[same], others[same]], axis=1)], axis=1))
        step += 1
        rows = rows[rows + step < len(order)]
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])
    return pairs[:, 0], pairs[:, 1]


def _areas(records: Records) -> Iterator[Finding]:
    wrong = np.flatnonzero(wrong_areas(records))
    boxes = records.boxes[:, 2:].prod(axis=1)
    places = [
        records.annotation(row, f"area {records.areas[row]:g}, box {boxes[row]:g}")
        for row in wrong[:MAX_PLACES].tolist()
    ]
    yield from AREA.found(records.split, places, count=len(wrong))


def wrong_areas(records: Records) -> NDArray[np.bool_]:
    """Return [A] which areas are far from that of the mask where there is one, else larger than the box or nothing."""
    boxes = records.boxes[:, 2:].prod(axis=1)
    given, masks = records.areas, records.mask_areas
    with np.errstate(invalid="ignore"):
        of_box = np.abs(given - boxes) <= 0.01 * boxes + ROUNDING
        of_mask = np.abs(given - masks) <= (WRONG_AREA - 1) * masks + 4 * np.sqrt(
            masks
        )  # rasterised, or by the outline
        within = np.isnan(masks) & (given > 0) & (given <= WRONG_AREA * boxes + ROUNDING)
    has_area: NDArray[np.bool_] = np.all(records.boxes[:, 2:] > 0, axis=1)
    return np.isfinite(given) & has_area & ~of_box & ~of_mask & ~within
