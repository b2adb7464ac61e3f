"""The same validation images as every setting sees them, those on which the settings differ most first."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision.ops import box_iou

from detr.comparison.data import Truth
from detr.comparison.images import PerImage, per_image
from detr.comparison.metrics import values
from detr.comparison.reading import Run
from detr.comparison.settings import Setting
from detr.data.images import read_image
from detr.drawing.boxes import DRAWN_SCORE, draw_boxes
from detr.errors import UserError
from detr.evaluation.examples import Boxes, Corners

MAX_IMAGES = 8
MAX_SETTINGS = 4  # in a row; more would be too small to see
MAX_SIDE = 640  # pixels; larger images are shrunk
FOUND = 0.5  # IoU of a box of the right class


@dataclass(frozen=True)
class Panel:
    """Holds one picture."""

    caption: str
    description: str  # for those who cannot see it
    uri: str  # data:image/jpeg;base64,…


@dataclass(frozen=True)
class Pictures:
    """Holds pictures row by row, and what they are."""

    rows: list[list[Panel]]
    note: str


@dataclass(frozen=True)
class Seen:
    """Holds all images of a split as one setting sees them."""

    letter: str
    drawn: list[Boxes]  # of each image
    found: list[int]  # of each image's objects

    def quality(self, index: int, objects: int) -> float:
        """Return F1 of one image; 1 where nothing is there and nothing was found."""
        total = objects + len(self.drawn[index].labels)
        return 2 * self.found[index] / total if total else 1.0

    def words(self, index: int, objects: int) -> str:
        wrong = len(self.drawn[index].labels) - self.found[index]
        return f"{self.found[index]} of {objects} found, {wrong} wrong"


def pictures(settings: Sequence[Setting], metric: str) -> Pictures:
    """Return ground truth and predictions side by side, redrawn; or the pictures that the runs kept."""
    shown = [setting for setting in settings if settings[0].data.same(setting.data)][:MAX_SETTINGS]
    chosen = {setting.letter: representative(setting, settings[0], metric) for setting in shown}
    try:
        predictions = {setting.letter: per_image(chosen[setting.letter], setting.data) for setting in shown}
        rows = _redrawn(predictions)
    except UserError as error:
        return _kept(chosen, f"Pictures as the runs drew them, since they cannot be drawn anew: {error}.")
    which = ", ".join(f"{letter} with seed {run.seed}" for letter, run in chosen.items())
    return Pictures(
        rows,
        f"Images on which the settings differ most come first; {which}, best epoch. Drawn are predictions with scores "
        f"from {DRAWN_SCORE:g}, and the best ones below up to the number of objects; found is an object with a box of "
        f"its class at an IoU of {FOUND:g}.",
    )


def representative(setting: Setting, baseline: Setting, metric: str) -> Run:
    """Return the run with the median metric; the baseline's seed where possible, so that seeds are the same."""
    return setting.seeds.get(_median(baseline, metric).seed) or _median(setting, metric)


def look(letter: str, predictions: PerImage, truth: Sequence[Boxes], classes: Mapping[int, int]) -> Seen:
    """Choose what is drawn on each image, and count what it finds.

    Args:
        letter: of the setting.
        predictions: of the setting's run.
        truth: [I] the objects of each image.
        classes: category id → index of the class.
    """
    by_image = defaultdict(list)
    for row in sorted(predictions.results, key=lambda row: -row["score"]):
        by_image[row["image_id"]].append(row)
    drawn = []
    for image_id, objects in zip((image["id"] for image in predictions.truth.images), truth, strict=True):
        # Beside what is sure enough the best ones, as many as there are objects: a young network is sure of nothing.
        rows = [
            row
            for place, row in enumerate(by_image[image_id])
            if place < len(objects.labels) or row["score"] >= DRAWN_SCORE
        ]
        corners = [_corners(row["bbox"]) for row in rows]
        drawn.append(Boxes(corners, [classes[row["category_id"]] for row in rows], [row["score"] for row in rows]))
    return Seen(letter, drawn, [count_found(*pair) for pair in zip(truth, drawn, strict=True)])


