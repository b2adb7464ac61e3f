"""Boxes and objects of each image, matched at IoU 0.5 of boxes or masks, as pycocotools matches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from detr.data.segmentations import RLE, run_lengths
from detr.errors import UserError
from detr.evaluation.analysis.names import Iou
from detr.evaluation.results import Results

FOREGROUND = 0.5  # IoU from which a box of the right class is right
MOST = 100  # boxes of one class in one image that count, the best ones
NONE = -1

Shapes = NDArray[np.float64] | list[RLE]  # of n things: [n, 4] boxes, xywh in pixels, or n masks


@dataclass(frozen=True)
class MatchedImage:
    """Holds the n boxes of an image by falling score, its m objects without crowds, and what belongs together."""

    image_id: int
    places: NDArray[np.int64]  # [n] where the boxes stand among all of the image
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


def match_images(
    truth: Mapping[str, Any], results: Results, score: float = 0.0, iou: Iou = "boxes"
) -> list[MatchedImage]:
    """Return all images of a split in the order of their ids, matched.

    Args:
        truth: COCO dictionary of the split. A box in a crowd of its class is neither right nor wrong.
        results: what was found. Images that are not in it were looked at, and nothing was found.
        score: of boxes that count; those of a category that the truth does not have never do.
        iou: what overlaps are of; for masks both sides must have them.

    Raises:
        UserError: a mask is not of its image's size.
    """
    annotations = annotations_of(truth)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]} if iou == "masks" else {}
    known = np.array([category["id"] for category in truth["categories"]], dtype=np.int64)
    images = []
    for image_id in sorted(annotations):
        scores = results.scores.get(image_id, np.zeros(0))
        categories = results.categories.get(image_id, np.zeros(0, dtype=np.int64))
        boxes = results.boxes.get(image_id, np.zeros((0, 4)))
        order = np.argsort(-scores, kind="stable")
        order = order[(scores[order] >= score) & np.isin(categories[order], known)]
        order = order[_place_in_class(categories[order]) < MOST]
        own = annotations[image_id]
        plain, crowds = ([each for each in own if bool(each.get("iscrowd")) is kind] for kind in (False, True))
        shapes: list[Shapes] = [boxes[order], _boxes_of(plain), _boxes_of(crowds)]
        if iou == "masks":
            masks, size = results.masks_of(image_id), sizes[image_id]
            shapes = [[masks[place] for place in order], masks_of(plain, size), masks_of(crowds, size)]
        ious, inside = overlaps(shapes[0], shapes[1]), overlaps(shapes[0], shapes[2], crowds=True)
        if (ious < 0).any() or (inside < 0).any():
            raise UserError(f"a predicted mask of image {image_id} is not of the image's size")
        object_categories, crowd_categories = (_categories_of(each) for each in (plain, crowds))
        found, ignored = match_image(categories[order], object_categories, crowd_categories, ious, inside)
        images.append(
            MatchedImage(
                *(image_id, order, boxes[order], scores[order], categories[order]),
                *(_boxes_of(plain), object_categories, ious, found, ignored),
            )
        )
    return images


def match_image(
    categories: NDArray[np.int64],
    object_categories: NDArray[np.int64],
    crowd_categories: NDArray[np.int64],
    ious: NDArray[np.float64],
    inside: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return `found` and `ignored` [n] of boxes, which come by falling score; by overlaps with objects and crowds.

    A box takes the free object of its class that it overlaps most, if by at least `FOREGROUND`; else a crowd of its
    class, as many boxes as like to. Of equal overlaps the later object wins, as in pycocotools.
    """
    fits = (ious >= FOREGROUND) & (categories[:, None] == object_categories)
    found = np.full(len(categories), NONE, dtype=np.int64)
    free = np.ones(len(object_categories), dtype=np.bool_)
    for box in np.flatnonzero(fits.any(axis=1)).tolist():
        open_to = np.where(fits[box] & free, ious[box], -1.0)
        best = len(open_to) - 1 - int(open_to[::-1].argmax())
        if open_to[best] > 0:
            found[box], free[best] = best, False
    in_crowd = ((inside >= FOREGROUND) & (categories[:, None] == crowd_categories)).any(axis=1)
    return found, in_crowd & (found == NONE)


def overlaps(shapes: Shapes, others: Shapes, *, crowds: bool = False) -> NDArray[np.float64]:
    """Return [n, m] intersections over unions; over the first's own area with crowds. -1: masks of different sizes."""
    if not len(shapes) or not len(others):
        return np.zeros((len(shapes), len(others)))
    return pycocotools.mask.iou(shapes, others, np.full(len(others), crowds, dtype=np.uint8))


def annotations_of(truth: Mapping[str, Any]) -> dict[int, list[Mapping[str, Any]]]:
    """Return image id → its annotations, crowds included."""
    found: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def masks_of(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[RLE]:
    """Return the masks of annotations in an image of this size (height, width)."""
    return [run_lengths(each["segmentation"], size) for each in annotations]


def _boxes_of(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 4)


def _categories_of(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    return np.array([each["category_id"] for each in annotations], dtype=np.int64)


def _place_in_class(categories: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] how many boxes of the same class come before each."""
    places = np.zeros(len(categories), dtype=np.int64)
    for category in np.unique(categories):
        own = categories == category
        places[own] = np.arange(own.sum())
    return places
