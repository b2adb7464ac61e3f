"""What a detector gets wrong at one score: classes taken for each other, and the images with most mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_convert, box_iou

from detr.data.dataset import ImageSet
from detr.data.images import read_image
from detr.evaluation.examples import Boxes, Example
from detr.evaluation.metrics import Evaluation, unique_names
from detr.evaluation.results import Results

IOU = 0.5  # of a box that counts as found
SCORES = np.arange(0.05, 1.0, 0.05)  # among which the best is looked for


@dataclass(frozen=True)
class ImageMistakes:
    """Counts what is wrong in one image."""

    image_id: int
    missed: int  # objects without a box
    confused: int  # objects with a box of another class
    false: int  # boxes without an object

    @property
    def total(self) -> int:
        return self.missed + self.confused + self.false

    def __str__(self) -> str:
        kinds = {"missed": self.missed, "of another class": self.confused, "false": self.false}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "no mistake"


@dataclass(frozen=True)
class Mistakes:
    """Holds the mistakes of a whole split. K classes."""

    score: float  # boxes below are not looked at
    names: list[str]  # [K]
    confusion: NDArray[np.int64]  # [K + 1, K + 1] true class × class of the box; last: no object, no box
    images: list[ImageMistakes]  # of those that were evaluated, most mistakes first


def best_score(evaluation: Evaluation) -> float:
    """Return the score at which F1 at IoU 0.5 is highest, as a mean over the classes that occur."""
    precision, scores = evaluation.precision[0, :, :, 0, -1], evaluation.scores[0, :, :, 0, -1]  # [R, K]
    occurs = precision[0] >= 0
    reached = scores[:, occurs] >= SCORES[:, None, None]  # [S, R, K] recalls that boxes above each score come to
    recall = evaluation.recall_thresholds[:, None]
    f1 = 2 * precision[:, occurs] * recall / np.maximum(precision[:, occurs] + recall, 1e-9)  # [R, K]
    last = np.maximum(reached.sum(axis=1) - 1, 0)  # [S, K] scores fall as recall grows
    found = np.take_along_axis(f1, last, axis=0) * reached.any(axis=1)
    return float(SCORES[found.mean(axis=1).argmax()]) if occurs.any() else float(SCORES[0])


def find_mistakes(results: Results, ground_truth: Mapping[str, Any], score: float) -> Mistakes:
    """Match the boxes of at least a score with the objects of each image, those of their own class first.

    Args:
        results: of the images that were looked at.
        ground_truth: COCO JSON. A box on a crowd of its class is neither right nor wrong.
        score: of boxes that count.
    """
    names = unique_names(ground_truth["categories"])
    index: dict[int | None, int] = {category: position for position, category in enumerate(names)}
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in ground_truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    confusion = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    nothing = len(names)
    images = []
    for image_id, boxes in results.boxes.items():
        kept = results.scores[image_id] >= score
        found = _pairs(
            objects.get(image_id, []), boxes[kept], results.categories[image_id][kept], results.scores[image_id][kept]
        )
        cells = [(index.get(true, nothing), index.get(box, nothing)) for true, box in found]
        for cell in cells:
            confusion[cell] += 1
        images.append(
            ImageMistakes(
                image_id,
                missed=sum(found == nothing for _, found in cells),
                confused=sum(nothing not in (true, found) and true != found for true, found in cells),
                false=sum(true == nothing for true, _ in cells),
            )
        )
    return Mistakes(score, list(names.values()), confusion, sorted(images, key=lambda image: -image.total))


def worst_examples(mistakes: Mistakes, results: Results, dataset: ImageSet, count: int) -> list[Example]:
    """Return the images with most mistakes, at most `count`, with the boxes that were looked at."""
    truth = dataset.ground_truth()
    places = {image_id: place for place, image_id in enumerate(dataset.image_ids)}
    files, index = dataset.files, dataset.classes.index_of
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    examples = []
    for image in mistakes.images[:count]:
        if not image.total:
            break
        own = [each for each in truth["annotations"] if each["image_id"] == image.image_id and not each.get("iscrowd")]
        kept = results.scores[image.image_id] >= mistakes.score
        file = files[places[image.image_id]]
        examples.append(
            Example(
                image=read_image(file, size=sizes[image.image_id]),
                truth=Boxes.from_xywh([each["bbox"] for each in own], [index[each["category_id"]] for each in own]),
                predicted=Boxes.from_xywh(
                    results.boxes[image.image_id][kept].tolist(),
                    [index[category] for category in results.categories[image.image_id][kept].tolist()],
                    results.scores[image.image_id][kept].tolist(),
                ),
                names=dataset.classes.names,
                caption=f"{file.rpartition('/')[2]}: {image}",
            )
        )
    return examples


def _pairs(
    objects: list[dict[str, Any]],
    boxes: NDArray[np.float64],
    categories: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> list[tuple[int | None, int | None]]:
    """The pairs of an image, by boxes."""
    plain = [each for each in objects if not each.get("iscrowd")]
    crowds = [each for each in objects if each.get("iscrowd")]
    true = np.array([each["category_id"] for each in plain], dtype=np.int64)
    ignored = [_in_crowd(box, category, crowds) for box, category in zip(boxes, categories, strict=True)]
    return pairs(_overlaps(boxes, plain), true, categories, scores, np.array(ignored, dtype=np.bool_))


def pairs(
    ious: NDArray[np.float64],
    true: NDArray[np.int64],
    categories: NDArray[np.int64],
    scores: NDArray[np.float64],
    ignored: NDArray[np.bool_],
) -> list[tuple[int | None, int | None]]:
    """Return (category of the object, category of the box) of each pair in an image; None where there is none.

    Boxes choose in the order of their scores, and take an object of their own class before any other.

    Args:
        ious: [n, m] of boxes with objects.
        true: [m] categories of the objects.
        categories: [n] of the boxes.
        scores: [n].
        ignored: [n] boxes that are no mistake where they find no object.
    """
    free = np.ones(len(true), dtype=bool)
    taken: dict[int, int] = {}
    for same in (True, False):
        for box in np.argsort(-scores, kind="stable").tolist():
            fits = free & (ious[box] >= IOU) & (true == categories[box] if same else True)
            if box not in taken and fits.any():
                taken[box] = int(np.where(fits, ious[box], -1.0).argmax())
                free[taken[box]] = False
    found: list[tuple[int | None, int | None]] = [(int(category), None) for category in true[free]]
    found += [(int(true[each]), int(categories[box])) for box, each in taken.items()]
    left = [box for box in range(len(categories)) if box not in taken and not ignored[box]]
    return found + [(None, int(categories[box])) for box in left]


def _overlaps(boxes: NDArray[np.float64], objects: list[dict[str, Any]]) -> NDArray[np.float64]:
    """[boxes, objects] intersection over union."""
    theirs = np.array([each["bbox"] for each in objects], dtype=np.float64).reshape(-1, 4)
    corners = [box_convert(torch.from_numpy(each), "xywh", "xyxy") for each in (boxes, theirs)]
    return box_iou(*corners).numpy()


def _in_crowd(box: NDArray[np.float64], category: int, crowds: list[dict[str, Any]]) -> bool:
    """Whether half of the box lies in a crowd of its class."""
    for crowd in crowds:
        left, top, width, height = crowd["bbox"]
        inside = [
            max(0.0, min(start + size, begin + extent) - max(start, begin))
            for start, size, begin, extent in ((box[0], box[2], left, width), (box[1], box[3], top, height))
        ]
        if crowd["category_id"] == category and inside[0] * inside[1] >= IOU * box[2] * box[3]:
            return True
    return False
