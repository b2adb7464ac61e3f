"""Detected masks against those of the ground truth: as they come where the backend can do that, else in the end."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from detr.data.segmentations import RLE
from detr.evaluation.backends import Curves, GroundTruth, curves, detection, silence


class MaskMatching(ABC):
    """Takes the masks of one image after the other."""

    def __init__(self, truth: GroundTruth) -> None:
        self.truth = truth

    def add(
        self, image_id: int, categories: np.ndarray, boxes: np.ndarray, scores: np.ndarray, rles: Sequence[RLE]
    ) -> None:
        """Add detections of one image: category ids [n], boxes [n, 4] xywh, scores [n] and masks [n].

        As with every results file that has boxes beside masks, COCO takes a detection for small, medium or large by
        the area of its box; that concerns nothing but which misses count for APs, APm and APl.
        """
        self._add(image_id, self.truth.rows([image_id] * len(boxes), categories.tolist(), boxes, scores), rles)

    @abstractmethod
    def _add(self, image_id: int, rows: np.ndarray, rles: Sequence[RLE]) -> None: ...

    @abstractmethod
    def compute(self) -> Curves:
        """Evaluate everything so far; asking twice is fine."""


class StreamedMatching(MaskMatching):
    """Matches at once and keeps the outcome only (hotcoco); masks are gone when `add` returns."""

    def __init__(self, truth: GroundTruth) -> None:
        super().__init__(truth)
        import hotcoco

        self._stream = hotcoco.StreamingEval(truth.categories, "segm")

    def _add(self, image_id: int, rows: np.ndarray, rles: Sequence[RLE]) -> None:
        image, annotations = self.truth.image(image_id)
        self._stream.update([image], annotations, rows, segmentation=list(rles))

    def compute(self) -> Curves:
        with silence():
            evaluation = copy.copy(self._stream).finalize()
            evaluation.accumulate()
        return curves(evaluation)


class HeldMatching(MaskMatching):
    """Keeps all run lengths in memory and matches in the end (pycocotools, faster_coco_eval)."""

    def __init__(self, truth: GroundTruth) -> None:
        super().__init__(truth)
        self._image_ids: list[int] = []
        self._detections: list[dict[str, Any]] = []

    def _add(self, image_id: int, rows: np.ndarray, rles: Sequence[RLE]) -> None:
        self._image_ids.append(image_id)
        for row, rle in zip(rows.tolist(), rles, strict=True):
            self._detections.append(detection(len(self._detections) + 1, row) | {"segmentation": rle})

    def compute(self) -> Curves:
        return self.truth.match(self._image_ids, self.truth.load(self._detections), "segm")


def mask_matching(truth: GroundTruth) -> MaskMatching:
    """Return the best that the ground truth's backend can do."""
    return (StreamedMatching if truth.backend == "hotcoco" else HeldMatching)(truth)
