"""COCO's metrics of boxes and masks: collect detections image by image, then ask a backend for precision and recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detr.data.segmentations import RLE, encode
from detr.errors import UserError
from detr.evaluation.backends import Backend, Curves, GroundTruth
from detr.evaluation.mask_matching import mask_matching
from detr.evaluation.results import Results
from detr.files import write_with
from detr.structures import Classes, Detections

if TYPE_CHECKING:
    from detr.evaluation.panoptic_quality import PanopticEvaluation

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
    segm: Evaluation | None = None  # the same of masks, where they are evaluated
    panoptic: PanopticEvaluation | None = None  # of segments, where they are evaluated

    def to_dict(self) -> dict[str, Any]:
        """For metrics.json: the numbers, per_class, those of masks under "segm", and panoptic quality."""
        content: dict[str, Any] = self.metrics | {"per_class": self.per_class}
        if self.segm is not None:
            content["segm"] = self.segm.to_dict()
        if self.panoptic is not None:
            content |= self.panoptic.metrics | {"PQ_per_class": self.panoptic.per_class}
        return content

    def named(self) -> dict[str, float]:
        """For rows: every number under one name, such as AP, AP/CLASS, segm/AP, segm/AP/CLASS, PQ, PQ/CLASS."""
        numbers = self.metrics | {f"AP/{name}": value for name, value in self.per_class.items()}
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


class Converted(NamedTuple):
    """The n detections of one image that are of a known category."""

    image_id: int
    categories: NDArray[np.int64]  # [n] ids of the data set
    boxes: NDArray[np.float64]  # [n, 4] xywh in pixels
    scores: NDArray[np.float64]  # [n]
    rles: list[RLE] | None  # [n] masks, where they are evaluated


class CocoEvaluator:
    """Average precision and recall of the images that were shown to it.

    Images of the ground truth that never came by (as with `trainer.overfit_batches`) are left out. The ground truth
    counts as it is given: the numbers are those of pycocotools on a file with that content.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        ground_truth: Mapping[str, Any],
        classes: Classes,
        masks: bool = False,
        detections_per_image: int = 100,
    ) -> None:
        """
        Args:
            backend: which implementation computes; the numbers are the same. With masks, hotcoco matches them as they
                come; the other two hold the run lengths of all images in memory.
            ground_truth: the COCO JSON of the split.
            classes: the way from class indices to the data set's own category ids.
            masks: whether masks are evaluated beside the boxes; detections and ground truth must have them.
            detections_per_image: how many a detector with sigmoids may show; with a softmax each query has one.
                Whatever it is, 100 of each class count.

        Raises:
            UserError: the backend's package is not installed, or the ground truth comes without masks.
            ValueError: no detections.
        """
        if detections_per_image < 1:
            raise ValueError(f"detections_per_image must be at least 1, not {detections_per_image}")
        self.masks = masks
        self.detections_per_image = detections_per_image
        self._ground_truth = GroundTruth(ground_truth, backend, masks=masks)
        self._category_of_label = np.array(classes.category_ids, dtype=np.int64)
        self._known_label = np.array([self._ground_truth.knows_category(i) for i in classes.category_ids], dtype=bool)
        self._names = unique_names(ground_truth["categories"])
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._results = Results()
        self._matching = mask_matching(self._ground_truth) if self.masks else None

    @property
    def needs_masks(self) -> str | None:
        """The override that asks for a detector with masks, if any."""
        return "evaluator.masks=true" if self.masks else None

    @property
    def metric_names(self) -> list[str]:
        """What `Evaluation.named` will have."""
        names = [*METRICS, *(f"AP/{name}" for name in self._names.values())]
        return names + [f"segm/{name}" for name in names] if self.masks else names

    def update(self, image_ids: list[int], detections: list[Detections]) -> None:
        """Take the detections of some images; those of a label that is no category of the ground truth are dropped.

        Raises:
            ValueError: an image is not in the ground truth, or came before.
            UserError: masks are due, and the detections have none.
        """
        self.take(self.convert(image_ids, detections))

    def convert(self, image_ids: list[int], detections: list[Detections]) -> list[Converted]:
        """The detections of some images as `take` wants them: compact, and fit to be sent to another process."""
        return [self._converted(image_id, each) for image_id, each in zip(image_ids, detections, strict=True)]

    def take(self, converted: list[Converted]) -> None:
        """Add what `convert` made, here or in another process."""
        for each in converted:
            if not self._ground_truth.knows_image(each.image_id):
                raise ValueError(f"image {each.image_id} is not in the ground truth")
            self._results.add(*each)
            if self._matching is not None and each.rles is not None:
                self._matching.add(each.image_id, each.categories, each.boxes, each.scores, each.rles)

    def results(self) -> Results:
        """All detections since the last reset, in COCO's results format, in the order of the updates."""
        return self._results

    def compute(self) -> Evaluation:
        """Evaluate everything since the last reset.

        Raises:
            ValueError: no image came by.
        """
        found = self._results
        if not found.boxes:
            raise ValueError("nothing to evaluate: no image came by since the last reset")
        counts = [len(boxes) for boxes in found.boxes.values()]
        curves = self._ground_truth.evaluate(
            image_ids=list(found.boxes),
            detection_images=[image for image, count in zip(found.boxes, counts, strict=True) for _ in range(count)],
            detection_categories=np.concatenate(list(found.categories.values())).tolist(),
            boxes=np.concatenate(list(found.boxes.values())),
            scores=np.concatenate(list(found.scores.values())),
        )
        evaluation = _summarise(curves, self._names)
        if self._matching is None:
            return evaluation
        return replace(evaluation, segm=_summarise(self._matching.compute(), self._names))

    def _converted(self, image_id: int, detected: Detections) -> Converted:
        labels = detected.labels.detach().cpu().numpy()
        keep = self._known_label[labels]
        # In float64, so that x + width of the stored box is the corner that was predicted.
        corners = detected.boxes.detach().cpu().double().numpy()[keep]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        scores = detected.scores.detach().cpu().double().numpy()[keep]
        categories = self._category_of_label[labels[keep]]
        return Converted(image_id, categories, boxes, scores, self._encoded(detected, keep))

    def _encoded(self, detected: Detections, keep: np.ndarray) -> list[RLE] | None:
        if not self.masks:
            return None
        if detected.masks is None:
            raise UserError(
                "evaluator.masks=true, but the detector finds no masks; choose mask_head=fpn, or evaluator.masks=false"
            )
        return encode(detected.masks.detach().cpu().numpy()[keep])


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
