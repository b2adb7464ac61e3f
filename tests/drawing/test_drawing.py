"""Pictures, judged by their pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detr.drawing.boxes import MIN_SIDE, class_color, draw_boxes, side_by_side
from detr.evaluation.examples import Boxes, Example
from detr.structures import Detections

NAMES = ("circle", "square")
GREY = (128, 128, 128)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def has_color(image: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == color).all(axis=-1).any())


def test_edges_are_where_the_box_is_in_the_color_of_its_class() -> None:
    image = grey(640, 480)
    drawn = draw_boxes(image, Boxes([(100.0, 200.0, 300.0, 400.0)], [1]), NAMES)
    assert drawn.size == image.size, "large images keep their size"
    color = class_color(1)
    for place in ((100, 300), (300, 300), (200, 400), (250, 200)):
        assert drawn.getpixel(place) == color
    for place in ((95, 300), (305, 300), (200, 300), (200, 406)):
        assert drawn.getpixel(place) == GREY
    assert has_color(drawn.crop((100, 180, 160, 200)), color), "the label stands above the box"
    assert image.getpixel((100, 300)) == GREY, "the original is left as it was"


def test_a_box_is_seen_on_a_ground_of_its_own_color() -> None:
    ground = Image.new("RGB", (500, 500), class_color(0))
    drawn = np.asarray(draw_boxes(ground, Boxes([(100.0, 100.0, 300.0, 300.0)], [0]), NAMES))
    for edge in (drawn[200, 90:110], drawn[200, 290:310], drawn[290:310, 200]):
        assert (edge != class_color(0)).any(axis=-1).sum() == 2, "a hair on both sides"


def test_small_images_are_scaled_up_with_their_boxes() -> None:
    drawn = draw_boxes(grey(128, 64), Boxes([(32.0, 16.0, 96.0, 48.0)], [0]), NAMES)
    assert drawn.size == (MIN_SIDE, MIN_SIDE // 2)
    scale = MIN_SIDE / 128
    assert drawn.getpixel((round(32 * scale), round(30 * scale))) == class_color(0)
    assert drawn.getpixel((round(64 * scale), round(48 * scale))) == class_color(0)


def test_masks_are_tints_with_an_outline() -> None:
    masks = np.zeros((2, 480, 640), dtype=bool)
    masks[0, 100:200, 100:200] = masks[1, 300:480, 400:640] = True
    corners = [(100.0, 100.0, 200.0, 200.0), (400.0, 300.0, 640.0, 480.0)]
    drawn = draw_boxes(grey(640, 480), Boxes(corners, [0, 1], masks=masks), NAMES)
    for label, place in enumerate([(150, 150), (500, 400)]):
        tint = np.array(drawn.getpixel(place), dtype=float)
        expected = 0.55 * np.array(GREY) + 0.45 * np.array(class_color(label))
        assert np.abs(tint - expected).max() <= 2, "the picture is seen through it"
    for place in ((98, 150), (150, 205), (390, 400)):
        assert drawn.getpixel(place) == GREY, "nothing outside"


def test_a_mask_is_outlined_apart_from_its_box() -> None:
    rows, columns = np.mgrid[:480, :640]
    disc = (rows - 240) ** 2 + (columns - 320) ** 2 <= 100**2
    image = grey(640, 480)
    drawn = draw_boxes(image, Boxes([(220.0, 140.0, 420.0, 340.0)], [1], masks=disc[None]), NAMES)
    for angle in np.linspace(0.3, 1.2, 5):
        place = [320 + 99 * np.cos(angle), 240 + 99 * np.sin(angle)]
        assert drawn.getpixel((round(place[0]), round(place[1]))) == class_color(1)
    assert drawn.getpixel((230, 150)) == GREY, "in the box, but not in the mask"
    assert image.getpixel((320, 240)) == GREY, "the original is left as it was"


def test_masks_grow_with_small_images_and_follow_their_boxes() -> None:
    masks = torch.zeros(3, 64, 128, dtype=torch.bool)
    masks[1, :, 64:] = True
    corners = torch.tensor([[0.0, 0.0, 9.0, 9.0], [64.0, 0.0, 128.0, 64.0], [0.0, 0.0, 9.0, 9.0]])
    found = Detections(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 1, 0]), corners, masks)
    kept = Boxes.of(found).above(0.5)
    assert kept.masks is not None
    assert kept.masks.shape == (2, 64, 128)
    assert kept.masks[1, :, 64:].all()
    assert not np.shares_memory(kept.masks, masks.numpy()), "what is not drawn is not kept in memory"
    drawn = draw_boxes(grey(128, 64), kept, NAMES)
    assert drawn.size == (MIN_SIDE, MIN_SIDE // 2)
    assert drawn.getpixel((MIN_SIDE // 4, MIN_SIDE // 3)) == GREY
    assert drawn.getpixel((MIN_SIDE * 3 // 4, MIN_SIDE // 3)) != GREY


def test_classes_are_told_apart_by_color() -> None:
    colors = [class_color(label) for label in range(12)]
    for one, other in itertools.combinations(colors, 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 40, (one, other)


def test_the_best_box_lies_on_top() -> None:
    box = (100.0, 100.0, 300.0, 300.0)
    for scores, expected in (([0.9, 0.6], 0), ([0.6, 0.9], 1)):
        drawn = draw_boxes(grey(500, 500), Boxes([box, box], [0, 1], scores), NAMES)
        assert drawn.getpixel((200, 300)) == class_color(expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_any_mode_can_be_drawn_on(mode: str) -> None:
    drawn = draw_boxes(Image.new(mode, (500, 500)), Boxes([(100.0, 100.0, 300.0, 300.0)], [0]), NAMES)
    assert drawn.mode == "RGB"
    assert drawn.getpixel((200, 300)) == class_color(0)


@settings(max_examples=40)
@given(
    corners=st.lists(
        st.tuples(*[st.floats(-1e4, 1e4)] * 4),
        min_size=1,
        max_size=4,
    ),
    width=st.integers(1, 700),
    height=st.integers(1, 700),
)
def test_whatever_a_young_network_predicts_can_be_drawn(
    corners: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    boxes = Boxes(corners, [0] * len(corners), [0.5] * len(corners))
    drawn = draw_boxes(grey(width, height), boxes, NAMES)
    assert drawn.width / drawn.height == pytest.approx(width / height, rel=0.5)
    assert has_color(drawn, class_color(0))


def test_predictions_stand_beside_the_ground_truth_without_weak_ones() -> None:
    truth = Boxes([(100.0, 100.0, 300.0, 300.0)], [0])
    found = Boxes([(100.0, 100.0, 300.0, 300.0), (10.0, 50.0, 90.0, 90.0)], [1, 0], [0.9, 0.4])
    picture = side_by_side(Example(grey(500, 400), truth, found, NAMES, "one.png"), min_score=0.5)
    left, right = picture.crop((0, 0, 500, picture.height)), picture.crop((picture.width - 500, 0, *picture.size))
    assert picture.width > 1000
    assert picture.height > 400
    assert has_color(left, class_color(0))
    assert not has_color(left, class_color(1))
    assert has_color(right, class_color(1))
    assert not has_color(right, class_color(0)), "a score of 0.4 is not drawn"


def test_boxes_from_detections_keep_order_and_can_be_filtered() -> None:
    boxes = Boxes.of(
        Detections(
            scores=torch.tensor([0.75, 0.5, 0.25]),
            labels=torch.tensor([1, 0, 1]),
            boxes=torch.arange(12.0).reshape(3, 4),
        )
    )
    assert boxes == Boxes([(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)], [1, 0, 1], [0.75, 0.5, 0.25])
    assert boxes.above(0.5) == Boxes(boxes.corners[:2], [1, 0], [0.75, 0.5])
    truth = Boxes(boxes.corners, boxes.labels)
    assert truth.above(0.9) == truth, "ground truth has no scores to fall short"
