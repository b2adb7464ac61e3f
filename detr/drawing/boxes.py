"""Boxes and masks on pictures: what was found beside what is there."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from detr.drawing.lettering import label_size, lettered
from detr.evaluation.examples import Boxes, Corners, Example

Color = tuple[int, int, int]

DRAWN_SCORE = 0.5  # predictions below are not drawn
BELOW = 3  # of them are drawn where there are no others
OPACITY = 0.45  # of masks
MIN_SIDE = 448  # pixels of the longer side; smaller images are scaled up before anything is drawn on them
PAPER: Color = (255, 255, 255)
INK: Color = (30, 30, 30)


def class_color(label: int) -> Color:
    """Return the colour of a class, the same everywhere. Golden-ratio steps around the hues keep neighbours apart."""
    hue = (0.02 + label * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.8, 0.65)[label // 5 % 3])
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: Image.Image, boxes: Boxes, names: Sequence[str], colors: Sequence[Color] | None = None
) -> Image.Image:
    """Return a copy of the image with masks, boxes and labels; small images are scaled up to `MIN_SIDE` first.

    Masks are half transparent with an outline, and lie below all boxes. The best-scored of either are drawn last, on
    top of the others.

    Args:
        image: any.
        boxes: in it.
        names: of all classes; index = label. One that is empty is not written.
        colors: of all classes; None: as `class_color` has them.
    """
    color = class_color if colors is None else colors.__getitem__
    scale = max(1.0, MIN_SIDE / max(image.size))
    canvas = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    unit = max(canvas.size)
    order = range(len(boxes.labels)) if boxes.scores is None else _ascending(boxes.scores)
    if boxes.masks is not None:
        for index in order:
            _draw_mask(canvas, boxes.masks[index], color(boxes.labels[index]), width=max(2, unit // 320))
    draw = ImageDraw.Draw(canvas)
    corners = [_drawable(box, scale, canvas.size) for box in boxes.corners]
    for index in order:
        draw_frame(draw, corners[index], color(boxes.labels[index]), width=max(2, unit // 320))
    named = [index for index in order if names[boxes.labels[index]]]
    for index in named:  # all labels after all boxes, so that no edge runs through a word
        text, font = lettered(_text(boxes, index, names), label_size(unit))
        _draw_label(draw, corners[index], text, color(boxes.labels[index]), font)
    return canvas


def fitted(image: Image.Image, boxes: Boxes, side: int) -> tuple[Image.Image, Boxes]:
    """Return an image whose longer side is at most `side` pixels, and its boxes and masks there."""
    scale = min(1.0, side / max(1, *image.size))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    corners = [(left * scale, top * scale, right * scale, bottom * scale) for left, top, right, bottom in boxes.corners]
    masks = None if boxes.masks is None else np.array([_resized(each, small.size) for each in boxes.masks], dtype=bool)
    return small, Boxes(corners, boxes.labels, boxes.scores, masks)


def side_by_side(example: Example, *, min_score: float = DRAWN_SCORE) -> Image.Image:
    """Draw ground truth on the left, predictions of at least `min_score` on the right, a caption above each.

    Where no score is that high, the best few are drawn: they show what a detector begins to see.
    """
    predicted = example.predicted.above(min_score)
    caption = f"predicted: {len(predicted.labels)} (scores from {min_score:g})"
    if not predicted.labels and example.predicted.labels:
        predicted = example.predicted.best(BELOW)
        caption = f"no score from {min_score:g}; the best {len(predicted.labels)}"
    left = draw_boxes(example.image, example.truth, example.names)
    right = draw_boxes(example.image, predicted, example.names)
    return join_captioned(
        [
            (left, f"ground truth: {len(example.truth.labels)}  {example.caption}".rstrip()),
            (right, caption),
        ]
    )


def join_captioned(panels: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Join pictures of equal height in a row, each under its caption."""
    height = max(picture.height for picture, _ in panels)
    gap = max(4, height // 80)
    size = max(12, height // 32)
    head = round(1.7 * size)
    width = sum(picture.width for picture, _ in panels) + gap * (len(panels) - 1)
    sheet = Image.new("RGB", (width, head + height), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = 0
    for picture, caption in panels:
        text, font = lettered(caption, size)
        draw.text((left + gap, head // 2), _shorten(text, font, picture.width - 2 * gap), INK, font, anchor="lm")
        sheet.paste(picture, (left, head))
        left += picture.width + gap
    return sheet


def _ascending(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: scores[index])


def _drawable(corners: Corners, scale: float, size: tuple[int, int]) -> Corners:
    """Scaled, clipped to the picture and with its corners in order, whatever a young network predicts."""
    width, height = size
    horizontal = sorted(min(max(value * scale, 0), width - 1) for value in corners[0::2])
    vertical = sorted(min(max(value * scale, 0), height - 1) for value in corners[1::2])
    return horizontal[0], vertical[0], horizontal[1], vertical[1]


def _text(boxes: Boxes, index: int, names: Sequence[str]) -> str:
    name = names[boxes.labels[index]]
    return name if boxes.scores is None else f"{name} {boxes.scores[index]:.2f}"


def _draw_mask(canvas: Image.Image, mask: NDArray[np.bool_], color: Color, width: int) -> None:
    """Tint the pixels of a mask [height, width], which is scaled to the canvas, and draw along its inner edge."""
    inside = Image.fromarray(_resized(mask, canvas.size).astype(np.uint8) * 255)
    framed = Image.new("L", (canvas.width + 2 * width, canvas.height + 2 * width))  # so that the picture's edge is one
    framed.paste(inside, (width, width))
    core = framed.filter(ImageFilter.MinFilter(2 * width + 1))
    core = core.crop((width, width, width + canvas.width, width + canvas.height))
    canvas.paste(color, mask=inside.point(lambda value: round(value * OPACITY)))
    canvas.paste(color, mask=ImageChops.subtract(inside, core))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask [height, width] at another size (width, height), by the nearest pixel."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(np.bool_)


def draw_frame(draw: ImageDraw.ImageDraw, corners: Corners, color: Color, width: int) -> None:
    """Draw a box with a hair of black or white around it, to be seen on a ground of its own colour too."""
    left, top, right, bottom = corners
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=readable_on(color), width=width + 2)
    draw.rectangle(corners, outline=color, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw, corners: Corners, text: str, color: Color, font: ImageFont.FreeTypeFont
) -> None:
    """On a ground of the box's colour, above the box, or inside where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(corners[0], max(0, draw.im.size[0] - width))
    y = corners[1] - height if corners[1] >= height else corners[1]
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 2 - left, y + 2 - top), text, readable_on(color), font)


def readable_on(color: Color) -> Color:
    """Return black or white, by the ground's luminance (ITU-R BT.601)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
