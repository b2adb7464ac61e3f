"""COCO's box metrics: collect detections image by image, then ask a backend for precision and recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detr.evaluation.backends import Backend, Curves, GroundTruth
from detr.files import write_with
from detr.structures import Classes, Detections

AREAS = ("all", "small", "medium", "large")  # by COCO: below 32², from 32² to 96², above 96² pixels
MAX_DETECTIONS = (1, 10, 100)  # of one class in one image, the best ones

UNDEFINED = -1.0  # COCO's own mark: no ground truth of that class or size. NaN would not be JSON.

# Name → (array, IoU threshold or all, area, cap), as COCOeval.summarize of cocodataset/cocoapi lists them.
METRICS: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARs": ("recall", None, "small", 100),
    "ARm": ("recall", None, "medium", 100),
    "ARl": ("recall", None, "large", 100),
}


@dataclass(frozen=True)
class Evaluation:
    """The outcome. T IoU thresholds, R recalls, K classes, A areas, M caps on detections (see `Curves`)."""

    metrics: dict[str, float]  # AP, AP50, … ARl; -1 where there is no ground truth of that size
    per_class: dict[str, float]  # name → AP, in the order of the category ids; -1 where the class does not occur
    precision: np.ndarray  # [T, R, K, A, M] float32
    recall: np.ndarray  # [T, K, A, M] float32
    scores: np.ndarray  # [T, R, K, A, M] float32
    iou_thresholds: np.ndarray  # [T]
    recall_thresholds: np.ndarray  # [R]
    category_ids: tuple[int, ...]  # [K]

    def save_precision_recall(self, path: Path | str) -> None:
        """Write the arrays, and the names of their axes, as a compressed .npz: enough to plot any curve later.

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
        write_with(path, lambda stream: np.savez_compressed(stream, **content))


class CocoEvaluator:
    """Average precision and recall of the images that were shown to it.

    Images of the ground truth that never came by (as with `trainer.overfit_batches`) are left out. The ground truth
    counts as it is given: the numbers are those of pycocotools on a file with that content.
    """

    def __init__(self, *, backend: Backend, ground_truth: Mapping[str, Any], classes: Classes) -> None:
        """
        Args:
            backend: which implementation computes; the numbers are the same.
            ground_truth: the COCO JSON of the split.
            classes: the way from class indices to the data set's own category ids.

        Raises:
            UserError: the backend's package is not installed.
        """
        self._ground_truth = GroundTruth(ground_truth, backend)
        self._category_of_label = np.array(classes.category_ids, dtype=np.int64)
        self._known_label = np.array([self._ground_truth.knows_category(i) for i in classes.category_ids], dtype=bool)
        self._names = unique_names(ground_truth["categories"])
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._boxes: dict[int, np.ndarray] = {}  # image id → [n, 4] float64 xywh
        self._scores: dict[int, np.ndarray] = {}
        self._categories: dict[int, np.ndarray] = {}

    def update(self, image_ids: list[int], detections: list[Detections]) -> None:
        """Take the detections of some images; those of a label that is no category of the ground truth are dropped.

        Raises:
            ValueError: an image is not in the ground truth, or came before.
        """
        for image_id, detected in zip(image_ids, detections, strict=True):
            if not self._ground_truth.knows_image(image_id):
                raise ValueError(f"image {image_id} is not in the ground truth")
            if image_id in self._boxes:
                raise ValueError(f"image {image_id} is evaluated twice")
            self._add(image_id, detected)

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's results format, in the order of the updates, at full precision.

        Each is image_id, category_id (the data set's own), bbox (xywh in pixels), score.
        """
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for image_id, boxes in self._boxes.items()
            for category, box, score in zip(
                self._categories[image_id].tolist(), boxes.tolist(), self._scores[image_id].tolist(), strict=True
            )
        ]

    def compute(self) -> Evaluation:
        """Evaluate everything since the last reset.

        Raises:
            ValueError: no image came by.
        """
        if not self._boxes:
            raise ValueError("nothing to evaluate: no image came by since the last reset")
        counts = [len(boxes) for boxes in self._boxes.values()]
        curves = self._ground_truth.evaluate(
            image_ids=list(self._boxes),
            detection_images=[image for image, count in zip(self._boxes, counts, strict=True) for _ in range(count)],
            detection_categories=np.concatenate(list(self._categories.values())).tolist(),
            boxes=np.concatenate(list(self._boxes.values())),
            scores=np.concatenate(list(self._scores.values())),
        )
        return _summarise(curves, self._names)

    def _add(self, image_id: int, detected: Detections) -> None:
        labels = detected.labels.detach().cpu().numpy()
        keep = self._known_label[labels]
        # In float64, so that x + width of the stored box is the corner that was predicted.
        boxes = detected.boxes.detach().cpu().double().numpy()[keep]
        self._boxes[image_id] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        self._scores[image_id] = detected.scores.detach().cpu().double().numpy()[keep]
        self._categories[image_id] = self._category_of_label[labels[keep]]


def _summarise(curves: Curves, names: Mapping[int, str]) -> Evaluation:
    average_precision = _select(curves, "AP")  # [T, R, K]
    per_class = [_mean(average_precision[..., index]) for index in range(len(names))]
    return Evaluation(
        metrics={name: _mean(_select(curves, name)) for name in METRICS},
        per_class=dict(zip(names.values(), per_class, strict=True)),
        precision=curves.precision.astype(np.float32),
        recall=curves.recall.astype(np.float32),
        scores=curves.scores.astype(np.float32),
        iou_thresholds=curves.iou_thresholds,
        recall_thresholds=curves.recall_thresholds,
        category_ids=tuple(names),
    )


def _select(curves: Curves, metric: str) -> np.ndarray:
    """The values that a metric is the mean of: [T or 1, (R,) K]."""
    array, iou, area, cap = METRICS[metric]
    values = getattr(curves, array)[..., AREAS.index(area), MAX_DETECTIONS.index(cap)]
    return values if iou is None else values[np.isclose(curves.iou_thresholds, iou)]


def _mean(values: np.ndarray) -> float:
    """Over what is defined."""
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def unique_names(categories: list[dict[str, Any]]) -> dict[int, str]:
    """Category id → name, sorted by id; a name that several categories share gets the id behind it."""
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    occurrences = Counter(names.values())
    return {i: name if occurrences[name] == 1 else f"{name} ({i})" for i, name in sorted(names.items())}
