"""Boxes and objects of each image, matched at IoU 0.5 as pycocotools matches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from detr.evaluation.results import Results

FOREGROUND = 0.5  # IoU from which a box of the right class is right
MOST = 100  # boxes of one class in one image that count, the best ones
NONE = -1


@dataclass(frozen=True)
class MatchedImage:
    """Holds the n boxes of an image by falling score, its m objects without crowds, and what belongs together."""

    image_id: int
    boxes: NDArray[np.float64]  # [n, 4] xywh in pixels
    scores: NDArray[np.float64]  # [n]
    categories: NDArray[np.int64]  # [n] ids of the data set
    objects: NDArray[np.float64]  # [m, 4] xywh in pixels
    object_categories: NDArray[np.int64]  # [m]
    ious: NDArray[np.float64]  # [n, m] of every box with every object, whatever their classes
    found: NDArray[np.int64]  # [n] the object that a box finds, or `NONE`
    ignored: NDArray[np.bool_]  # [n] neither right nor wrong: in a crowd of its class

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return [n] which boxes find an object."""
        return self.found != NONE

    @property
    def found_objects(self) -> NDArray[np.bool_]:
        """Return [m] which objects are found."""
        return np.isin(np.arange(len(self.objects)), self.found)


def match_images(truth: Mapping[str, Any], results: Results, score: float = 0.0) -> list[MatchedImage]:
    """Return all images of a split in the order of their ids, matched.

    Args:
        truth: COCO dictionary of the split. A box in a crowd of its class is neither right nor wrong.
        results: what was found. Images that are not in it were looked at, and nothing was found.
        score: of boxes that count; those of a category that the truth does not have never do.
    """
    annotations: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    known = np.array([category["id"] for category in truth["categories"]], dtype=np.int64)
    images = []
    for image_id in sorted(annotations):
        scores = results.scores.get(image_id, np.zeros(0))
        categories = results.categories.get(image_id, np.zeros(0, dtype=np.int64))
        boxes = results.boxes.get(image_id, np.zeros((0, 4)))
        order = np.argsort(-scores, kind="stable")
        order = order[(scores[order] >= score) & np.isin(categories[order], known)]
        order = order[_place_in_class(categories[order]) < MOST]
        images.append(match_image(image_id, annotations[image_id], boxes[order], scores[order], categories[order]))
    return images


def match_image(
    image_id: int,
    annotations: Sequence[Mapping[str, Any]],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    categories: NDArray[np.int64],
) -> MatchedImage:
    """Match boxes [n, 4], which come by falling score, with the annotations of an image.

    A box takes the free object of its class that it overlaps most, if by at least `FOREGROUND`; else a crowd of its
    class, as many boxes as like to. Of equal overlaps the later object wins, as in pycocotools.
    """
    plain = [each for each in annotations if not each.get("iscrowd")]
    crowds = [each for each in annotations if each.get("iscrowd")]
    object_categories = np.array([each["category_id"] for each in plain], dtype=np.int64)
    crowd_categories = np.array([each["category_id"] for each in crowds], dtype=np.int64)
    ious = overlaps(boxes, [each["bbox"] for each in plain])
    inside = overlaps(boxes, [each["bbox"] for each in crowds], crowds=True)
    fits = (ious >= FOREGROUND) & (categories[:, None] == object_categories)
    found = np.full(len(boxes), NONE, dtype=np.int64)
    free = np.ones(len(plain), dtype=np.bool_)
    for box in np.flatnonzero(fits.any(axis=1)).tolist():
        open_to = np.where(fits[box] & free, ious[box], -1.0)
        best = len(open_to) - 1 - int(open_to[::-1].argmax())
        if open_to[best] > 0:
            found[box], free[best] = best, False
    in_crowd = ((inside >= FOREGROUND) & (categories[:, None] == crowd_categories)).any(axis=1)
    objects = np.array([each["bbox"] for each in plain], dtype=np.float64).reshape(-1, 4)
    ignored = in_crowd & (found == NONE)
    return MatchedImage(image_id, boxes, scores, categories, objects, object_categories, ious, found, ignored)


def overlaps(
    boxes: NDArray[np.float64], others: Sequence[Sequence[float]], *, crowds: bool = False
) -> NDArray[np.float64]:
    """Return [n, m] intersections over unions of boxes (xywh) with others; over the first's own area with crowds."""
    if not len(boxes) or not others:
        return np.zeros((len(boxes), len(others)))
    return pycocotools.mask.iou(boxes, np.array(others, dtype=np.float64), np.full(len(others), crowds, dtype=np.uint8))


def _place_in_class(categories: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] how many boxes of the same class come before each."""
    places = np.zeros(len(categories), dtype=np.int64)
    for category in np.unique(categories):
        own = categories == category
        places[own] = np.arange(own.sum())
    return places