def count_found(truth: Boxes, predicted: Boxes) -> int:
    """Return how many objects have a box of their class; each box, the best-scored first, finds one at most."""
    if not truth.labels or not predicted.labels:
        return 0
    overlaps = box_iou(torch.tensor(predicted.corners), torch.tensor(truth.corners))
    overlaps[torch.tensor(predicted.labels)[:, None] != torch.tensor(truth.labels)] = 0
    count = 0
    for row in overlaps:
        best = int(row.argmax())
        if row[best] >= FOUND:
            count += 1
            overlaps[:, best] = 0  # rows are views: the others see that it is taken
    return count


def order(seen: Sequence[Seen], truth: Sequence[Boxes]) -> list[int]:
    """Return the images by how much settings differ from the first in F1; of one setting alone, by how bad it is."""

    def gap(index: int) -> float:
        first, *others = (each.quality(index, len(truth[index].labels)) for each in seen)
        return max((abs(other - first) for other in others), default=1 - first)

    return sorted(range(len(truth)), key=gap, reverse=True)


def _redrawn(predictions: Mapping[str, PerImage]) -> list[list[Panel]]:
    split = next(iter(predictions.values())).truth
    classes = {category: index for index, category in enumerate(split.categories)}
    truth = [_true(split.objects[image["id"]], classes) for image in split.images]
    seen = [look(letter, each, truth, classes) for letter, each in predictions.items()]
    names = list(split.categories.values())
    return [_row(split, index, truth[index], seen, names) for index in order(seen, truth)[:MAX_IMAGES]]


def _median(setting: Setting, metric: str) -> Run:
    measured = sorted((run for run in setting.runs if values([run], metric)), key=lambda run: values([run], metric))
    return measured[(len(measured) - 1) // 2] if measured else setting.runs[0]


def _true(objects: Sequence[dict[str, Any]], classes: Mapping[int, int]) -> Boxes:
    return Boxes([_corners(each["bbox"]) for each in objects], [classes[each["category_id"]] for each in objects])


def _corners(box: Sequence[float]) -> Corners:
    left, top, width, height = box
    return left, top, left + width, top + height


def _row(split: Truth, index: int, truth: Boxes, seen: Sequence[Seen], names: Sequence[str]) -> list[Panel]:
    file, size = split.files[index], (split.images[index]["height"], split.images[index]["width"])
    image, label, count = read_image(file, size=size), file.rpartition("/")[2], len(truth.labels)
    panels = [_panel(image, truth, names, f"ground truth, {label}")]
    return panels + [
        _panel(image, each.drawn[index], names, f"{each.letter}: {each.words(index, count)}") for each in seen
    ]


def _panel(image: Image.Image, boxes: Boxes, names: Sequence[str], caption: str) -> Panel:
    scale = min(1.0, MAX_SIDE / max(image.size))
    small = image.resize((round(image.width * scale), round(image.height * scale)))
    corners = [(left * scale, top * scale, right * scale, bottom * scale) for left, top, right, bottom in boxes.corners]
    scaled = Boxes(corners, boxes.labels, boxes.scores)
    stream = io.BytesIO()
    draw_boxes(small, scaled, names).save(stream, format="JPEG", quality=80)
    listed = ", ".join(names[each] for each in boxes.labels) or "no boxes"
    return Panel(caption, f"{caption}; {listed}", _uri(stream.getvalue()))


def _kept(chosen: Mapping[str, Run], note: str) -> Pictures:
    """predictions/*.jpg of the runs: ground truth on the left, predictions on the right."""
    folders = {letter: run.folder / "predictions" for letter, run in chosen.items()}
    files = sorted({file.name for folder in folders.values() for file in folder.glob("*.jpg")})[:MAX_IMAGES]
    rows = [
        [
            Panel(f"{letter}: ground truth and predictions", f"{name} of {letter}", _uri((folder / name).read_bytes()))
            for letter, folder in folders.items()
            if (folder / name).exists()
        ]
        for name in files
    ]
    return Pictures(rows, note)


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
