"""The same validation images as every setting sees them, those on which the settings differ most first."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from detr.comparison.images import PerImage, per_image
from detr.comparison.metrics import number, values
from detr.comparison.reading import Run
from detr.comparison.settings import Setting
from detr.data.annotations import Annotations
from detr.data.images import read_image
from detr.drawing import DRAWN_SCORE, Boxes, draw_boxes
from detr.errors import UserError

MAX_IMAGES = 8
MAX_SETTINGS = 4  # in a row; more would be too small to see
MAX_SIDE = 640  # pixels; larger images are shrunk
NOTHING_TO_FIND = -1.0  # ranks images without objects behind all others


@dataclass(frozen=True)
class Panel:
    """One picture."""

    caption: str
    description: str  # for those who cannot see it
    uri: str  # data:image/jpeg;base64,…


@dataclass(frozen=True)
class Rows:
    """Pictures row by row, and what they are."""

    rows: list[list[Panel]]
    note: str


def pictures(settings: Sequence[Setting], metric: str) -> Rows:
    """Ground truth and predictions side by side, redrawn; where that cannot be, the pictures that the runs kept."""
    alike = [setting for setting in settings if settings[0].data.same(setting.data)]
    chosen = {setting.letter: representative(setting, settings[0], metric) for setting in alike}
    shown = alike[:MAX_SETTINGS]
    which = ", ".join(f"{setting.letter} by seed {chosen[setting.letter].seed}" for setting in shown)
    try:
        found = {setting.letter: per_image(chosen[setting.letter], setting.data) for setting in shown}
        names = dict(sorted(next(iter(found.values())).truth.categories.items()))
        order = by_difference(list(found.values()))[:MAX_IMAGES]
        rows = [_row(index, found, names) for index in order]
    except UserError as error:
        return _kept(shown, chosen, f"Pictures as the runs drew them, since they cannot be drawn anew: {error}")
    return Rows(
        rows,
        f"Images on which the settings' average precision differs most come first; {which}, best epoch. Drawn are "
        f"predictions with scores from {DRAWN_SCORE:g}, and the best ones below up to the number of objects.",
    )


def representative(setting: Setting, baseline: Setting, metric: str) -> Run:
    """The run whose metric is the median; the baseline's seed where there is one of it, so that seeds are the same."""
    middle = _median(baseline, metric)
    return setting.seeds.get(middle.seed) or _median(setting, metric)


def by_difference(found: Sequence[PerImage]) -> list[int]:
    """Ranks of the images' ids, the largest difference to the first setting first; of equal ones the lower rank."""
    each = [one.each for one in found]
    gaps = [np.abs(other - each[0]) for other in each[1:]] or [1 - each[0]]  # alone: where it is worst
    gap = np.nan_to_num(np.max(gaps, axis=0), nan=NOTHING_TO_FIND)
    return np.argsort(-gap, kind="stable").tolist()


def _median(setting: Setting, metric: str) -> Run:
    measured = sorted((run for run in setting.runs if values([run], metric)), key=lambda run: values([run], metric))
    return (measured or setting.runs)[(len(measured) - 1) // 2 if measured else 0]


def _row(rank: int, found: dict[str, PerImage], names: dict[int, str]) -> list[Panel]:
    """`rank` of the image's id among all."""
    truth = next(iter(found.values())).truth
    index = int(np.argsort(truth.image_ids)[rank])
    image_id, file = int(truth.image_ids[index]), str(truth.files[index])
    height, width = truth.sizes[index].tolist()
    image, scale = _shrunk(read_image(file, size=(height, width)))
    true = _true(truth, index, names, scale)
    label = file.rpartition("/")[2]
    panels = [_panel(image, true, names, f"ground truth  {label}", f"{label}, ground truth")]
    for letter, one in found.items():
        predicted = _predicted(one.results, image_id, len(true.labels), names, scale)
        quality = number(100 * _defined(one.each[rank]))
        panels.append(
            _panel(
                image, predicted, names, f"{letter}  AP {quality}", f"{label}, predictions of {letter}, AP {quality}"
            )
        )
    return panels


def _defined(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)


def _true(truth: Annotations, index: int, names: dict[int, str], scale: float) -> Boxes:
    rows = truth.objects(index)
    rank = {category: position for position, category in enumerate(names)}
    corners = truth.corners()[rows] * scale
    return Boxes([tuple(box) for box in corners.tolist()], [rank[i] for i in truth.category_ids[rows].tolist()])


def _predicted(results: list[dict[str, Any]], image_id: int, count: int, names: dict[int, str], scale: float) -> Boxes:
    """What is sure enough, and the best `count` of an image: a young network is sure of nothing."""
    rank = {category: position for position, category in enumerate(names)}
    mine = sorted((row for row in results if row["image_id"] == image_id), key=lambda row: -row["score"])
    mine = [row for place, row in enumerate(mine) if place < count or row["score"] >= DRAWN_SCORE]
    corners = []
    for row in mine:
        left, top, width, height = (value * scale for value in row["bbox"])
        corners.append((left, top, left + width, top + height))
    return Boxes(corners, [rank[row["category_id"]] for row in mine], [row["score"] for row in mine])


def _shrunk(image: Image.Image) -> tuple[Image.Image, float]:
    scale = min(1.0, MAX_SIDE / max(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale))), scale


def _panel(image: Image.Image, boxes: Boxes, names: dict[int, str], caption: str, description: str) -> Panel:
    stream = io.BytesIO()
    draw_boxes(image, boxes, list(names.values())).save(stream, format="JPEG", quality=80)
    found = ", ".join(names[list(names)[label]] for label in boxes.labels) or "nothing"
    return Panel(caption, f"{description}: {found}", _uri(stream.getvalue()))


def _kept(settings: Sequence[Setting], chosen: dict[str, Run], note: str) -> Rows:
    """predictions/*.jpg of the runs: ground truth on the left, predictions on the right."""
    folders = {setting.letter: chosen[setting.letter].folder / "predictions" for setting in settings}
    files = sorted({file.name for folder in folders.values() for file in folder.glob("*.jpg")})[:MAX_IMAGES]
    rows = [
        [
            Panel(f"{letter}: ground truth, predictions", f"{name} of {letter}", _uri((folder / name).read_bytes()))
            for letter, folder in folders.items()
            if (folder / name).exists()
        ]
        for name in files
    ]
    return Rows(rows, note)


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
