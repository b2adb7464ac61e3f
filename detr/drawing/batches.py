"""A batch as a model receives it: padded images, their objects, and what is made of these while training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from detr.boxes import cxcywh_to_xyxy
from detr.drawing.boxes import PAPER, Color, class_color, draw_boxes, join_captioned
from detr.drawing.segments import draw_segments
from detr.evaluation.examples import Boxes, Segments
from detr.models.denoising import Noised
from detr.structures import Batch, Classes

LONGEST = 800  # pixels of a panel
GROUPS = 3  # of denoising queries that are drawn
TRUE: Color = (235, 235, 235)  # objects where the noisy ones are what matters
STRIPE = 12  # pixels of the hatching that is padding
STRIPES = ((70, 70, 76), (95, 95, 102))

Panel = tuple[Image.Image, str]  # with its caption


def batch_sheet(
    batch: Batch, classes: Classes, *, noised: Noised | None = None, copies: tuple[int, int] | None = None
) -> Image.Image:
    """Return a batch drawn: a row for each image, its padding hatched.

    Args:
        batch: on the host.
        classes: of its labels.
        noised: denoising queries of the batch; they get panels of their own.
        copies: how many of how many further queries are matched to each object; such objects get a panel, too.
    """
    rows = []
    for index in range(len(batch)):
        panels = [objects_panel(batch, index, classes)]
        if noised is not None:
            panels += denoising_panels(batch, index, classes, noised)
        if copies is not None:
            panels.append(copies_panel(batch, index, classes, copies))
        rows.append(join_captioned(panels))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + 6 for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + 6
    return sheet


def described(batch: Batch, classes: Classes) -> Iterator[str]:
    """Yield a line for each image: its file, its sizes and its objects."""
    padded = tuple(batch.images.shape[-2:])
    labels = batch.targets.labels.split(batch.targets.counts)
    for file, size, stored, own in zip(batch.files, batch.sizes, batch.original_sizes, labels, strict=True):
        counts = Counter(classes.names[label] for label in own.tolist())
        objects = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no object"
        yield f"{file}: {_size(stored.tolist())}, here {_size(size.tolist())}, padded to {_size(padded)}; {objects}"


def objects_panel(batch: Batch, index: int, classes: Classes) -> Panel:
    """Return an image with its objects: boxes, masks, or the segments of a panoptic data set."""
    picture = padded_picture(batch, index)
    rows = batch.targets.image == index
    labels, masks = batch.targets.labels[rows], batch.targets.masks
    if masks is not None and classes.things is not None:
        drawn = draw_segments(picture, Segments.from_masks(masks[rows], labels), classes.names)
    else:
        corners = _corners(batch, index, batch.targets.boxes[rows], picture)
        boxes = Boxes.from_tensors(corners, labels, masks=None if masks is None else masks[rows])
        drawn = draw_boxes(picture, boxes, classes.names)
    return drawn, f"{Path(batch.files[index]).name}, {_size(batch.sizes[index].tolist())}"


def denoising_panels(batch: Batch, index: int, classes: Classes, noised: Noised) -> Iterator[Panel]:
    """Yield an image with the noisy objects of the first groups, a colour a group, and one with those too far off.

    A label says what a query is told and, behind the arrow, what it is to become, where that is another class. The
    objects themselves are drawn in light grey.
    """
    names, own = classes.names, noised.matches.image == index
    queries, targets = noised.matches.query[own], noised.matches.target[own]
    groups = queries // noised.size
    shown = groups < GROUPS
    queries, targets, groups = queries[shown], targets[shown], groups[shown]
    true = batch.targets.boxes[batch.targets.image == index]
    largest = max(1, *batch.targets.counts)
    for offset in range(0, noised.size, largest):
        told = noised.labels[index, queries + offset].tolist()
        become = [None if offset else each for each in batch.targets.labels[targets].tolist()]
        words = [_words(names[a], None if b is None else names[b]) for a, b in zip(told, become, strict=True)]
        boxes = torch.cat([true, noised.boxes[index, queries + offset]])
        colors = [TRUE] * len(true) + [class_color(group) for group in groups.tolist()]
        picture = padded_picture(batch, index)
        corners = _corners(batch, index, boxes, picture)
        drawn = draw_boxes(
            picture, Boxes.from_tensors(corners, torch.arange(len(boxes))), [""] * len(true) + words, colors
        )
        what = "to become no object" if offset else "denoising"
        yield drawn, f"{what}: {min(GROUPS, noised.groups)} of {noised.groups} groups"


def copies_panel(batch: Batch, index: int, classes: Classes, copies: tuple[int, int]) -> Panel:
    """Return an image with its objects, and how many of the further queries are matched to each."""
    picture, rows = padded_picture(batch, index), batch.targets.image == index
    corners = _corners(batch, index, batch.targets.boxes[rows], picture)
    names = [f"{name} × {copies[0]}" for name in classes.names]
    drawn = draw_boxes(picture, Boxes.from_tensors(corners, batch.targets.labels[rows]), names)
    return drawn, f"one to many: {copies[0]} of {copies[1]} further queries for each"


def padded_picture(batch: Batch, index: int) -> Image.Image:
    """Return an image of a batch with its padding hatched, at most `LONGEST` pixels wide and high."""
    pixels = np.array(to_pil_image(batch.images[index]))
    rows, columns = np.indices(pixels.shape[:2])
    hatching = np.array(STRIPES, dtype=np.uint8)[(rows + columns) // STRIPE % 2]
    padding = batch.padding[index].numpy()
    pixels[padding] = hatching[padding]
    picture = Image.fromarray(pixels)
    scale = min(1.0, LONGEST / max(picture.size))
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _corners(batch: Batch, index: int, boxes: torch.Tensor, picture: Image.Image) -> torch.Tensor:
    """[n, 4] xyxy in pixels of the picture, which is padded; `boxes` are relative to the image without padding."""
    height, width = batch.sizes[index].tolist()
    scale = picture.width / batch.images.shape[-1]
    return cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height]) * scale


def _words(told: str, become: str | None) -> str:
    return "" if become is None else told if told == become else f"{told} → {become}"


def _size(size: Sequence[int]) -> str:
    """(height, width) as pictures have it."""
    return f"{size[1]} × {size[0]}"
