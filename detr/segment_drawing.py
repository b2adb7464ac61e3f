"""Panoptic segments on pictures: every pixel tinted by whose it is."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from detr.drawing import MIN_SIDE, Color, class_color, label_font, readable_on
from detr.structures import PanopticSegments

OPACITY = 0.55  # of the tint
LABELLED = 0.004  # part of the picture; smaller segments have no name written on them


@dataclass(frozen=True)
class Segments:
    """n segments of one image."""

    ids: NDArray[np.integer]  # [height, width] 0 void, i + 1 segment i
    labels: list[int]  # [n] class index

    @classmethod
    def of(cls, segments: PanopticSegments) -> Self:
        return cls(segments.ids.numpy(), segments.labels.tolist())

    @classmethod
    def from_masks(cls, masks: Tensor, labels: Tensor) -> Self:
        """Masks [n, height, width], of which the last wins where they overlap, and labels [n]."""
        numbers = np.arange(1, len(masks) + 1, dtype=np.int64)[:, None, None]
        return cls((masks.cpu().numpy() * numbers).max(axis=0, initial=0), labels.tolist())


def draw_segments(image: Image.Image, segments: Segments, names: Sequence[str]) -> Image.Image:
    """A copy of the image with tinted segments, their borders and names; void keeps its colours.

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
    """[n] the colour of each segment's class, darker from one segment of a class to the next."""
    seen: dict[int, int] = {}
    colors = []
    for label in labels:
        number = seen[label] = seen.get(label, -1) + 1
        hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in class_color(label)))
        shade = colorsys.hsv_to_rgb(hue, saturation * (0.8, 1.0, 0.55)[number % 3], value * (1.0, 0.7, 0.9)[number % 3])
        red, green, blue = (round(255 * part) for part in shade)
        colors.append((red, green, blue))
    return colors


def _borders(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[height, width] whether the pixel to the right or below is of another segment."""
    borders = np.zeros(ids.shape, dtype=np.bool_)
    borders[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    borders[:-1] |= ids[:-1] != ids[1:]
    return borders


def _write_names(canvas: Image.Image, ids: NDArray[np.integer], names: Sequence[str], colors: Sequence[Color]) -> None:
    draw = ImageDraw.Draw(canvas)
    font = label_font(max(canvas.size))
    for number, (name, color) in enumerate(zip(names, colors, strict=True), start=1):
        rows, columns = np.nonzero(ids == number)
        if len(rows) < LABELLED * ids.size:
            continue
        middle = len(rows) // 2
        # A pixel of the segment itself, in the middle of its middle row: a centre of mass may lie outside.
        own = np.sort(columns[rows == rows[middle]])
        place = (float(own[len(own) // 2]), float(rows[middle]))
        box = draw.textbbox(place, name, font=font, anchor="mm")
        draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), fill=color)
        draw.text(place, name, readable_on(color), font, anchor="mm")
