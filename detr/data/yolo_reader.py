"""YOLO's text files read into annotations: a file an image, a line an object.

A line is "class x y width height", centre and sides of the box, or "class x y x y x y …", a polygon. All but the class
are fractions of the image, which is seen upright.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detr.data.annotations import Annotations
from detr.data.image_files import read_lines
from detr.data.images import image_size
from detr.data.segmentations import NOTHING, POLYGONS, CocoSegmentations
from detr.errors import UserError

TOLERANCE = 0.01  # beyond the image's edge: exporters round
DECIMALS = 9  # of a pixel: whole pixels, written as fractions, are whole again


@dataclass(frozen=True, slots=True)
class Row:
    """Holds one line."""

    category_id: int
    box: tuple[float, float, float, float]  # x, y, width, height in pixels
    area: float  # in square pixels
    polygon: list[float] | None  # x, y, x, y … in pixels


def read_yolo(
    files: Sequence[Path],
    labels: Sequence[Path | None],
    categories: Mapping[int, str],
    *,
    masks: bool = False,
    keypoints: bool = False,
    annotated: bool = True,
) -> Annotations:
    """Read the labels of images, which are numbered from 1.

    Args:
        files: [I] the images, of which the heads are read.
        labels: [I] the text file of each; None: it has no objects.
        categories: class → name.
        masks: whether polygons are kept as masks.
        keypoints: whether boxes have keypoints behind them, which are left out.
        annotated: False: there are no labels, images only.

    Raises:
        UserError: a line is not what it should be, with file, line, and what was expected; an image is broken.
    """
    sizes = [image_size(str(file)) for file in files]
    rows: list[Row] = []
    owners: list[int] = []
    for index, (path, size) in enumerate(zip(labels, sizes, strict=True)):
        found = [] if path is None else read_labels(path, size, categories, keypoints=keypoints)
        rows += found
        owners += [index] * len(found)
    return Annotations.of_boxes(
        files=[str(file) for file in files],
        sizes=sizes,
        image_index=owners,
        boxes=[row.box for row in rows],
        category_ids=[row.category_id for row in rows],
        categories=dict(categories),
        areas=[row.area for row in rows],
        segmentations=_segmentations(rows) if masks else None,
        annotated=annotated,
    )


def read_labels(
    path: Path, size: tuple[int, int], categories: Mapping[int, str], *, keypoints: bool = False
) -> list[Row]:
    """Return the objects in one text file; `size`: (height, width) of its image. Errors as for `read_yolo`."""
    rows = []
    for number, line in enumerate(read_lines(path, "label file"), start=1):
        if line:
            try:
                rows.append(_row(line.split(), size, categories, keypoints))
            except _BrokenError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    return rows


class _BrokenError(Exception):
    """What was expected of a line, and what it has."""


def _row(words: list[str], size: tuple[int, int], categories: Mapping[int, str], keypoints: bool) -> Row:
    height, width = size
    category_id = _class(words[0], categories)
    numbers = [_fraction(word) for word in (words[1:5] if keypoints else words[1:])]
    if len(numbers) == 4:
        x, y, w, h = (value * side for value, side in zip(numbers, (width, height, width, height), strict=True))
        box = (_rounded(x - w / 2), _rounded(y - h / 2), _rounded(w), _rounded(h))
        return Row(category_id, box, box[2] * box[3], None)
    if len(numbers) < 6 or len(numbers) % 2:
        raise _BrokenError(
            "expected a class and four numbers (a box: centre x, y, width, height), or a class and at least three "
            f"points x y (a polygon), got {len(words)} values"
        )
    polygon = [_rounded(value * (height if index % 2 else width)) for index, value in enumerate(numbers)]
    xs, ys = np.array(polygon[0::2]), np.array(polygon[1::2])
    left, top = float(xs.min()), float(ys.min())
    box = (left, top, _rounded(float(xs.max()) - left), _rounded(float(ys.max()) - top))
    area = abs(float(xs @ np.roll(ys, -1) - ys @ np.roll(xs, -1))) / 2
    return Row(category_id, box, area, polygon)


def _class(word: str, categories: Mapping[int, str]) -> int:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise _BrokenError(f"expected the number of a class first, got {word[:40]!r}")
    if int(value) not in categories:
        known = f"{min(categories)} to {max(categories)}" if categories else "none"
        raise _BrokenError(f"expected a class that names has ({known}), got {int(value)}")
    return int(value)


def _fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not -TOLERANCE <= value <= 1 + TOLERANCE:  # NaN compares False
        hint = "; are these pixels?" if value > 1 and math.isfinite(value) else ""
        raise _BrokenError(f"expected fractions of the image from 0 to 1, got {word[:40]!r}{hint}")
    return value


def _rounded(value: float) -> float:
    return round(value, DECIMALS)


def _segmentations(rows: Sequence[Row]) -> CocoSegmentations:
    polygons = [row.polygon or [] for row in rows]
    stops = np.cumsum([len(polygon) for polygon in polygons], dtype=np.int64) * 8
    return CocoSegmentations(
        content=np.array([value for polygon in polygons for value in polygon], dtype=np.float64).view(np.uint8),
        starts=np.concatenate([[0], stops[:-1]]).astype(np.int64) if rows else stops,
        stops=stops,
        kinds=np.array([POLYGONS if polygon else NOTHING for polygon in polygons], dtype=np.uint8),
    )
