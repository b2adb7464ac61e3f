"""Panoptic segments on pictures: every pixel tinted by whose it is."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detr.drawing.boxes import (
    MIN_SIDE,
    Color,
    class_color,
    join_captioned,
    readable_on,
    side_by_side,
)
from detr.drawing.lettering import label_size, lettered
from detr.evaluation.examples import Example, Segments

OPACITY = 0.55  # of the tint
LABELLED = 0.004  # part of the picture; smaller segments have no name written on them


def comparison(example: Example) -> Image.Image:
    """Draw ground truth on the left, predictions on the right: segments where they were evaluated, else boxes."""
    if example.segments is None:
        return side_by_side(example)
    true, predicted = example.segments
    return join_captioned(
        [
            (draw_segments(example.image, true, example.names), f"ground truth: {_kinds(true)}  {example.caption}"),
            (draw_segments(example.image, predicted, example.names), f"predicted: {_kinds(predicted)}"),
        ]
    )


def draw_segments(image: Image.Image, segments: Segments, names: Sequence[str]) -> Image.Image:
    """Return a copy of the image with tinted segments, their borders and names; void keeps its colours.

    A class has one hue; its segments differ in lightness. Small images are scaled up to `MIN_SIDE` first.
    """
    scale = max(1.0, MIN_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    picture = np.asarray(image.convert("RGB").resize(size), dtype=np.float64)
    ids = np.asarray(Image.fromarray(segments.ids.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    colors = segment_colors(segments.labels)
    palette = np.array([(0, 0, 0), *colors], dtype=np.float64)
    opacity = np.where(ids > 0, OPACITY, 0.0)[..., None]
    tinted = picture * (1 - opacity) + palette[ids] * opacity
    tinted[_borders(ids)] = 255
    canvas = Image.fromarray(tinted.round().astype(np.uint8))
    _write_names(canvas, ids, [names[label] for label in segments.labels], colors)
    return canvas


def segment_colors(labels: Sequence[int]) -> list[Color]:
    """Return [n] the colour of each segment's class, darker from one segment of a class to the next."""
    seen: dict[int, int] = {}
    colors = []
    for label in labels:
        number = seen[label] = seen.get(label, -1) + 1
        hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in class_color(label)))
        shade = colorsys.hsv_to_rgb(hue, saturation * (0.8, 1.0, 0.55)[number % 3], value * (1.0, 0.7, 0.9)[number % 3])
        red, green, blue = (round(255 * part) for part in shade)
        colors.append((red, green, blue))
    return colors


def _kinds(segments: Segments) -> str:
    count = len(segments.labels)
    return f"{count} segment" if count == 1 else f"{count} segments"


def _borders(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[height, width] whether the pixel to the right or below is of another segment."""
    borders = np.zeros(ids.shape, dtype=np.bool_)
    borders[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    borders[:-1] |= ids[:-1] != ids[1:]
    return borders


def _write_names(canvas: Image.Image, ids: NDArray[np.integer], names: Sequence[str], colors: Sequence[Color]) -> None:
    draw = ImageDraw.Draw(canvas)
    for number, (name, color) in enumerate(zip(names, colors, strict=True), start=1):
        rows, columns = np.nonzero(ids == number)
        if len(rows) < LABELLED * ids.size:
            continue
        middle = len(rows) // 2
        # A pixel of the segment itself, in the middle of its middle row: a centre of mass may lie outside.
        own = np.sort(columns[rows == rows[middle]])
        place = (float(own[len(own) // 2]), float(rows[middle]))
        text, font = lettered(name, label_size(max(canvas.size)))
        box = draw.textbbox(place, text, font=font, anchor="mm")
        draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), fill=color)
        draw.text(place, text, readable_on(color), font, anchor="mm")
