"""Sheets of pictures: where a finding is, and what the model will receive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.ops import box_convert

from detr.checking.finding import Finding, Place
from detr.checking.records import Records
from detr.data.dataset import ImageSet
from detr.data.images import read_image
from detr.data.variations import Slot, Variations, Varying
from detr.drawing.boxes import PAPER, draw_boxes, fitted, join_captioned
from detr.errors import UserError
from detr.evaluation.examples import Boxes

TILE = (320, 260)  # (width, height) in pixels
LARGEST = 640  # pixels of a side before boxes are drawn
COLUMNS = 4
PER_FINDING = 8
AUGMENTED = 12
LABELS = 8  # of each kind
GREY = (150, 150, 150)


def finding_sheet(finding: Finding, records: Records | None) -> Image.Image | None:
    """Return pictures of where a finding is; None where it is in no image.

    Of a finding in annotations only their boxes are drawn, of one in images all boxes.
    """
    tiles: list[Image.Image] = []
    images = set(records.files.tolist()) if records is not None else set()
    for place in finding.places:
        if len(tiles) >= PER_FINDING:
            break
        if place.file is None or (place.file not in images and finding.split != "all"):
            continue
        tiles.append(_tile(_picture(place, records), _caption(place)))
        if place.like is not None:
            tiles.append(_tile(_open(place.like), Path(place.like).name))
    return _grid(tiles) if tiles else None


def augmented_sheet(images: ImageSet, variations: Variations) -> Image.Image:
    """Return images with their boxes as a model receives them, augmented; evenly spread over the split.

    Args:
        images: of the training.
        variations: of them, as at its beginning.

    Raises:
        UserError: an image cannot be read.
    """
    tiles, varying = [], Varying(images, variations)
    for number in np.linspace(0, len(images) - 1, min(AUGMENTED, len(images))).astype(int).tolist():
        sample = varying.sample(((0, number), Slot(epoch=0, batch=number, part=0)))
        height, width = sample.image.shape[-2:]
        corners = box_convert(sample.boxes, "cxcywh", "xyxy") * sample.boxes.new_tensor([width, height, width, height])
        picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
        drawn = draw_boxes(picture, Boxes.from_tensors(corners, sample.labels), images.classes.names)
        tiles.append(_tile(drawn, f"{Path(sample.file).name}, {width} by {height}"))
    return _grid(tiles)


def _picture(place: Place, records: Records | None) -> Image.Image:
    assert place.file is not None
    image = _open(place.file)
    if records is None:
        return image
    rows = np.flatnonzero(records.files[records.owners] == place.file)
    if place.annotation_id is not None:
        rows = rows[records.annotation_ids[rows] == place.annotation_id]
    numbers = {number: index for index, number in enumerate(sorted(records.categories))}
    corners = [(left, top, right, bottom) for left, top, right, bottom in records.corners[rows].tolist()]
    names = [records.categories[number] for number in numbers]
    labels = [numbers[number] for number in records.category_ids[rows].tolist()]
    return draw_boxes(*fitted(image, Boxes(corners, labels), LARGEST), names)


def _open(file: str) -> Image.Image:
    """As a training reads it; a grey one where it would refuse."""
    try:
        return read_image(file)
    except UserError:
        return Image.new("RGB", (4, 3), GREY)


def _caption(place: Place) -> str:
    number = f"annotation {place.annotation_id}, " if place.annotation_id is not None else ""
    return f"{number}{Path(place.file or '').name}"


def _tile(picture: Image.Image, caption: str) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail(TILE)
    ground = Image.new("RGB", TILE, PAPER)
    ground.paste(picture, ((TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return join_captioned([(ground, caption)])


def _grid(tiles: Sequence[Image.Image]) -> Image.Image:
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * (width + 6), -(-len(tiles) // columns) * (height + 6)), PAPER)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * (width + 6), number // columns * (height + 6)))
    return sheet


def heat_map(records: Records) -> Image.Image | None:
    """Return where the centres of a split's boxes lie, from white for none to blue for most; None without boxes."""
    rows = np.flatnonzero(records.usable & np.isfinite(records.frames).all(axis=1))
    if not len(rows):
        return None
    centres = (records.boxes[rows, :2] + records.boxes[rows, 2:] / 2) / records.frames[rows]
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=(24, 32), range=((0, 1), (0, 1)))
    strength = np.sqrt(counts / counts.max())[..., None]  # the root, or one crowded spot would leave all others white
    colours = (1 - strength) * np.array([255, 255, 255]) + strength * np.array([0, 75, 160])
    return Image.fromarray(colours.astype(np.uint8)).resize((320, 240), Image.Resampling.NEAREST)


def label_sheet(findings: Sequence[Finding], records: Records) -> Image.Image | None:
    """Return the surest label errors of each kind and what is around them; "?" is where a detector differs."""
    suspects = [(finding, place) for finding in findings for place in finding.places[:LABELS] if place.box]
    names = [records.categories[number] for number in sorted(records.categories)]
    numbers = {number: index for index, number in enumerate(sorted(records.categories))}
    tiles = []
    for finding, place in suspects:
        assert place.file is not None
        assert place.box is not None
        image = _open(place.file)
        x, y, width, height = place.box
        side = 1.5 * max(width, height)
        left, top = max(0, round(x + width / 2 - side)), max(0, round(y + height / 2 - side))
        right, bottom = min(image.width, round(left + 2 * side)), min(image.height, round(top + 2 * side))
        index = int(np.flatnonzero(records.image_ids == place.image_id)[0])
        rows = records.rows_of(index)
        boxes = np.concatenate([records.corners[rows], [[x, y, x + width, y + height]]]) - [left, top, left, top]
        near = ((boxes[:, 2:] > 0) & (boxes[:, :2] < [right - left, bottom - top])).all(axis=1)
        labels = np.array([*(numbers[number] for number in records.category_ids[rows].tolist()), len(names)])
        shown = Boxes([(a, b, c, d) for a, b, c, d in boxes[near].tolist()], labels[near].tolist())
        drawn = draw_boxes(image.crop((left, top, right, bottom)), shown, [*names, "?"])
        tiles.append(_tile(drawn, f"{finding.check.removeprefix('label-')} {place.score:.2f}, {Path(place.file).name}"))
    return _grid(tiles) if tiles else None
