"""Everything that an error report says of a detector on a split, from its boxes and the ground truth alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.evaluation.analysis.calibration import Calibration, calibrate
from detr.evaluation.analysis.matching import MatchedImage, match_images
from detr.evaluation.analysis.names import KINDS, MISSED, Iou
from detr.evaluation.analysis.sizes import Group, by_crowdedness, by_size, curves_of
from detr.evaluation.analysis.thresholds import Threshold, sweep
from detr.evaluation.analysis.tide import Cost, ImageErrors, costs, find_errors
from detr.evaluation.backends import GroundTruth
from detr.evaluation.metrics import unique_names
from detr.evaluation.mistakes import pairs
from detr.evaluation.results import Results

NO_THRESHOLD = 0.5  # score to look at errors from where no box is right at any


@dataclass(frozen=True)
class ClassAnalysis:
    """Holds one class."""

    name: str
    category: int  # id of the data set
    objects: int
    ap: dict[str, float | None]  # all, small, medium, large → AP; None where there are no such objects
    ap50: float | None
    precision: NDArray[np.float64]  # [101] COCO's at IoU 0.5, at a recall of 0, 0.01 … 1; -1 without objects
    best: Threshold | None  # None: no box of the class is right
    kept: Threshold  # the class at the threshold of all classes


@dataclass(frozen=True)
class Analysis:
    """Holds what is known of a detector on a split. K classes."""

    iou: Iou  # what overlaps are of
    images: int
    objects: int
    boxes: int
    ap: dict[str, float | None]  # all, small, medium, large → AP
    ap50: float | None  # COCO's, which errors cost parts of
    classes: list[ClassAnalysis]  # in the order of their ids
    best: Threshold | None  # over boxes and objects of all classes
    confusion: NDArray[np.int64]  # [K + 1, K + 1] true class × class of the box from `score` on; last: background
    costs: dict[str, Cost]  # kind of error → what it comes to, of all boxes
    calibration: Calibration
    groups: list[Group]  # images by how many objects they have
    errors: list[ImageErrors]  # of every image, of the boxes from `score` on

    @property
    def score(self) -> float:
        """Return from which score on boxes are looked at: the threshold of the best F1."""
        return NO_THRESHOLD if self.best is None else self.best.score

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.classes]

    def count(self, kind: str) -> int:
        """Return how many errors of a kind there are among the boxes from `score` on."""
        return sum(len(each.boxes_of(kind)) for each in self.errors)

    def worst(self, kind: str) -> list[ImageErrors]:
        """Return the images with errors of a kind from `score` on, most errors first, among equals the surest."""

        def badness(each: ImageErrors) -> tuple[int, float]:
            boxes = each.boxes_of(kind)
            return len(boxes), 0.0 if kind == MISSED else float(each.image.scores[boxes].max(initial=0))

        return sorted((each for each in self.errors if len(each.boxes_of(kind))), key=badness, reverse=True)

    def to_dict(self) -> dict[str, Any]:
        """Return analysis.json; numbers are from 0 to 1, None where nothing is to be measured."""
        return {
            "iou": self.iou,
            "images": self.images,
            "objects": self.objects,
            "boxes": self.boxes,
            "AP": self.ap["all"],
            "AP50": self.ap50,
            "AP_by_size": self.ap,
            "threshold": None if self.best is None else asdict(self.best),
            "classes": [
                {
                    "name": each.name,
                    "category_id": each.category,
                    "objects": each.objects,
                    "AP": each.ap["all"],
                    "AP50": each.ap50,
                    "AP_by_size": each.ap,
                    "threshold": None if each.best is None else asdict(each.best),
                    "at_threshold_of_all": asdict(each.kept),
                    "precision_at_recall": each.precision.tolist() if each.objects else None,
                }
                for each in self.classes
            ],
            "errors": {
                kind: {"AP50_cost": cost.ap50, "count": cost.count, "count_above_threshold": self.count(kind)}
                for kind, cost in self.costs.items()
            },
            "confusion": {"score": self.score, "names": [*self.names, "background"], "counts": self.confusion.tolist()},
            "calibration": asdict(self.calibration),
            "by_number_of_objects": [asdict(each) for each in self.groups],
            "images_with_errors": {
                kind: {
                    str(each.image.image_id): len(boxes) for each in self.errors if len(boxes := each.boxes_of(kind))
                }
                for kind in KINDS
            },
        }


def analyse(truth: Mapping[str, Any], results: Results, iou: Iou = "boxes") -> Analysis:
    """Return everything that can be said of boxes on a split.

    Args:
        truth: COCO dictionary of the split, all of whose images were looked at.
        results: what was found; images that are not in it have no boxes.
        iou: what overlaps are of, wherever one is asked for; of masks only where the results have them.

    Raises:
        UserError: overlaps of masks are wanted, and an object has none.
    """
    loaded = GroundTruth(truth, "hotcoco", masks=iou == "masks")
    images = match_images(truth, results, iou=iou)
    curves = curves_of(loaded, results, [each.image_id for each in images])
    counted = [~each.ignored for each in images]
    scores, categories, right = (
        np.concatenate([values[kept] for values, kept in zip(column, counted, strict=True)])
        for column in zip(*((each.scores, each.categories, each.right) for each in images), strict=True)
    )
    objects = np.concatenate([each.object_categories for each in images])
    everything = sweep(scores, right, len(objects))
    score = NO_THRESHOLD if everything.best is None else everything.best.score
    classes = []
    for place, (category, name) in enumerate(unique_names(truth["categories"]).items()):
        own, number = categories == category, int((objects == category).sum())
        swept = sweep(scores[own], right[own], number)
        classes.append(
            ClassAnalysis(
                name=name,
                category=category,
                objects=number,
                ap=by_size(curves, place),
                ap50=by_size(curves, place, iou=0)["all"],
                precision=curves.precision[0, :, place, 0, -1],
                best=swept.best,
                kept=swept.at(score),
            )
        )
    base, kinds = costs([find_errors(each) for each in images])
    cut = match_images(truth, results, score, iou)
    known = [each.category for each in classes]
    return Analysis(
        iou=iou,
        images=len(images),
        objects=len(objects),
        boxes=sum(int(np.isin(each, known).sum()) for each in results.categories.values()),
        ap=by_size(curves),
        ap50=base,
        classes=classes,
        best=everything.best,
        confusion=_confusion(cut, known),
        costs=kinds,
        calibration=calibrate(scores, right),
        groups=by_crowdedness(truth, loaded, results),
        errors=[find_errors(each) for each in cut],
    )


def _confusion(images: list[MatchedImage], categories: list[int]) -> NDArray[np.int64]:
    """[K + 1, K + 1] true class × class of the box; images in which nothing was found have missed objects, too."""
    index: dict[int | None, int] = {category: place for place, category in enumerate([*categories, None])}
    counts = np.zeros((len(index), len(index)), dtype=np.int64)
    for each in images:
        for true, found in pairs(each.ious, each.object_categories, each.categories, each.scores, each.ignored):
            counts[index[true], index[found]] += 1
    return counts
