"""COCO's metrics of boxes and masks: collect detections image by image, then ask a backend for precision and recall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detr.data.segmentations import RLE, encode
from detr.errors import UserError
from detr.evaluation.backends import Backend, Curves, GroundTruth
from detr.evaluation.evaluator import Evaluator, Findings
from detr.evaluation.mask_matching import mask_matching
from detr.evaluation.metrics import AREAS, MAX_DETECTIONS, Evaluation, unique_names
from detr.evaluation.names import UNDEFINED
from detr.evaluation.postprocess import postprocess
from detr.evaluation.results import Results
from detr.structures import Batch, Classes, Classification, Detections, Predictions

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


class Converted(NamedTuple):
    """Holds the n detections of one image that are of a known category."""

    image_id: int
    categories: NDArray[np.int64]  # [n] ids of the data set
    boxes: NDArray[np.float64]  # [n, 4] xywh in pixels
    scores: NDArray[np.float64]  # [n]
    rles: list[RLE] | None  # [n] masks, where they are evaluated


class CocoEvaluator(Evaluator):
    """Computes average precision and recall of the images that were shown to it.

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
            raise ValueError(f"detections_per_image: expected at least 1, got {detections_per_image}")
        self.masks = masks
        self.detections_per_image = detections_per_image
        self._ground_truth = GroundTruth(ground_truth, backend, masks=masks)
        self._category_of_label = np.array(classes.category_ids, dtype=np.int64)
        self._known_label = np.array([self._ground_truth.knows_category(i) for i in classes.category_ids], dtype=bool)
        self._names = unique_names(ground_truth["categories"])
        self.reset()

    def reset(self) -> None:
        self._results = Results()
        self._matching = mask_matching(self._ground_truth) if self.masks else None

    @property
    def needs_masks(self) -> str | None:  # type: ignore[override]
        return "evaluator.masks=true" if self.masks else None

    @property
    def metric_names(self) -> list[str]:  # type: ignore[override]
        names = [*METRICS, *(f"AP/{name}" for name in self._names.values())]
        return names + [f"segm/{name}" for name in names] if self.masks else names

    def find(self, predictions: Predictions, batch: Batch, classification: Classification) -> Findings:
        detections = postprocess(
            predictions if self.masks else replace(predictions, masks=None),
            batch.original_sizes,
            classification=classification,
            max_detections=self.detections_per_image,
            sizes=batch.sizes,
            padded_size=batch.images.shape[-2:],
        )
        return Findings(self.convert(batch.image_ids, detections), detections)

    def update(self, image_ids: list[int], detections: list[Detections]) -> None:
        """Take the detections of some images; those of a label that is no category of the ground truth are dropped.

        Raises:
            ValueError: an image is not in the ground truth, or came before.
            UserError: masks are expected, and the detections have none.
        """
        self.take(self.convert(image_ids, detections))

    def convert(self, image_ids: list[int], detections: list[Detections]) -> list[Converted]:
        """Return the detections of some images as `take` wants them: compact, and fit to be sent to another process."""
        return [self._converted(image_id, each) for image_id, each in zip(image_ids, detections, strict=True)]

    def take(self, found: list[Converted]) -> None:
        for each in found:
            if not self._ground_truth.knows_image(each.image_id):
                raise ValueError(f"image {each.image_id} is not in the ground truth")
            self._results.add(*each)
            if self._matching is not None and each.rles is not None:
                self._matching.add(each.image_id, each.categories, each.boxes, each.scores, each.rles)

    def results(self) -> Results:
        return self._results

    def compute(self) -> Evaluation:
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
