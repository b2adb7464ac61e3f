"""Images made of several: every box is where its object's pixels are, found by their colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy
from detr.data.mixing import DenseMixing, copy_blend, mixup, mosaic
from detr.structures import Sample

COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
sides = st.integers(40, 200)
rectangles = st.tuples(*[st.floats(0, 0.6)] * 2, *[st.floats(0.3, 1)] * 2)  # left, top and sizes, in parts


def picture(height: int, width: int, number: int, *places: tuple[float, float, float, float]) -> Sample:
    """A black image with rectangles of colour `number`, of class `number`, whose masks are filled."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(places), height, width, dtype=torch.bool)
    corners = []
    for mask, (x, y, w, h) in zip(masks, places, strict=True):
        left, top = int(x * width), int(y * height)
        right, bottom = min(width, left + max(12, int(w * width))), min(height, top + max(12, int(h * height)))
        mask[top:bottom, left:right] = True
        corners.append([left, top, right, bottom])
        image[:, mask] = COLOURS[number][:, None]
    x0, y0, x1, y1 = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4).unbind(1)
    boxes = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], dim=1)
    labels = torch.full((len(places),), number)
    return Sample(image, labels, boxes, number, (height, width), f"{number}.png", masks)


def extent(seen: Tensor) -> list[int]:
    """Left, top, right and bottom of the pixels [H, W] that are true."""
    rows, columns = torch.nonzero(seen, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def corners_of(sample: Sample) -> list[list[float]]:
    height, width = sample.image.shape[-2:]
    return (cxcywh_to_xyxy(sample.boxes) * torch.tensor([width, height, width, height])).tolist()


def coloured(image: Tensor, number: int) -> Tensor:
    """[H, W]: pixels that are more of this colour than of black or grey."""
    own = COLOURS[number].bool()
    return (image[own] > 135).all(dim=0) & (image[~own] < 90).all(dim=0)


@given(st.lists(st.tuples(sides, sides, rectangles), min_size=4, max_size=4), st.floats(0.5, 1.5), st.data())
@settings(max_examples=60)
def test_a_mosaics_boxes_are_around_their_objects(images, scale, data):
    """Also where a tile is cut off; an object without a box shows less than a pixel or two."""
    shift = [data.draw(st.floats(-0.1, 0.1)) for _ in "yx"]
    parts = [picture(h, w, number, place) for number, (h, w, place) in enumerate(images)]
    result = mosaic(parts, scale=scale, shift=shift)
    assert result.image.shape == parts[0].image.shape
    assert (result.file, result.image_id) == ("0.png", 0)
    found = dict(zip(result.labels.tolist(), zip(corners_of(result), result.masks, strict=True), strict=True))
    assert len(found) == len(result.labels) == len(result.boxes) == len(result.masks)
    for number in range(4):
        seen = coloured(result.image, number)
        if number not in found:
            assert not seen.any() or min(np.subtract(extent(seen)[2:], extent(seen)[:2])) <= 2
            continue
        box, mask = found[number]
        if min(box[2] - box[0], box[3] - box[1]) > 4:  # else all of it may be blurred
            assert np.abs(np.subtract(extent(seen), box)).max() <= 1.5
            assert np.abs(np.subtract(extent(mask), box)).max() <= 1.5


def test_a_mosaic_by_hand():
    """Four images of 80 × 60 at half their size meet in the middle: each box is half as large, and a corner apart."""
    parts = [picture(60, 80, number, (0.25, 0.5, 0.5, 0.5)) for number in range(4)]
    result = mosaic(parts, scale=1, shift=(0, 0))
    assert result.labels.tolist() == [0, 1, 2, 3]
    assert corners_of(result) == [[10, 15, 30, 30], [50, 15, 70, 30], [10, 45, 30, 60], [50, 45, 70, 60]]
    assert [coloured(result.image, number).sum() for number in range(4)] == [20 * 15] * 4
    # A quarter of the size, the point 8 pixels to the right and 6 down: the last one begins there.
    result = mosaic(parts, scale=0.5, shift=(0.1, 0.1))
    assert corners_of(result)[3] == pytest.approx([48 + 5, 36 + 7.5, 48 + 15, 36 + 15])
    assert result.image[:, 0, 0].tolist() == [124, 116, 104]  # where no tile is
    # Larger tiles are cut off: the upper left one begins at -20, -15.
    result = mosaic(parts, scale=1.5, shift=(0, 0))
    assert corners_of(result)[0] == [0, 7.5, 25, 30]  # of -5 to 25 and 7.5 to 30


@given(st.tuples(sides, sides, rectangles), st.tuples(sides, sides, rectangles), st.floats(0.4, 0.6))
@settings(max_examples=60)
def test_in_a_mixup_both_show(first, second, share):
    """Each with its own channel, so that what is beneath does not matter."""
    own, other = picture(*first[:2], 0, first[2]), picture(*second[:2], 2, second[2])
    result = mixup(own, other, share=share)
    assert result.image.shape == own.image.shape
    assert result.labels.tolist() == [0, 2]
    assert torch.equal(result.boxes[0], own.boxes[0])
    assert torch.equal(result.masks[0], own.masks[0])
    blur = max(result.image.shape[-1] / other.image.shape[-1], 1)  # a blurred edge is as wide as the enlargement
    for channel, box, mask in zip((0, 2), corners_of(result), result.masks, strict=True):
        assert np.abs(np.subtract(extent(result.image[channel] > 255 * 0.2), box)).max() <= 1.5 + blur / 2
        assert np.abs(np.subtract(extent(mask), box)).max() <= 1.5 + blur / 2
    # The other one keeps its shape.
    scale = min(own.image.shape[1] / other.image.shape[1], own.image.shape[2] / other.image.shape[2])
    expected = np.multiply(corners_of(other)[0], scale)
    assert np.abs(expected - corners_of(result)[1]).max() <= 1


def test_a_mixup_of_equal_sizes_is_a_weighted_mean():
    own, other = (torch.randint(256, (3, 20, 30), dtype=torch.uint8) for _ in "ab")
    samples = [replace(picture(20, 30, 0, (0, 0, 1, 1)), image=image) for image in (own, other)]
    result = mixup(*samples, share=0.45).image.float()
    assert (result - (0.55 * own.float() + 0.45 * other.float())).abs().max() <= 0.5 + 1e-3


@given(st.tuples(sides, sides), st.tuples(sides, sides, rectangles), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_copied_object_shows_where_its_box_is(size, second, seed):
    own, other = picture(*size, 0, (0.1, 0.1, 0.3, 0.3)), picture(*second[:2], 2, second[2])
    result = copy_blend(own, other, np.random.default_rng(seed), objects=3)
    assert torch.equal(result.boxes[:1], own.boxes)
    blue = result.image[2] > 0
    left, top, right, bottom = corners_of(other)[0]
    if right - left > size[1] or bottom - top > size[0]:  # it does not fit
        assert result.labels.tolist() == [0]
        assert torch.equal(result.image, own.image)
        return
    assert result.labels.tolist() == [0, 2]
    assert np.abs(np.subtract(extent(blue), corners_of(result)[1])).max() <= 1e-3
    assert torch.equal(result.masks[1], blue)
    assert 0.45 * 255 - 1 <= result.image[2][blue].min() <= result.image[2].max() <= 0.55 * 255 + 1
    assert result.image[0].max() == 255 or own.masks[0][blue].any()  # elsewhere the image is what it was


def test_what_is_copied():
    """As many as are allowed, none twice, none of less than 100 pixels; where there is none the image stays."""
    own = picture(100, 100, 0)
    other = picture(100, 100, 2, *[(x, 0.1, 0.12, 0.12) for x in (0, 0.2, 0.4, 0.6)])
    other.labels = torch.arange(4)
    seen = set()
    for seed in range(40):
        labels = copy_blend(own, other, np.random.default_rng(seed), objects=3).labels.tolist()
        assert len(labels) == len(set(labels)) == 3
        seen |= set(labels)
    assert seen == {0, 1, 2, 3}
    small = replace(other, boxes=other.boxes * torch.tensor([1, 1, 0.75, 0.9]))  # 9 × 10.8 pixels
    assert len(copy_blend(own, small, np.random.default_rng(0), objects=3).labels) == 0
    assert torch.equal(copy_blend(own, own, np.random.default_rng(0), objects=3).image, own.image)


def mixed(mixing: DenseMixing, part: float, count: int = 400) -> list[tuple[int, int]]:
    """How many objects, and partners, images of one object have after mixing with images of two."""
    found = []
    for seed in range(count):
        asked = []

        def partner(asked: list[int] = asked) -> Sample:
            asked.append(0)
            return picture(40, 40, 1, (0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.3, 0.3))

        sample = mixing(picture(40, 40, 0, (0.4, 0.4, 0.3, 0.3)), partner, part, np.random.default_rng(seed))
        found.append((len(sample.labels), len(asked)))
    return found


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        # mosaic × (mixup, or else copy-blend)
        (0.0, {0: 1 / 8, 1: 3 / 8, 3: 1 / 8, 4: 3 / 8}),
        (0.49, {0: 1 / 8, 1: 3 / 8, 3: 1 / 8, 4: 3 / 8}),
        (0.5, {0: 1 / 2, 1: 1 / 2}),  # copy-blend alone
        (0.85, {0: 1}),
    ],
)
def test_how_often_and_until_when(part: float, expected: dict[int, float]) -> None:
    partners = [asked for _, asked in mixed(DenseMixing(), part)]
    assert {number: partners.count(number) / 400 for number in set(partners)} == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(
    ("chances", "objects"),
    [({"mosaic": 1}, 7), ({"mixup": 1}, 3), ({"copy_blend": 1}, 3), ({"mosaic": 1, "mixup": 1, "copy_blend": 1}, 9)],
)
def test_how_many_objects(chances: dict[str, float], objects: int) -> None:
    mixing = DenseMixing(**{"mosaic": 0, "mixup": 0, "copy_blend": 0, **chances}, scale=(1, 1))
    assert {number for number, _ in mixed(mixing, 0, 5)} == {objects}


