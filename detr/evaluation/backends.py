"""The three implementations of COCO's evaluation, of boxes or masks, behind one class; they return the same arrays.

All are driven through the interface they share (`COCO`, `COCOeval`, `params`, `eval`), on ids that were renumbered
by rank. That keeps the order of images and classes, on which ties between equal scores depend, and sidesteps two
traps: pycocotools takes an annotation with id 0 for unmatched, and ids beyond 2⁵³ do not survive in a float array.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from detr.errors import UserError

Backend = Literal["hotcoco", "faster_coco_eval", "pycocotools"]

MODULES = {
    "hotcoco": ("hotcoco", "COCOeval"),
    "faster_coco_eval": ("faster_coco_eval", "COCOeval_faster"),
    "pycocotools": ("pycocotools.cocoeval", "COCOeval"),
}


@dataclass(frozen=True)
class Curves:
    """Holds what the evaluation accumulates. T IoU thresholds, R recalls, K classes, A areas, M caps on detections.

    Classes are in the order of their ids, areas all, small, medium, large, caps 1, 10, 100 in an image; -1 where
    there is no ground truth.
    """

    precision: np.ndarray  # [T, R, K, A, M]
    recall: np.ndarray  # [T, K, A, M]
    scores: np.ndarray  # [T, R, K, A, M] of the detection at which that recall is reached
    iou_thresholds: np.ndarray  # [T] 0.5, 0.55 … 0.95
    recall_thresholds: np.ndarray  # [R] 0, 0.01 … 1


class GroundTruth:
    """Holds a COCO data set, loaded once into a backend and evaluated against as often as one likes."""

    def __init__(self, content: Mapping[str, Any], backend: Backend, *, masks: bool = False) -> None:
        """
        Args:
            content: the COCO JSON: images, categories and annotations. Where an annotation has no area, the box's
                is taken; where it has no iscrowd, 0. Crowds are treated as COCO does.
            backend: the implementation; imported here and nowhere else.
            masks: whether masks are evaluated, too; otherwise segmentations are not read.

        Raises:
            UserError: the backend's package is not installed, or an annotation lacks a mask that is needed.
        """
        self.backend = backend
        self.masks = masks
        self._coco, self._evaluation = _import(backend)
        self._image_ranks = _ranks(image["id"] for image in content["images"])
        self._category_ranks = _ranks(category["id"] for category in content["categories"])
        self._dataset = self._renumber(content)
        self._annotations_of: dict[int, list[dict[str, Any]]] = {}
        for annotation in self._dataset["annotations"]:
            self._annotations_of.setdefault(annotation["image_id"], []).append(annotation)
        self._loaded = self.load(self._dataset["annotations"])

    def knows_image(self, image_id: int) -> bool:
        return image_id in self._image_ranks

    def knows_category(self, category_id: int) -> bool:
        return category_id in self._category_ranks

    def evaluate(
        self,
        image_ids: Sequence[int],
        detection_images: Sequence[int],
        detection_categories: Sequence[int],
        boxes: np.ndarray,
        scores: np.ndarray,
    ) -> Curves:
        """Match boxes to the ground truth of `image_ids`, all other images left out.

        Args:
            image_ids: the images that were looked at, at least one.
            detection_images: [D] the image of each detection, one of `image_ids`.
            detection_categories: [D] the category id of each.
            boxes: [D, 4] absolute xywh, float64.
            scores: [D] float64.
        """
        rows = self.rows(detection_images, detection_categories, boxes, scores)
        if self.backend == "hotcoco":
            with silence():
                detections = self._loaded.loadRes(rows)
        else:
            # Not loadRes: pycocotools fails on an empty list, and both would copy every box into a polygon.
            detections = self.load([detection(index, row) for index, row in enumerate(rows.tolist(), start=1)])
        return self.match(image_ids, detections, "bbox")

    def match(self, image_ids: Sequence[int], detections: Any, kind: Literal["bbox", "segm"]) -> Curves:
        """Match detections that were loaded by the backend to the ground truth of `image_ids`."""
        with silence():
            evaluation = self._evaluation(self._loaded, detections, kind)
            evaluation.params.imgIds = sorted(self._image_ranks[image] for image in image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
        return curves(evaluation)

    def matches(
        self,
        detection_images: Sequence[int],
        detection_categories: Sequence[int],
        boxes: np.ndarray,
        scores: np.ndarray,
    ) -> list[list[dict[str, Any]]]:
        """Return what matches what in every image, sizes apart, before anything is summed up; hotcoco only.

        For each category in the order of ids, for each image with objects or detections of it: "image" (rank of its
        id, from 0), "objects" (how many are to be found), and of the at most 100 best detections "scores" [n],
        "matched" and "ignored" [T, n]. The arguments are those of `evaluate`.
        """
        rows = self.rows(detection_images, detection_categories, boxes, scores)
        with silence():
            evaluation = self._evaluation(self._loaded, self._loaded.loadRes(rows), "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0.0, 1e10]], ["all"]
            evaluation.evaluate()
        found: dict[int, list[dict[str, Any]]] = {rank: [] for rank in self._category_ranks.values()}
        for each in filter(None, evaluation.evalImgs):
            shape = (len(evaluation.params.iouThrs), len(each["dtScores"]))
            found[each["category_id"]].append(
                {
                    "image": each["image_id"] - 1,
                    "objects": int(len(each["gtIgnore"]) - np.sum(each["gtIgnore"])),
                    "scores": np.asarray(each["dtScores"], dtype=np.float64),
                    "matched": np.asarray(each["dtMatched"], dtype=np.bool_).reshape(shape),
                    "ignored": np.asarray(each["dtIgnore"], dtype=np.bool_).reshape(shape),
                }
            )
        return [sorted(images, key=lambda each: each["image"]) for images in found.values()]

    def rows(
        self, images: Sequence[int], categories: Sequence[int], boxes: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        """Return [D, 7] image, x, y, width, height, score, category; image and category by their rank."""
        image_ranks = np.array([self._image_ranks[image] for image in images], dtype=np.float64)
        category_ranks = np.array([self._category_ranks[category] for category in categories], dtype=np.float64)
        return np.column_stack([image_ranks, boxes, scores, category_ranks])

    def load(self, annotations: list[dict[str, Any]]) -> Any:
        """Load annotations or detections as a data set of the backend's own."""
        dataset = self._dataset | {"annotations": annotations}
        with silence():
            if self.backend == "hotcoco":
                return self._coco(dataset)
            coco = self._coco()
            coco.dataset = dataset
            coco.createIndex()
            return coco

    @property
    def categories(self) -> list[dict[str, Any]]:
        """Return the categories, renumbered."""
        return self._dataset["categories"]

    def image(self, image_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return an image and its annotations, renumbered."""
        rank = self._image_ranks[image_id]
        return self._dataset["images"][rank - 1], self._annotations_of.get(rank, [])

    def _renumber(self, content: Mapping[str, Any]) -> dict[str, Any]:
        annotations = [
            self._annotation(index, annotation) for index, annotation in enumerate(content.get("annotations", []), 1)
        ]
        sizes = {
            image["id"]: {key: image[key] for key in ("height", "width") if key in image} for image in content["images"]
        }
        return {
            "info": {},
            "images": [{"id": rank} | sizes[image_id] for image_id, rank in self._image_ranks.items()],
            "categories": [{"id": rank, "name": str(rank)} for rank in self._category_ranks.values()],
            "annotations": annotations,
        }

    def _annotation(self, index: int, annotation: Mapping[str, Any]) -> dict[str, Any]:
        box = [float(value) for value in annotation["bbox"]]
        renumbered = {
            "id": index,
            "image_id": self._image_ranks[annotation["image_id"]],
            "category_id": self._category_ranks[annotation["category_id"]],
            "bbox": box,
            "area": float(annotation.get("area", box[2] * box[3])),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        return renumbered | ({"segmentation": _segmentation(annotation)} if self.masks else {})


def detection(index: int, row: Sequence[float]) -> dict[str, Any]:
    """Return a row of `GroundTruth.rows` as COCO's loadRes makes an annotation of it: the area is the box's."""
    image, x, y, width, height, score, category = row
    return {
        "id": index,
        "image_id": int(image),
        "category_id": int(category),
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "score": score,
    }


def _segmentation(annotation: Mapping[str, Any]) -> Any:
    if not annotation.get("segmentation"):
        raise UserError(
            f"evaluator.masks=true, but annotation {annotation.get('id')} of the ground truth has no mask; "
            "set dataset.masks=true, or evaluator.masks=false"
        )
    return annotation["segmentation"]


def _ranks(ids: Iterable[int]) -> dict[int, int]:
    return {identifier: rank for rank, identifier in enumerate(sorted(set(ids)), start=1)}


def curves(evaluation: Any) -> Curves:
    """Return the curves of a COCOeval that has accumulated."""
    arrays = {name: np.asarray(evaluation.eval[name], dtype=np.float64) for name in ("precision", "recall", "scores")}
    return Curves(
        **arrays,
        iou_thresholds=np.asarray(evaluation.params.iouThrs, dtype=np.float64),
        recall_thresholds=np.asarray(evaluation.params.recThrs, dtype=np.float64),
    )


def _import(backend: Backend) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of a backend."""
    name, evaluation = MODULES[backend]
    try:
        module: ModuleType = importlib.import_module(name)
        coco = importlib.import_module("pycocotools.coco") if backend == "pycocotools" else module
    except ImportError as error:
        package = backend.replace("_", "-")
        raise UserError(
            f"evaluator.backend={backend} needs the package {package}, which cannot be imported ({error}); "
            f"pip install {package}, or choose evaluator.backend=hotcoco"
        ) from error
    return coco.COCO, getattr(module, evaluation)


@contextlib.contextmanager
def silence() -> Any:
    """Silence the backends, which report their progress by printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
