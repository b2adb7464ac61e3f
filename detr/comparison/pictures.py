"""The same validation images as every setting sees them, those on which the settings differ most first."""

from __future__ import annotations

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
from detr.drawing.boxes import DRAWN_SCORE, draw_boxes, fitted
from detr.drawing.page import encoded, uri
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

    def wrong(self, index: int) -> int:
        """Return how many of an image's boxes find nothing."""
        return len(self.drawn[index].labels) - self.found[index]

    def words(self, index: int, objects: int) -> str:
        return f"{self.found[index]} of {objects} found, {self.wrong(index)} wrong"


@dataclass(frozen=True)
class Sight:
    """Holds what all settings see of I images."""

    truth: Truth
    objects: list[Boxes]  # [I]
    seen: list[Seen]  # of each setting
    note: str  # which runs they are

    @property
    def order(self) -> list[int]:
        """Return the images, those first on which the settings differ most."""
        return order(self.seen, self.objects)


def look_at(settings: Sequence[Setting], metric: str) -> Sight:
    """Return what settings see of the images that they have in common.

    Raises:
        UserError: predictions or ground truth cannot be read.
    """
    chosen = _chosen(settings, metric)
    predictions = {letter: per_image(run, settings[0].data) for letter, run in chosen.items()}
    truth = next(iter(predictions.values())).truth
    classes = {category: index for index, category in enumerate(truth.categories)}
    objects = [_true(truth.objects[image["id"]], classes) for image in truth.images]
    seen = [look(letter, each, objects, classes) for letter, each in predictions.items()]
    which = ", ".join(f"{letter} with seed {run.seed}" for letter, run in chosen.items())
    return Sight(
        truth,
        objects,
        seen,
        f"Images on which the settings differ most come first; {which}. Drawn are predictions with scores "
        f"from {DRAWN_SCORE:g}, and the best ones below up to the number of objects; found is an object with a box of "
        f"its class at an IoU of {FOUND:g}.",
    )


def pictures(settings: Sequence[Setting], metric: str) -> Pictures:
    """Return ground truth and predictions side by side, redrawn; or the pictures that the runs kept."""
    try:
        sight = look_at(settings, metric)
        names = list(sight.truth.categories.values())
        rows = [_row(sight, index, names) for index in sight.order[:MAX_IMAGES]]
    except UserError as error:
        kept = _kept(_chosen(settings, metric))
        instead = "Pictures as the runs drew them, since they cannot be drawn anew" if kept else "No images"
        return Pictures(kept, f"{instead}: {error}.")
    return Pictures(rows, sight.note)


def _chosen(settings: Sequence[Setting], metric: str) -> dict[str, Run]:
    """A run of each setting that was evaluated on the baseline's images."""
    shown = [setting for setting in settings if settings[0].data.same(setting.data)][:MAX_SETTINGS]
    return {setting.letter: representative(setting, settings[0], metric) for setting in shown}


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


def _median(setting: Setting, metric: str) -> Run:
    measured = sorted((run for run in setting.runs if values([run], metric)), key=lambda run: values([run], metric))
    return measured[(len(measured) - 1) // 2] if measured else setting.runs[0]


def _true(objects: Sequence[dict[str, Any]], classes: Mapping[int, int]) -> Boxes:
    return Boxes([_corners(each["bbox"]) for each in objects], [classes[each["category_id"]] for each in objects])


def _corners(box: Sequence[float]) -> Corners:
    left, top, width, height = box
    return left, top, left + width, top + height


def _row(sight: Sight, index: int, names: Sequence[str]) -> list[Panel]:
    file, size = sight.truth.files[index], sight.truth.images[index]
    image, label = read_image(file, size=(size["height"], size["width"])), file.rpartition("/")[2]
    objects = sight.objects[index]
    panels = [_panel(image, objects, names, f"ground truth, {label}")]
    return panels + [
        _panel(image, each.drawn[index], names, f"{each.letter}: {each.words(index, len(objects.labels))}")
        for each in sight.seen
    ]


def _panel(image: Image.Image, boxes: Boxes, names: Sequence[str], caption: str) -> Panel:
    listed = ", ".join(names[each] for each in boxes.labels) or "no boxes"
    return Panel(caption, f"{caption}; {listed}", uri(encoded(draw_boxes(*fitted(image, boxes, MAX_SIDE), names))))


def _kept(chosen: Mapping[str, Run]) -> list[list[Panel]]:
    """predictions/*.jpg of the runs: ground truth on the left, predictions on the right."""
    folders = {letter: run.folder / "predictions" for letter, run in chosen.items() if run.folder is not None}
    files = sorted({file.name for folder in folders.values() for file in folder.glob("*.jpg")})[:MAX_IMAGES]
    return [
        [
            Panel(f"{letter}: ground truth and predictions", f"{name} of {letter}", uri((folder / name).read_bytes()))
            for letter, folder in folders.items()
            if (folder / name).exists()
        ]
        for name in files
    ]