def test_a_chance_of_0_changes_nothing() -> None:
    sample = picture(40, 40, 0, (0.4, 0.4, 0.3, 0.3))

    def partner() -> Sample:
        raise AssertionError("nobody is asked for")

    mixing = DenseMixing(mosaic=0, mixup=0, copy_blend=0)
    assert mixing(sample, partner, 0, np.random.default_rng(0)) is sample


def test_images_without_objects_or_masks() -> None:
    for make in (lambda number: picture(40, 40, number), lambda number: replace(picture(40, 40, number), masks=None)):
        parts: list[Sample] = [make(number) for number in range(4)]
        changed: list[Callable[[], Sample]] = [
            lambda parts=parts: mosaic(parts, scale=1.2, shift=(0, 0)),
            lambda parts=parts: mixup(*parts[:2], share=0.5),
            lambda parts=parts: copy_blend(*parts[:2], np.random.default_rng(0), objects=3),
        ]
        for each in changed:
            result = each()
            assert result.boxes.shape == (0, 4)
            assert result.labels.shape == (0,)
            assert (result.masks is None) == (parts[0].masks is None)
            assert result.masks is None or result.masks.shape == (0, 40, 40)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"mosaic": 1.2}, "mosaic: expected a number from 0 to 1, got 1.2"),
        ({"stop_at": 29}, "stop_at: expected a number from 0 to 1, got 29"),
        ({"scale": (1.5, 0.5)}, "scale: expected two numbers above 0 in ascending order"),
        ({"objects": 0}, "objects: expected at least 1, got 0"),
    ],
)
def test_numbers_out_of_their_range(words: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DenseMixing(**words)  # type: ignore[arg-type]
