"""Attention on pictures: where a query or a point looked, as warm colours or as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detr.drawing.boxes import PAPER, Color, draw_frame, join_captioned
from detr.evaluation.examples import Corners

SIDE = 448  # pixels of the longer side of each picture
GREY = 0.65  # of the image below, so that colours are those of attention
COLORS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64
)  # inferno
OPACITY = 0.75  # where attention is strongest
SHOWN = 0.99  # quantile of the weights that has the brightest colour


@dataclass(frozen=True)
class Look:
    """Holds where something looked in one layer."""

    caption: str
    color: Color  # of the frame
    map: NDArray[np.float32] | None = None  # [h, w] weights over the whole image
    points: NDArray[np.float32] | None = None  # [k, 3] (x, y) in pixels of the image, and the weight
    corners: Corners | None = None  # of what was found, xyxy in pixels of the image
    origin: tuple[float, float] | None = None  # (x, y) in pixels of the image


def attention_sheet(image: Image.Image, looks: Sequence[Look], columns: int) -> Image.Image:
    """Return a sheet of pictures, so many in a row, each under its caption."""
    scale = SIDE / max(image.size)
    base = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    panels = [(_picture(base, look, scale), look.caption) for look in looks]
    rows = [join_captioned(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _picture(base: Image.Image, look: Look, scale: float) -> Image.Image:
    picture = Image.blend(base, base.convert("L").convert("RGB"), GREY)
    if look.map is not None:
        picture = _warmed(picture, look.map)
    draw = ImageDraw.Draw(picture)
    if look.points is not None:
        _draw_points(draw, look.points, scale)
    if look.corners is not None:
        left, top, right, bottom = (value * scale for value in look.corners)
        draw_frame(draw, (left, top, max(left, right), max(top, bottom)), look.color, width=2)
    if look.origin is not None:
        _draw_cross(draw, look.origin[0] * scale, look.origin[1] * scale)
    return picture


def _warmed(picture: Image.Image, weights: NDArray[np.float32]) -> Image.Image:
    """Tinted by weights [h, w], the brighter and the less transparent the more."""
    strength = np.clip(weights / max(float(np.quantile(weights, SHOWN)), 1e-12), 0, 1)
    smooth = np.asarray(Image.fromarray(strength.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    opacity = OPACITY * np.sqrt(smooth.clip(0, 1))[..., None]
    pixels = np.asarray(picture, dtype=np.float64) * (1 - opacity) + _colors(smooth) * opacity
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_points(draw: ImageDraw.ImageDraw, points: NDArray[np.float32], scale: float) -> None:
    """Dots, brighter and larger with more weight, the heaviest on top."""
    heaviest = max(float(points[:, 2].max()), 1e-12)
    order = points[np.argsort(points[:, 2])]
    for (x, y, weight), color in zip(order.tolist(), _colors(order[:, 2] / heaviest).round().tolist(), strict=True):
        radius = 2 + 3 * (weight / heaviest) ** 0.5
        place = (x * scale - radius, y * scale - radius, x * scale + radius, y * scale + radius)
        draw.ellipse(place, fill=tuple(map(int, color)), outline=(0, 0, 0))


def _draw_cross(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    for width, color in ((5, (0, 0, 0)), (2, (80, 255, 80))):
        draw.line((x - 9, y, x + 9, y), fill=color, width=width)
        draw.line((x, y - 9, x, y + 9), fill=color, width=width)


def _colors(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """[…] in [0, 1] → […, 3] from dark to bright."""
    steps = np.linspace(0, 1, len(COLORS))
    return np.stack([np.interp(values, steps, channel) for channel in COLORS.T], axis=-1)
