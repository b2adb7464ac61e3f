"""What the annotations of a split say, in arrays: also where a training would refuse them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detr.checking.finding import MAX_PLACES, Finding, Kind, Place
from detr.data.annotations import Annotations

Looks = NDArray[np.void]  # [I] what the image files are like, of detr.checking.pixels.LOOK
Rows = NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True)
class Records:
    """Holds I images and their A annotations, as far as they can be read."""

    split: str
    source: str  # the annotation files
    image_ids: NDArray[np.int64]  # [I]
    sizes: NDArray[np.int64]  # [I, 2] (height, width) as the annotations say; 0 where they do not
    files: NDArray[np.str_]  # [I]
    owners: NDArray[np.int64]  # [A] index of the image
    annotation_ids: NDArray[np.int64]  # [A]
    category_ids: NDArray[np.int64]  # [A]
    boxes: NDArray[np.float64]  # [A, 4] xywh in pixels
    areas: NDArray[np.float64]  # [A]; NaN: not given
    mask_areas: NDArray[np.float64]  # [A]; NaN: no mask, or not looked at
    crowd: NDArray[np.bool_]  # [A]
    categories: dict[int, str]
    annotated: bool = True

    @classmethod
    def of(cls, split: str, annotations: Annotations) -> Records:
        """Convert what a reader of any format has read."""
        return cls(
            split=split,
            source="",
            image_ids=annotations.image_ids,
            sizes=annotations.sizes,
            files=annotations.files,
            owners=annotations.image_index,
            annotation_ids=annotations.annotation_ids,
            category_ids=annotations.category_ids,
            boxes=annotations.boxes,
            areas=annotations.areas,
            mask_areas=np.full(len(annotations.boxes), np.nan),
            crowd=annotations.crowd,
            categories=annotations.categories,
            annotated=annotations.annotated,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def frames(self) -> NDArray[np.float64]:
        """Return [A, 2] (width, height) of the image of each box; NaN where it is unknown."""
        frames = self.sizes[self.owners][:, ::-1].astype(np.float64)
        frames[(frames <= 0).any(axis=1)] = np.nan
        return frames

    @functools.cached_property
    def corners(self) -> NDArray[np.float64]:
        """Return [A, 4] xyxy in pixels, not clipped."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)

    @functools.cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Return [A] which objects a training sees: no crowds, and some area inside the image."""
        corners, frames = self.corners, self.frames
        low, high = np.maximum(corners[:, :2], 0), np.minimum(corners[:, 2:], frames)
        return ~self.crowd & (high > low).all(axis=1)

    def rows_of(self, index: int) -> NDArray[np.int64]:
        """Return the annotations of one image."""
        order, starts = self._by_image
        return order[starts[index] : starts[index + 1]]

    @functools.cached_property
    def _by_image(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.owners, kind="stable")
        return order, np.searchsorted(self.owners[order], np.arange(len(self) + 1))

    def image(self, index: int, detail: str = "") -> Place:
        return Place(str(self.files[index]), int(self.image_ids[index]), detail=detail)

    def annotation(self, row: int, detail: str | None = None) -> Place:
        """Return where an annotation is; its box is the detail unless there is another."""
        index = self.owners[row]
        box = f"box [{', '.join(f'{value:g}' for value in self.boxes[row])}]" if detail is None else detail
        return Place(str(self.files[index]), int(self.image_ids[index]), int(self.annotation_ids[row]), box)

    def find(self, kind: Kind, rows: Rows) -> list[Finding]:
        """Return at most one finding: the annotations of a fault."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        places = [self.annotation(row) for row in rows[:MAX_PLACES].tolist()]
        return list(kind.found(self.split, places, count=len(rows)))

    def find_images(self, kind: Kind, indices: Rows, details: list[str] | None = None) -> list[Finding]:
        """Return at most one finding: the images of a fault; `details` has one text an index."""
        indices = np.flatnonzero(indices) if indices.dtype == np.bool_ else indices
        first = indices[:MAX_PLACES].tolist()
        places = [self.image(index, details[n] if details else "") for n, index in enumerate(first)]
        return list(kind.found(self.split, places, count=len(indices)))
