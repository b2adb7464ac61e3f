"""Masks of COCO annotations: whether they can be read, and whether they belong to their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hotcoco.mask
import numpy as np

from detr.checking.finding import Kind, shown

NO_MASK = Kind(
    "mask-missing", "error", "annotations without a mask, but masks are asked for", "set dataset.masks=false"
)
MALFORMED_MASK = Kind(
    "malformed-mask", "damage", "masks that cannot be read", "export them again; fix=true leaves the boxes alone"
)
DEGENERATE = Kind(
    "degenerate-polygon",
    "damage",
    "polygons without an inside: fewer than three points, or no area",
    "draw them again; fix=true removes these polygons",
)
RUN_LENGTH_SIZE = Kind(
    "run-length-size", "damage", "run lengths of another size than the image's", "export the masks at the image's size"
)
MASK_BOX = Kind("mask-off-box", "damage", "masks that do not fit their boxes", "look at them: one of the two is wrong")

MIN_FIT = 0.5  # IoU of a box and what surrounds its mask; drawn by hand, or around hidden parts, they still reach it
MIN_AREA = 0.5  # square pixels of a polygon; less than that is a line

Fault = tuple[Kind, str]


def examine(
    segmentation: Any, size: tuple[int, int], box: Sequence[float], *, needed: bool
) -> tuple[Fault | None, float]:
    """Return what is wrong with the mask of one annotation, if anything, and its area in square pixels, NaN without.

    Args:
        segmentation: as in the file.
        size: (height, width) of the image; 0 where they are not known.
        box: xywh in pixels.
        needed: whether a training would read it.
    """
    nothing = float("nan")
    if not segmentation:
        return ((NO_MASK, "") if needed else None), nothing
    if isinstance(segmentation, dict):
        fault, area, bounds = _run_lengths(segmentation, size)
    elif isinstance(segmentation, list):
        fault, area, bounds = _polygons(segmentation)
    else:
        return (MALFORMED_MASK, shown(segmentation)), nothing
    if fault is None and _fit(box, bounds) < MIN_FIT:
        around = ", ".join(f"{value:g}" for value in bounds)
        fault = MASK_BOX, f"box [{', '.join(f'{value:g}' for value in box)}], mask within [{around}]"
    return fault, area


def _polygons(polygons: list[Any]) -> tuple[Fault | None, float, list[float]]:
    total, parts = 0.0, []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError):
            return (MALFORMED_MASK, shown(polygon)), float("nan"), []
        if not np.isfinite(points).all() or points.ndim != 1 or len(points) % 2:
            return (MALFORMED_MASK, shown(polygon)), float("nan"), []
        x, y = points[0::2], points[1::2]
        area = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
        if len(x) < 3 or area < MIN_AREA:
            return (DEGENERATE, shown(polygon)), float("nan"), []
        total += area
        parts.append(points.reshape(-1, 2))
    corners = np.concatenate(parts)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return None, total, [*low.tolist(), *(high - low).tolist()]


def _run_lengths(rle: dict[str, Any], size: tuple[int, int]) -> tuple[Fault | None, float, list[float]]:
    found, counts = rle.get("size"), rle.get("counts")
    if found != list(size):
        detail = f"size {shown(found)}, image {list(size)} (height, width)"
        return (RUN_LENGTH_SIZE, detail), float("nan"), []
    try:
        if isinstance(counts, list):
            if sum(counts) != math.prod(size):
                return (RUN_LENGTH_SIZE, f"{sum(counts)} pixels of {math.prod(size)}"), float("nan"), []
            rle = hotcoco.mask.frPyObjects({"size": list(size), "counts": counts}, *size)
        elif not isinstance(counts, str):
            return (MALFORMED_MASK, f'"counts": {shown(counts)}'), float("nan"), []
        return None, float(hotcoco.mask.area(rle)), [float(value) for value in hotcoco.mask.toBbox(rle)]
    except (TypeError, ValueError, OverflowError) as error:
        return (MALFORMED_MASK, shown(str(error))), float("nan"), []


def _fit(box: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two xywh boxes; 1 where either has no area, which is another fault."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    areas = box[2] * box[3], other[2] * other[3]
    if min(box[2], box[3], *areas) <= 0:
        return 1.0
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / (sum(areas) - inside)
