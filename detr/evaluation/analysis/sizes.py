"""AP of each class by the size of objects, and AP by how many objects an image has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.evaluation.backends import Curves, GroundTruth
from detr.evaluation.metrics import AREAS
from detr.evaluation.names import UNDEFINED
from detr.evaluation.resampling import average_precision, match
from detr.evaluation.results import Results

CROWDEDNESS = (1, 2, 4, 8, 16, 32, 64, 128)  # objects from which images make a group of their own


@dataclass(frozen=True)
class Group:
    """Holds the images with about as many objects."""

    fewest: int
    most: int
    images: int
    ap: float | None
    ap50: float | None


def rows_of(results: Results, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the boxes that are of a category of the truth, without masks, in COCO's results format."""
    known = {category["id"] for category in truth["categories"]}
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for image_id, boxes in results.boxes.items()
        for category, box, score in zip(
            results.categories[image_id].tolist(), boxes.tolist(), results.scores[image_id].tolist(), strict=True
        )
        if category in known
    ]


def curves_of(truth: Mapping[str, Any], rows: list[dict[str, Any]]) -> Curves:
    """Return COCO's precision and recall of all images of the truth."""
    return GroundTruth(truth, "hotcoco").evaluate(
        [image["id"] for image in truth["images"]],
        [row["image_id"] for row in rows],
        [row["category_id"] for row in rows],
        np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row["score"] for row in rows], dtype=np.float64),
    )


def by_size(curves: Curves, category: int | None = None, iou: int | None = None) -> dict[str, float | None]:
    """Return size → AP of a class, by its place among the ids, or of all, at one IoU threshold or over all."""
    chosen = curves.precision[..., -1] if iou is None else curves.precision[iou : iou + 1, ..., -1]
    chosen = chosen if category is None else chosen[:, :, category : category + 1]
    return {size: _mean(chosen[..., index]) for index, size in enumerate(AREAS)}


def by_crowdedness(truth: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[Group]:
    """Return AP of images with few objects to many, crowds not counted; of the groups that occur."""
    counts = {image["id"]: 0 for image in sorted(truth["images"], key=lambda image: image["id"])}
    for annotation in truth["annotations"]:
        counts[annotation["image_id"]] += not annotation.get("iscrowd")
    objects = np.array(list(counts.values()))
    group = np.searchsorted(CROWDEDNESS, objects, side="right")  # 0: images without objects, which have no AP
    present = [number for number in np.unique(group).tolist() if number]
    if not present:
        return []
    weights = np.stack([(group == number).astype(np.int64) for number in present])
    found = average_precision(match(dict(truth), rows), weights)
    return [
        Group(
            int(objects[group == number].min()),
            int(objects[group == number].max()),
            int((group == number).sum()),
            float(found["AP"][index]),
            float(found["AP50"][index]),
        )
        for index, number in enumerate(present)
    ]


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else None
