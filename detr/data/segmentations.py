"""Instance masks of annotations: kept compactly as the file has them, rasterised when somebody asks.

Format: https://cocodataset.org/#format-data, "segmentation": polygons, or run lengths (RLE) in column order that begin
with the pixels outside, as a list or as the string of maskApi.c (cocodataset/cocoapi). Rasterising and run lengths are
hotcoco's, whose masks are those of pycocotools to the pixel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import hotcoco.mask
import numpy as np
from numpy.typing import NDArray

from detr.errors import UserError

MAX_OUTSIDE = 100_000  # pixels; a polygon's corner that far out is no coordinate, and its outline would fill the memory
POLYGONS, RUN_LENGTHS, NOTHING = 0, 1, 2  # what a record holds

Size = tuple[int, int]  # (height, width)
RLE = dict[str, Any]  # "size": [height, width], "counts": run lengths, compressed, as text: JSON can take it
Rows = NDArray[np.int64] | NDArray[np.bool_] | slice  # whatever picks rows of a numpy array


class Segmentations(ABC):
    """Holds the masks of A annotations, a row each; what `Annotations.segmentations` refers to.

    Forked workers share it: implementations hold arrays, not a Python object an annotation.
    """

    @abstractmethod
    def take(self, rows: Rows) -> Self:
        """Return only these rows, in this order; cheap."""

    @abstractmethod
    def masks(self, rows: Rows, size: Size) -> NDArray[np.bool_]:
        """Return [n, height, width] the masks of rows that belong to one image; `size` is its size in the file.

        Raises:
            UserError: what the masks are read from is broken.
        """

    def rles(self, rows: Rows, size: Size) -> list[RLE]:
        """Return the same [n] masks, encoded."""
        return encode(self.masks(rows, size))


@dataclass(frozen=True)
class CocoSegmentations(Segmentations):
    """Holds polygons and run lengths of COCO JSON in one array of bytes; rows are windows of it, so `take` copies none.

    A record of polygons is their coordinates x, y, x, y … in float64, with a NaN between two polygons; one of run
    lengths is the compressed string. Build it with `read_segmentations`.
    """

    content: NDArray[np.uint8]
    starts: NDArray[np.int64]  # [A]
    stops: NDArray[np.int64]  # [A]
    kinds: NDArray[np.uint8]  # [A] POLYGONS, RUN_LENGTHS or, where a mask may be missing, NOTHING

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, rows: Rows) -> Self:
        return replace(self, starts=self.starts[rows], stops=self.stops[rows], kinds=self.kinds[rows])

    def masks(self, rows: Rows, size: Size) -> NDArray[np.bool_]:
        result = np.zeros((len(self.starts[rows]), *size), dtype=np.bool_)
        for mask, rle in zip(result, self.rles(rows, size), strict=True):
            mask[:] = hotcoco.mask.decode(rle)
        return result

    def rles(self, rows: Rows, size: Size) -> list[RLE]:
        chosen = self.take(rows)
        return [chosen._rle(index, size) for index in range(len(chosen))]

    def polygons(self, index: int) -> list[list[float]]:
        """Return the polygons x, y, x, y … of one row, of whatever kind that is POLYGONS."""
        coordinates = np.frombuffer(self._record(index), dtype=np.float64)
        return [part[1:].tolist() for part in np.split(np.concatenate([[np.nan], coordinates]), _gaps(coordinates))]

    def _rle(self, index: int, size: Size) -> RLE:
        if self.kinds[index] == RUN_LENGTHS:
            return {"size": list(size), "counts": self._record(index).decode("ascii")}
        return _text(hotcoco.mask.merge(hotcoco.mask.frPyObjects(self.polygons(index), *size)))

    def _record(self, index: int) -> bytes:
        return self.content[self.starts[index] : self.stops[index]].tobytes()

    @classmethod
    def join(cls, parts: Sequence[CocoSegmentations]) -> CocoSegmentations:
        """Return the rows of all, one after the other."""
        shifts = np.cumsum([0, *(len(part.content) for part in parts[:-1])])
        return cls(
            content=np.concatenate([part.content for part in parts]),
            starts=np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
            stops=np.concatenate([part.stops + shift for part, shift in zip(parts, shifts, strict=True)]),
            kinds=np.concatenate([part.kinds for part in parts]),
        )


def read_segmentations(
    path: Path,
    items: Sequence[dict[str, Any]],
    annotation_ids: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    optional: bool = False,
) -> CocoSegmentations:
    """Read the "segmentation" of each of A annotations in a COCO file.

    Args:
        path: of the file, for messages.
        items: [A] the annotations.
        annotation_ids: [A] what messages call them.
        sizes: [A, 2] (height, width) of their images.
        optional: whether one may be missing.

    Raises:
        UserError: a segmentation is missing, of no known type, has a polygon of fewer than three points or a
            coordinate that is none, or run lengths that do not fill the image.
    """
    content = bytearray()
    starts, stops = np.zeros(len(items), dtype=np.int64), np.zeros(len(items), dtype=np.int64)
    kinds = np.zeros(len(items), dtype=np.uint8)
    for row, (item, (height, width)) in enumerate(zip(items, sizes.tolist(), strict=True)):
        segmentation = item.get("segmentation")
        if optional and not segmentation:
            kinds[row] = NOTHING
            continue
        try:
            kinds[row] = RUN_LENGTHS if isinstance(segmentation, dict) else POLYGONS
            record = _record(segmentation, (height, width))
        except _BrokenError as error:
            raise UserError(f'{path}: annotation {annotation_ids[row]}: "segmentation" {error}') from None
        starts[row] = len(content)
        content += record
        stops[row] = len(content)
    return CocoSegmentations(np.frombuffer(content, dtype=np.uint8), starts, stops, kinds)


def encode(masks: NDArray[np.bool_]) -> list[RLE]:
    """Compress [n, h, w] masks."""
    return [_text(hotcoco.mask.encode(mask)) for mask in masks]


def run_lengths(segmentation: Any, size: Size) -> RLE:
    """Return the "segmentation" of an annotation as compressed run lengths: polygons, or run lengths of either kind."""
    if isinstance(segmentation, list):
        return _text(hotcoco.mask.merge(hotcoco.mask.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        return _text(hotcoco.mask.frPyObjects(segmentation, *size))
    return segmentation


def decode(rle: RLE) -> NDArray[np.bool_]:
    """Return the [h, w] mask."""
    return hotcoco.mask.decode(rle).astype(np.bool_)


class _BrokenError(Exception):
    """What is wrong with a segmentation, and how to mend it."""


def _record(segmentation: object, size: Size) -> bytes:
    if segmentation is None or segmentation == []:
        raise _BrokenError("is missing, but masks are asked for; add it, or set dataset.masks=false")
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise _BrokenError(
            f"is {_shown(segmentation)}; expected a list of polygons [[x, y, x, y, …], …], "
            'or run lengths {"size": …, "counts": …}'
        )
    return _polygons(segmentation)


def _polygons(polygons: list[list[Any]]) -> bytes:
    parts = [_coordinates(polygon) for polygon in polygons]
    gap = np.array([np.nan])
    return np.concatenate([piece for part in parts for piece in (gap, part)][1:]).tobytes()


def _coordinates(polygon: list[Any]) -> NDArray[np.float64]:
    if not set(map(type, polygon)) <= {int, float}:
        wrong = next(value for value in polygon if type(value) not in (int, float))
        raise _BrokenError(f"has the coordinate {_shown(wrong)}; expected numbers x, y, x, y, … in pixels")
    if len(polygon) % 2:
        raise _BrokenError(f"has a polygon of {len(polygon)} numbers; expected an even number: x, y, x, y, …")
    if len(polygon) < 6:
        raise _BrokenError(f"has a polygon of {len(polygon) // 2} points; expected at least three: remove or redraw it")
    coordinates = np.array(polygon, dtype=np.float64)
    inside = np.abs(coordinates) < MAX_OUTSIDE  # NaN compares False
    if not inside.all():
        raise _BrokenError(f"has the coordinate {coordinates[~inside][0]}; expected finite pixel coordinates")
    return coordinates


def _run_lengths(rle: dict[str, Any], size: Size) -> bytes:
    if rle.get("size") != list(size):
        raise _BrokenError(
            f"has run lengths of size {_shown(rle.get('size'))}, but the image is {list(size)} (height, width); "
            "export the masks at the image's size"
        )
    counts = rle.get("counts")
    if isinstance(counts, list):
        _check_fills(counts, size)
        return hotcoco.mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    if not isinstance(counts, str):
        raise _BrokenError(
            f"has the counts {_shown(counts)}; expected a list of run lengths, or their compressed string"
        )
    _check_fills(_decompressed(counts), size)
    return counts.encode("ascii")


def _decompressed(counts: str) -> list[int]:
    """The run lengths in a compressed string, as `rleFrString` of maskApi.c reads them.

    Each character has five bits, the lowest ones first, and a mark that more follow; the last one's highest bit is the
    sign. From the fourth on, a number is the difference to the run before the last. hotcoco and pycocotools would
    decode a damaged string to some other mask.
    """
    characters = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    last = (characters & 32) == 0
    first = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(characters)) - np.repeat(first, np.diff([*first, len(characters)]))
    if not len(characters) or not last[-1] or characters.min() < 0 or characters.max() > 63 or place.max() > 6:
        raise _BrokenError(f"has counts that are not compressed run lengths: {_shown(counts)}; export them again")
    negative = last & ((characters & 16) != 0)
    digits = ((characters & 31) - 32 * negative) << (5 * place)
    numbers = np.add.reduceat(digits, first)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers.tolist()


def _check_fills(counts: list[Any], size: Size) -> None:
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise _BrokenError("has counts that are not run lengths; expected whole numbers from 0: export the masks again")
    if sum(counts) != math.prod(size):
        raise _BrokenError(
            f"has run lengths of {sum(counts)} pixels, but the image has {size[0]} × {size[1]} = {math.prod(size)}; "
            "export the masks at the image's size"
        )


def _gaps(coordinates: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where, with one more value put in front, each polygon but the first begins with its NaN."""
    return np.flatnonzero(np.isnan(coordinates)) + 1


def _text(rle: dict[str, Any]) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _shown(value: object) -> str:
    return repr(value)[:60]
