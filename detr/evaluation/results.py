"""What was detected on a split: boxes in arrays, masks in a temporary file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detr.data.segmentations import RLE
from detr.errors import UserError


class Results:
    """Collects detections in COCO's results format, in the order in which they came.

    Each is image_id, category_id (the data set's own), bbox (xywh in pixels), score, and, where masks were given, the
    segmentation as compressed run lengths. Those wait in a temporary file: iterating reads them one by one, so that
    neither collecting nor writing them takes more memory for more images.
    """

    def __init__(self) -> None:
        self.boxes: dict[int, NDArray[np.float64]] = {}  # image id → [n, 4] xywh
        self.scores: dict[int, NDArray[np.float64]] = {}
        self.categories: dict[int, NDArray[np.int64]] = {}
        self._masks: MaskFile | None = None
        self._places: dict[int, int] = {}  # image id → where its masks begin in the file

    @property
    def has_masks(self) -> bool:
        return self._masks is not None

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Return what a predictions.json holds; masks if each row has one.

        Raises:
            ValueError, TypeError: for what are no boxes, or no run lengths.
            UserError: the temporary file cannot be written.
        """
        images: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            images.setdefault(row["image_id"], []).append(row)
        results = cls()
        masks = all("segmentation" in row for own in images.values() for row in own)
        for image_id, own in images.items():
            results.add(
                image_id,
                np.array([row["category_id"] for row in own], dtype=np.int64),
                np.array([row["bbox"] for row in own], dtype=np.float64).reshape(len(own), 4),
                np.array([row["score"] for row in own], dtype=np.float64),
                [_compressed(row["segmentation"]) for row in own] if masks else None,
            )
        return results

    def add(
        self,
        image_id: int,
        categories: NDArray[np.int64],
        boxes: NDArray[np.float64],
        scores: NDArray[np.float64],
        rles: Sequence[RLE] | None = None,
    ) -> None:
        """Add one image's detections; with masks for every image, or for none.

        Raises:
            ValueError: the image came before.
            UserError: the temporary file cannot be written.
        """
        if image_id in self.boxes:
            raise ValueError(f"image {image_id} is evaluated twice")
        self.boxes[image_id], self.scores[image_id], self.categories[image_id] = boxes, scores, categories
        if rles is not None:
            if self._masks is None:
                self._masks = MaskFile()
            self._places[image_id] = self._masks.append(rles)

    def masks_of(self, image_id: int) -> list[RLE]:
        """Return the masks of an image's detections, in their order; none of an image that never came."""
        if self._masks is None or image_id not in self._places:
            return []
        return self._masks.read(self._places[image_id], len(self.boxes[image_id]))

    def __len__(self) -> int:
        return sum(map(len, self.boxes.values()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        masks = None if self._masks is None else iter(self._masks)
        for image_id, boxes in self.boxes.items():
            rows = zip(self.categories[image_id].tolist(), boxes.tolist(), self.scores[image_id].tolist(), strict=True)
            for category, box, score in rows:
                result = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                if masks is not None:
                    result["segmentation"] = next(masks)
                yield result


class MaskFile:
    """Keeps run lengths on the disk, a line each; the file goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self._stream = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the object

    def append(self, rles: Sequence[RLE]) -> int:
        """Append run lengths, and return where they begin. Raises UserError if the disk is full."""
        try:
            place = self._stream.seek(0, os.SEEK_END)
            self._stream.writelines(json.dumps(rle).encode() + b"\n" for rle in rles)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: no room for the masks until predictions.json is written "
                f"({error.strerror or error}); free some space, or set TMPDIR to another folder"
            ) from error
        return place

    def read(self, place: int, count: int) -> list[RLE]:
        """Return so many run lengths from a place on."""
        self._stream.seek(place)
        return [json.loads(self._stream.readline()) for _ in range(count)]

    def __iter__(self) -> Iterator[RLE]:
        """All of them, in order, for one reader at a time."""
        self._stream.flush()
        self._stream.seek(0)
        for line in self._stream:
            yield json.loads(line)


def _compressed(segmentation: Any) -> RLE:
    """A mask of a predictions.json. Raises TypeError if it is none that we write."""
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise TypeError(f"segmentation: expected compressed run lengths, got {str(segmentation)[:60]}")
    return segmentation
