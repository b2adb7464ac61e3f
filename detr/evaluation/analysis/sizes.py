"""AP of each class by the size of objects, and AP by how many objects an image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.evaluation.backends import Curves, GroundTruth
from detr.evaluation.mask_matching import mask_matching
from detr.evaluation.metrics import AREAS
from detr.evaluation.names import UNDEFINED
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


def curves_of(truth: GroundTruth, results: Results, images: Sequence[int]) -> Curves:
    """Return COCO's precision and recall of some images of the truth, of masks where the truth has them."""
    found = [_known(truth, results, image) for image in images]
    if truth.masks:
        matching = mask_matching(truth)
        for image, (rows, categories, boxes, scores) in zip(images, found, strict=True):
            masks = results.masks_of(image)
            matching.add(image, categories, boxes, scores, [masks[row] for row in rows])
        return matching.compute()
    _, categories, boxes, scores = map(np.concatenate, zip(*found, strict=True))
    owners = np.repeat(images, [len(each[0]) for each in found])
    return truth.evaluate(images, owners.tolist(), categories.tolist(), boxes, scores)


def by_size(curves: Curves, category: int | None = None, iou: int | None = None) -> dict[str, float | None]:
    """Return size → AP of a class, by its place among the ids, or of all, at one IoU threshold or over all."""
    chosen = curves.precision[..., -1] if iou is None else curves.precision[iou : iou + 1, ..., -1]
    chosen = chosen if category is None else chosen[:, :, category : category + 1]
    return {size: _mean(chosen[..., index]) for index, size in enumerate(AREAS)}


def by_crowdedness(content: Mapping[str, Any], truth: GroundTruth, results: Results) -> list[Group]:
    """Return AP of images with few objects to many, crowds not counted; of the groups that occur.

    Args:
        content: COCO dictionary of the split.
        truth: the same, loaded.
        results: what was found.
    """
    counts = {image["id"]: 0 for image in sorted(content["images"], key=lambda image: image["id"])}
    for annotation in content["annotations"]:
        counts[annotation["image_id"]] += not annotation.get("iscrowd")
    objects = np.array(list(counts.values()))
    group = np.searchsorted(CROWDEDNESS, objects, side="right")  # 0: images without objects, which have no AP
    groups = []
    for number in [number for number in np.unique(group).tolist() if number]:
        own = [image for image, its in zip(counts, group, strict=True) if its == number]
        curves = curves_of(truth, results, own)
        few, many = int(objects[group == number].min()), int(objects[group == number].max())
        groups.append(Group(few, many, len(own), by_size(curves)["all"], by_size(curves, iou=0)["all"]))
    return groups


def _known(truth: GroundTruth, results: Results, image: int) -> tuple[NDArray[Any], ...]:
    """Rows [n], categories [n], boxes [n, 4] and scores [n] in an image of what is of a category of the truth."""
    categories = results.categories.get(image, np.zeros(0, dtype=np.int64))
    rows = np.flatnonzero([truth.knows_category(each) for each in categories.tolist()])
    boxes, scores = results.boxes.get(image, np.zeros((0, 4))), results.scores.get(image, np.zeros(0))
    return rows, categories[rows], boxes[rows], scores[rows]


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else None
