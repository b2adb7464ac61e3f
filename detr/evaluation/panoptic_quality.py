"""Panoptic quality: write segments as COCO's submission format has them, then ask hotcoco (panopticapi's numbers)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco.panoptic import PanopticEval
from torch import Tensor

from detr.evaluation.metrics import PanopticEvaluation, unique_names
from detr.evaluation.names import UNDEFINED
from detr.evaluation.submission import Submission
from detr.structures import Classes, PanopticSegments

# Name → hotcoco's group and name (https://arxiv.org/abs/1801.00868, section 4): SQ is the mean IoU of what matched, RQ
# the F1 score of matching, PQ their product; each the mean over classes.
METRICS = {
    f"{quality.upper()}{suffix}": (group, quality)
    for suffix, group in {"": "All", "_things": "Things", "_stuff": "Stuff"}.items()
    for quality in ("pq", "sq", "rq")
}


class PanopticQuality:
    """Computes the panoptic quality of the images that were shown to it.

    Images of the ground truth that never came by are left out.
    """

    def __init__(self, *, ground_truth: Mapping[str, Any], classes: Classes) -> None:
        """
        Args:
            ground_truth: of the split, as `PanopticImages.panoptic_ground_truth` gives it.
            classes: the way from class indices to category ids, and which classes are things.
        """
        self._ground_truth = ground_truth
        self._names = unique_names(ground_truth["categories"])
        self._category_of_label = np.array(classes.category_ids, dtype=np.int64)
        self._file_names = _png_names(ground_truth["images"])
        self.things = _things(classes, ground_truth["categories"])
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self.submission = Submission()

    @property
    def metric_names(self) -> list[str]:
        """Return what `PanopticEvaluation.named` will have."""
        return [*METRICS, *(f"PQ/{name}" for name in self._names.values())]

    def update(self, image_ids: Sequence[int], segments: Sequence[PanopticSegments]) -> None:
        """Take the segments of some images; those of a class that is no category here become void.

        Raises:
            UserError: the disk is full.
            ValueError: an image is not in the ground truth, or came before.
        """
        for image_id, found in zip(image_ids, segments, strict=True):
            if image_id not in self._file_names:
                raise ValueError(f"image {image_id} is not in the ground truth")
            self._add(image_id, found)

    def compute(self) -> PanopticEvaluation:
        """Evaluate everything since the last reset.

        Raises:
            ValueError: no image came by.
        """
        if not len(self.submission):
            raise ValueError("nothing to evaluate: no image came by since the last reset")
        evaluation = PanopticEval(
            self._shown(), self.submission.content(), gt_folder="/", pred_folder=self.submission.folder
        )
        evaluation.evaluate()
        results = evaluation.results()
        metrics = {name: _percent(results[group][quality]) for name, (group, quality) in METRICS.items()}
        per_class = {name: _percent(results["per_class"][i]["pq"]) for i, name in self._names.items()}
        return PanopticEvaluation(metrics, per_class)

    def _add(self, image_id: int, found: PanopticSegments) -> None:
        categories = self._category_of_label[found.labels.numpy()].tolist()
        known = np.array([False, *(category in self._names for category in categories)])
        ids = np.where(known[found.ids.numpy()], found.ids.numpy(), 0)
        areas = np.bincount(ids.ravel(), minlength=len(known)).tolist()
        things = self.things[found.labels].tolist()
        segments = [
            {"id": i, "category_id": category, "isthing": int(thing), "area": areas[i]}
            for i, (category, thing) in enumerate(zip(categories, things, strict=True), start=1)
            if known[i]
        ]
        self.submission.add(image_id, self._file_names[image_id], ids, segments)

    def _shown(self) -> dict[str, Any]:
        """The ground truth of the images that came by."""
        truth = self._ground_truth
        annotations = [
            entry | {"file_name": str(Path(entry["file_name"]).absolute())}
            for entry in truth["annotations"]
            if entry["image_id"] in self.submission
        ]
        images = [image for image in truth["images"] if image["id"] in self.submission]
        return {"images": images, "annotations": annotations, "categories": truth["categories"]}


def _things(classes: Classes, categories: Sequence[Mapping[str, Any]]) -> Tensor:
    """[K] which classes are things: as the training data said, else as this data set says."""
    if classes.things is not None:
        return torch.tensor(classes.things)
    isthing = {category["id"]: bool(category["isthing"]) for category in categories}
    return torch.tensor([isthing.get(category_id, True) for category_id in classes.category_ids])


def _png_names(images: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Image id → the name of its PNG: that of the image, as COCO wants it, or the id where names repeat."""
    names = {image["id"]: f"{Path(image['file_name']).stem}.png" for image in images}
    occurrences = Counter(names.values())
    return {image_id: name if occurrences[name] == 1 else f"{image_id}.png" for image_id, name in names.items()}


def _percent(value: float) -> float:
    return UNDEFINED if value < 0 else 100 * value
