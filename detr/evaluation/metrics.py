"""What an evaluation came to: the numbers, and the curves that they are read off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detr.evaluation.names import UNDEFINED
from detr.files import write_with

AREAS = ("all", "small", "medium", "large")  # by COCO: below 32², from 32² to 96², above 96² pixels
MAX_DETECTIONS = (1, 10, 100)  # of one class in one image, the best ones


@dataclass(frozen=True)
class PanopticEvaluation:
    """Holds the outcome, in percent; -1 where there is neither ground truth nor prediction."""

    metrics: dict[str, float]  # PQ, SQ, RQ, PQ_things, … RQ_stuff
    per_class: dict[str, float]  # name → PQ, in the order of the category ids

    def named(self) -> dict[str, float]:
        """Return every number under one name for rows, such as PQ, PQ_things, PQ/CLASS."""
        return defined(self.metrics | {f"PQ/{name}": value for name, value in self.per_class.items()})


@dataclass(frozen=True)
class Evaluation:
    """Holds the outcome. T IoU thresholds, R recalls, K classes, A areas, M caps on detections (see `Curves`)."""

    metrics: dict[str, float]  # AP, AP50, … ARl; -1 where there is no ground truth of that size
    per_class: dict[str, float]  # name → AP, in the order of the category ids; -1 where the class does not occur
    precision: np.ndarray  # [T, R, K, A, M] float32
    recall: np.ndarray  # [T, K, A, M] float32
    scores: np.ndarray  # [T, R, K, A, M] float32
    iou_thresholds: np.ndarray  # [T]
    recall_thresholds: np.ndarray  # [R]
    category_ids: tuple[int, ...]  # [K]
    segm: Evaluation | None = None  # the same of masks, where they are evaluated
    panoptic: PanopticEvaluation | None = None  # of segments, where they are evaluated

    def to_dict(self) -> dict[str, Any]:
        """Return metrics.json: the numbers, per_class, those of masks under "segm", and panoptic quality."""
        content: dict[str, Any] = defined(self.metrics) | {"per_class": defined(self.per_class)}
        if self.segm is not None:
            content["segm"] = self.segm.to_dict()
        if self.panoptic is not None:
            content |= defined(self.panoptic.metrics) | {"PQ_per_class": defined(self.panoptic.per_class)}
        return content

    def named(self) -> dict[str, float]:
        """Return every number under one name for rows, such as AP, AP/CLASS, segm/AP, segm/AP/CLASS, PQ, PQ/CLASS."""
        numbers = defined(self.metrics | {f"AP/{name}": value for name, value in self.per_class.items()})
        segm = {} if self.segm is None else self.segm.named()
        panoptic = {} if self.panoptic is None else self.panoptic.named()
        return numbers | {f"segm/{name}": value for name, value in segm.items()} | panoptic

    def save_precision_recall(self, path: Path | str) -> None:
        """Write the arrays, and the names of their axes, as a compressed .npz: enough to plot any curve later.

        Those of masks are called segm_precision, segm_recall and segm_scores.

        Raises:
            UserError: the file cannot be written.
        """
        content: dict[str, Any] = {
            "precision": self.precision,
            "recall": self.recall,
            "scores": self.scores,
            "iou_thresholds": self.iou_thresholds,
            "recall_thresholds": self.recall_thresholds,
            "category_ids": np.array(self.category_ids, dtype=np.int64),
            "classes": np.array(list(self.per_class), dtype=str),
            "areas": np.array(AREAS),
            "max_detections": np.array(MAX_DETECTIONS),
        }
        if self.segm is not None:
            content |= {f"segm_{name}": getattr(self.segm, name) for name in ("precision", "recall", "scores")}
        write_with(path, lambda stream: np.savez_compressed(stream, **content))


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that exist, as plain numbers, which checkpoints and JSON can hold.

    What has no ground truth has no number.
    """
    return {name: float(value) for name, value in metrics.items() if value != UNDEFINED}


def unique_names(categories: list[dict[str, Any]]) -> dict[int, str]:
    """Return category id → name, sorted by id; a name that several categories share gets the id after it."""
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    occurrences = Counter(names.values())
    return {i: name if occurrences[name] == 1 else f"{name} ({i})" for i, name in sorted(names.items())}
