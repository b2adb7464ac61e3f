"""Panoptic quality: write segments as COCO's submission format has them, then ask hotcoco (panopticapi's numbers)."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco.panoptic import PanopticEval
from torch import Tensor

from detr.data.segment_ids import save_segment_ids
from detr.errors import UserError
from detr.evaluation.coco import UNDEFINED, unique_names
from detr.files import write_atomically, write_json
from detr.structures import Classes, PanopticSegments

# Name → hotcoco's: https://arxiv.org/abs/1801.00868, section 4; SQ is the mean IoU of what matched, RQ their F1 score.
QUALITIES = {"PQ": "pq", "SQ": "sq", "RQ": "rq"}
GROUPS = {"": "All", "_things": "Things", "_stuff": "Stuff"}


@dataclass(frozen=True)
class PanopticEvaluation:
    """The outcome, in percent; -1 where there is neither ground truth nor prediction."""

    metrics: dict[str, float]  # PQ, SQ, RQ, PQ_things, … RQ_stuff
    per_class: dict[str, float]  # name → PQ, in the order of the category ids


class PanopticEvaluator:
    """Panoptic quality of the images that were shown to it.

    Predictions go to PNGs in a temporary folder at once, so that memory does not grow with the data set. Images of the
    ground truth that never came by are left out.
    """

    def __init__(self, *, ground_truth: Mapping[str, Any], classes: Classes) -> None:
        """
        Args:
            ground_truth: of the split, as `PanopticDetection.panoptic_ground_truth` gives it.
            classes: the way from class indices to category ids, and which classes are things.
        """
        self._ground_truth = ground_truth
        self._names = unique_names(ground_truth["categories"])
        self._category_of_label = np.array(classes.category_ids, dtype=np.int64)
        self._isthing = {category["id"]: int(category["isthing"]) for category in ground_truth["categories"]}
        self.things = _things(classes, self._isthing)
        self._file_names = _png_names(ground_truth["images"])
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._folder = tempfile.TemporaryDirectory(prefix="detr-panoptic-")
        self._annotations: dict[int, dict[str, Any]] = {}  # image id → as submitted

    def update(self, image_ids: Sequence[int], segments: Sequence[PanopticSegments]) -> None:
        """Take the segments of some images; those of a class that is no category here become void.

        Raises:
            UserError: the disk is full.
            ValueError: an image is not in the ground truth, or came before.
        """
        for image_id, found in zip(image_ids, segments, strict=True):
            if image_id not in self._file_names:
                raise ValueError(f"image {image_id} is not in the ground truth")
            if image_id in self._annotations:
                raise ValueError(f"image {image_id} is evaluated twice")
            self._annotations[image_id] = self._write(image_id, found)

    def compute(self) -> PanopticEvaluation:
        """Evaluate everything since the last reset.

        Raises:
            ValueError: no image came by.
        """
        if not self._annotations:
            raise ValueError("nothing to evaluate: no image came by since the last reset")
        evaluation = PanopticEval(self._shown(), self._submission(), gt_folder="/", pred_folder=self._folder.name)
        evaluation.evaluate()
        results = evaluation.results()
        metrics = {
            f"{name}{suffix}": _percent(results[group][key])
            for suffix, group in GROUPS.items()
            for name, key in QUALITIES.items()
        }
        per_class = {name: _percent(results["per_class"][i]["pq"]) for i, name in self._names.items()}
        return PanopticEvaluation(metrics, per_class)

    def save(self, folder: Path) -> None:
        """Write FOLDER/panoptic.json and FOLDER/panoptic/*.png: together, a submission to COCO's panoptic task.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        target = folder / "panoptic"
        shutil.rmtree(target, ignore_errors=True)
        for annotation in self._annotations.values():
            name = annotation["file_name"]
            write_atomically(target / name, (Path(self._folder.name) / name).read_bytes())
        write_json(folder / "panoptic.json", self._submission())

    def _write(self, image_id: int, found: PanopticSegments) -> dict[str, Any]:
        name = self._file_names[image_id]
        categories = self._category_of_label[found.labels.numpy()].tolist()
        known = np.array([False, *(category in self._isthing for category in categories)])
        ids = np.where(known[found.ids.numpy()], found.ids.numpy(), 0)
        try:
            save_segment_ids(ids, Path(self._folder.name) / name)
        except OSError as error:
            raise UserError(
                f"{self._folder.name}: panoptic predictions cannot be written ({error.strerror or error}); "
                "free some space, or set TMPDIR to another folder"
            ) from None
        areas = np.bincount(ids.ravel(), minlength=len(known)).tolist()
        segments = [
            {"id": i, "category_id": category, "isthing": self._isthing[category], "area": areas[i]}
            for i, category in enumerate(categories, start=1)
            if known[i]
        ]
        return {"image_id": image_id, "file_name": name, "segments_info": segments}

    def _submission(self) -> dict[str, Any]:
        return {"annotations": list(self._annotations.values())}

    def _shown(self) -> dict[str, Any]:
        """The ground truth of the images that came by."""
        truth = self._ground_truth
        images = [image for image in truth["images"] if image["id"] in self._annotations]
        annotations = [
            entry | {"file_name": str(Path(entry["file_name"]).absolute())}
            for entry in truth["annotations"]
            if entry["image_id"] in self._annotations
        ]
        return {"images": images, "annotations": annotations, "categories": truth["categories"]}


def _things(classes: Classes, isthing: Mapping[int, int]) -> Tensor:
    """[K] which classes are things: as the training data said, else as this data set says."""
    if classes.things is not None:
        return torch.tensor(classes.things)
    return torch.tensor([bool(isthing.get(category_id, 1)) for category_id in classes.category_ids])


def _png_names(images: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Image id → the name of its PNG: that of the image, as COCO wants it, or the id where names repeat."""
    names = {image["id"]: f"{Path(image['file_name']).stem}.png" for image in images}
    occurrences = Counter(names.values())
    return {image_id: name if occurrences[name] == 1 else f"{image_id}.png" for image_id, name in names.items()}


def _percent(value: float) -> float:
    return UNDEFINED if value < 0 else 100 * value
