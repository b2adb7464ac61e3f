"""Panoptic pictures: every pixel shows whose it is."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from detr.drawing.boxes import MIN_SIDE, class_color
from detr.drawing.segments import OPACITY, comparison, draw_segments, segment_colors
from detr.evaluation.examples import Boxes, Example, Segments
from detr.structures import PanopticSegments

NAMES = ("cat", "dog", "sky")


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 100, 100))


def halves(width: int = 500, height: int = 400) -> np.ndarray:
    """A cat on the left, sky on the right, a line of void on top."""
    ids = np.ones((height, width), dtype=np.int32)
    ids[:, width // 2 :] = 2
    ids[:20] = 0
    return ids


def test_segments_are_tinted_and_void_is_not():
    picture = np.asarray(draw_segments(grey(500, 400), Segments(halves(), [0, 2]), NAMES))
    for x, color in ((30, segment_colors([0])[0]), (470, segment_colors([2])[0])):
        expected = 100 * (1 - OPACITY) + np.array(color) * OPACITY
        assert np.abs(picture[380, x] - expected).max() <= 1
    assert (picture[5, 5] == 100).all()
    assert (picture[380, 249] == 255).all()  # the border


def test_names_are_written_on_the_segment():
    blank = np.asarray(draw_segments(grey(500, 400), Segments(halves(), [0, 2]), ("", "", "")))
    named = np.asarray(draw_segments(grey(500, 400), Segments(halves(), [0, 2]), NAMES))
    rows, columns = np.nonzero((blank != named).any(axis=2))
    assert 0 < len(rows) < 0.05 * blank[..., 0].size
    assert (columns < 250).any()
    assert (columns > 250).any()


def test_small_segments_have_no_name():
    ids = halves()
    ids[100:104, 100:104] = 3
    one = np.asarray(draw_segments(grey(500, 400), Segments(ids, [0, 2, 1]), NAMES))
    other = np.asarray(draw_segments(grey(500, 400), Segments(ids, [0, 2, 1]), ("cat", "a long name", "sky")))
    assert np.array_equal(one, other)


def test_small_images_are_scaled_up():
    picture = draw_segments(grey(64, 32), Segments(halves(64, 32), [0, 2]), NAMES)
    assert picture.size == (MIN_SIDE, MIN_SIDE // 2)


def test_segments_of_a_class_have_its_hue():
    colors = segment_colors([1, 1, 0, 1])
    assert len(set(colors)) == 4
    hue = colorsys.rgb_to_hsv(*class_color(1))[0]
    for color in (colors[0], colors[1], colors[3]):
        assert colorsys.rgb_to_hsv(*color)[0] == pytest.approx(hue, abs=0.02)


def test_nothing_but_void():
    picture = draw_segments(grey(500, 400), Segments(np.zeros((400, 500), dtype=np.int32), []), NAMES)
    assert np.array_equal(np.asarray(picture), np.asarray(grey(500, 400)))


def test_from_masks():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, :3] = True
    masks[1, 2:, 2:] = True
    segments = Segments.from_masks(masks, torch.tensor([2, 0]))
    assert segments.labels == [2, 0]
    assert segments.ids.tolist() == [[1] * 5, [1] * 5, [1, 1, 2, 2, 2], [0, 0, 2, 2, 2]]
    assert not Segments.from_masks(torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0)).ids.any()


def test_comparison():
    """Truth on the left, prediction on the right; boxes where no segments were evaluated."""
    found = PanopticSegments(torch.ones(400, 500, dtype=torch.int32), torch.tensor([1]), torch.ones(1))
    boxes = Boxes([(10, 10, 100, 100)], [0])
    example = Example(grey(500, 400), boxes, boxes, NAMES, segments=(Segments(halves(), [0, 2]), Segments.of(found)))
    picture = np.asarray(comparison(example)).astype(int)
    head = picture.shape[0] - 400
    assert picture.shape[1] > 1000
    left, right = picture[head:, :500], picture[head:, -500:]
    assert np.abs(left[380, 30] - right[380, 30]).max() > 20
    assert (right[380, 30] == right[380, 470]).all()
    assert (left[380, 30] != left[380, 470]).any()
    assert comparison(Example(grey(500, 400), boxes, boxes, NAMES)).size == comparison(example).size
