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

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Return what a predictions.json holds, without masks. Raises ValueError or TypeError for what are no boxes."""
        images: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            images.setdefault(row["image_id"], []).append(row)
        results = cls()
        for image_id, own in images.items():
            results.add(
                image_id,
                np.array([row["category_id"] for row in own], dtype=np.int64),
                np.array([row["bbox"] for row in own], dtype=np.float64).reshape(len(own), 4),
                np.array([row["score"] for row in own], dtype=np.float64),
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
            self._masks.append(rles)

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

    def append(self, rles: Sequence[RLE]) -> None:
        """Append run lengths. Raises UserError if the disk is full."""
        try:
            self._stream.seek(0, os.SEEK_END)
            self._stream.writelines(json.dumps(rle).encode() + b"\n" for rle in rles)
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: no room for the masks until predictions.json is written "
                f"({error.strerror or error}); free some space, or set TMPDIR to another folder"
            ) from error

    def __iter__(self) -> Iterator[RLE]:
        """All of them, in order, for one reader at a time."""
        self._stream.flush()
        self._stream.seek(0)
        for line in self._stream:
            yield json.loads(line)
