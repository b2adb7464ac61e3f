"""The worst images of each kind of error, what is there beside what is wrong; with masks where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.data.images import read_image
from detr.data.segmentations import RLE, decode
from detr.drawing.boxes import draw_boxes, fitted, join_captioned
from detr.drawing.page import encoded, uri
from detr.evaluation.analysis.analysis import Analysis
from detr.evaluation.analysis.matching import annotations_of, masks_of
from detr.evaluation.analysis.names import KINDS, MISSED
from detr.evaluation.analysis.tide import ImageErrors
from detr.evaluation.examples import Boxes
from detr.evaluation.results import Results
from detr.tracking.words import count

PER_KIND = 3
MAX_SIDE = 560  # pixels of either of two panels; larger images are shrunk


@dataclass(frozen=True)
class Picture:
    """Holds one picture for the page."""

    caption: str
    uri: str


@dataclass(frozen=True)
class _Scene:
    """Holds what an image's pictures are drawn from."""

    file: str
    size: tuple[int, int]  # (height, width)
    true_masks: list[RLE]  # of its objects; empty: there are none
    found_masks: list[RLE]  # of everything that was found in it; empty: there are none


def worst_pictures(
    analysis: Analysis, truth: Mapping[str, Any], results: Results, files: Sequence[str]
) -> dict[str, list[Picture]]:
    """Return kind → pictures of the images with most such errors; of kinds that occur.

    Args:
        analysis: of the split.
        truth: its COCO dictionary.
        results: what was analysed.
        files: [I] in the order of the dictionary's images.

    Raises:
        UserError: an image cannot be read.
    """
    places = {image["id"]: (file, image) for file, image in zip(files, truth["images"], strict=True)}
    annotations = annotations_of(truth)
    labels = {each.category: index for index, each in enumerate(analysis.classes)}
    found = {}
    for kind in KINDS:
        worst = analysis.worst(kind)[:PER_KIND]
        scenes = [
            _scene(*places[image_id], annotations[image_id], results)
            for image_id in (each.image.image_id for each in worst)
        ]
        if worst:
            found[kind] = [
                _picture(kind, each, scene, labels, analysis.names) for each, scene in zip(worst, scenes, strict=True)
            ]
    return found


def _scene(file: str, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], results: Results) -> _Scene:
    size = image["height"], image["width"]
    plain = [each for each in annotations if not each.get("iscrowd")]
    masks = masks_of(plain, size) if all(each.get("segmentation") for each in plain) else []
    return _Scene(file, size, masks, results.masks_of(image["id"]))


def _picture(kind: str, errors: ImageErrors, scene: _Scene, labels: Mapping[int, int], names: Sequence[str]) -> Picture:
    """Missed objects beside all boxes, or all objects beside the boxes that are wrong."""
    image, wrong = errors.image, errors.boxes_of(kind)
    objects = wrong if kind == MISSED else np.arange(len(image.objects))
    boxes = np.arange(len(image.boxes)) if kind == MISSED else wrong
    true = _boxes(
        *(image.objects[objects], image.object_categories[objects], labels),
        masks=_chosen(scene.true_masks, objects),
    )
    drawn = _boxes(
        *(image.boxes[boxes], image.categories[boxes], labels, image.scores[boxes]),
        masks=_chosen(scene.found_masks, image.places[boxes]),
    )
    there, here = count(len(image.objects), "object"), count(len(boxes), "box").replace("boxs", "boxes")
    captions = (f"missed: {len(wrong)} of {there}", here) if kind == MISSED else (there, f"{kind}: {here}")
    picture = read_image(scene.file, size=scene.size)
    panels = [
        (draw_boxes(*fitted(picture, each, MAX_SIDE), names), caption)
        for each, caption in zip((true, drawn), captions, strict=True)
    ]
    return Picture(
        f"{Path(scene.file).name}: {captions[0]}, {captions[1]}", uri(encoded(join_captioned(panels), quality=76))
    )


def _boxes(
    boxes: NDArray[np.float64],
    categories: NDArray[np.int64],
    labels: Mapping[int, int],
    scores: NDArray[np.float64] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> Boxes:
    indices = [labels[category] for category in categories.tolist()]
    return Boxes.from_xywh(boxes.tolist(), indices, None if scores is None else scores.tolist(), masks)


def _chosen(masks: Sequence[RLE], places: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Some of the masks, as pixels; None where there are none."""
    return np.stack([decode(masks[place]) for place in places]) if masks and len(places) else None
