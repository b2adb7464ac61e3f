"""The augmentations against written-out formulas, and boxes against the pixels they belong to."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detr.data.transforms import (
    RandomPhotometric,
    RandomSizeCrop,
    RandomZoom,
    ResizeShortSide,
    ShrinkLongSide,
    detr_train,
    drop_empty_boxes,
    light_train,
    long_side_size,
    short_side_size,
)
from detr.errors import UserError

SCALES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
sides = st.integers(1, 900)


def example(width: int, height: int, boxes: list[list[float]], seed: int = 0) -> tuple[Image.Image, dict[str, Any]]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = {
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
    }
    return Image.fromarray(noise), target


def random_boxes(width: int, height: int, count: int = 6) -> list[list[float]]:
    draw = random.Random(width * 1000 + height)
    result = []
    for _ in range(count):
        x, y = sorted(draw.uniform(0, width) for _ in "ab"), sorted(draw.uniform(0, height) for _ in "ab")
        result.append([x[0], y[0], x[1], y[1]])
    return result


def official_size(width: int, height: int, size: int, max_size: int | None) -> tuple[int, int]:
    """(width, height): the rule of `get_size_with_aspect_ratio` in the official datasets/transforms.py, in words:

    the shorter side becomes `size`, or, if then the longer one exceeds `max_size`, what keeps that at `max_size`,
    rounded to the nearest pixel; the other side is scaled by the exact ratio and truncated.
    """
    short, long = min(width, height), max(width, height)
    target = size
    if max_size is not None and long * size / short > max_size:
        target = max(1, round(max_size * short / long))
    if short == target:
        return width, height
    other = int(target * long / short)
    return (target, other) if width < height else (other, target)


@given(sides, sides, st.integers(1, 900), st.one_of(st.none(), st.integers(1, 1400)))
@settings(max_examples=300)
def test_sizes_follow_the_official_rule(width, height, size, max_size):
    result = short_side_size((height, width), size, max_size)
    assert result == official_size(width, height, size, max_size)[::-1]
    assert min(result) >= 1


@given(sides, sides, st.integers(1, 900))
def test_long_side(width, height, max_size):
    h, w = long_side_size((height, width), max_size)
    assert max(h, w) == min(max(height, width), max_size)
    assert min(h, w) >= 1
    scale = max(h, w) / max(height, width)
    assert abs(h - height * scale) <= 0.5 or h == 1
    assert abs(w - width * scale) <= 0.5 or w == 1


class Replay:
    """The official pipeline's geometry, written out on plain tensors, for choices made elsewhere."""

    def __init__(self, image: Image.Image, boxes: Tensor) -> None:
        self.image, self.boxes, self.labels = image, boxes, torch.arange(len(boxes))

    def flip(self) -> None:
        width = self.image.width
        self.image = self.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x0, y0, x1, y1 = self.boxes.unbind(1)
        self.boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)

    def resize(self, size: tuple[int, int]) -> None:
        height, width = size
        ratio = torch.tensor([width / self.image.width, height / self.image.height])
        self.boxes = self.boxes * ratio.repeat(2)
        self.image = self.image.resize((width, height), Image.Resampling.BILINEAR)

    def crop(self, top: int, left: int, height: int, width: int) -> None:
        self.image = self.image.crop((left, top, left + width, top + height))
        shifted = self.boxes - torch.tensor([left, top, left, top])
        shifted = torch.minimum(shifted, torch.tensor([width, height, width, height])).clamp(min=0)
        keep = (shifted[:, 2] > shifted[:, 0]) & (shifted[:, 3] > shifted[:, 1])
        self.boxes, self.labels = shifted[keep], self.labels[keep]


@pytest.fixture
def choices(monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """What the pipeline drew, in order."""
    drawn: list[tuple[str, dict[str, Any]]] = []

    def spy(cls: type, name: str) -> None:
        original = cls.transform

        def transform(self: Any, inpt: Any, params: dict[str, Any]) -> Any:
            if isinstance(inpt, Image.Image):
                drawn.append((name, params))
            return original(self, inpt, params)

        monkeypatch.setattr(cls, "transform", transform)

    spy(v2.RandomHorizontalFlip, "flip")
    spy(ResizeShortSide, "resize")
    spy(RandomSizeCrop, "crop")
    return drawn


@pytest.mark.parametrize("size", [(640, 480), (427, 640), (120, 90), (300, 90), (1000, 100)])
def test_detr_train_is_the_official_pipeline(choices, size):
    """Given the same random choices: the same pixels to the bit, the same boxes and labels."""
    image, target = example(*size, random_boxes(*size))
    transform = detr_train([96, 120], 400)
    kinds = set()
    for seed in range(12):
        choices.clear()
        torch.manual_seed(seed)
        result, result_target = transform(image, target)
        replay = Replay(image, target["boxes"].as_subclass(Tensor).clone())
        for name, params in choices:
            getattr(replay, name)(**params)
        kinds.add(tuple(name for name, _ in choices))
        assert np.array_equal(np.asarray(result), np.asarray(replay.image))
        torch.testing.assert_close(result_target["boxes"].as_subclass(Tensor), replay.boxes, rtol=1e-6, atol=1e-4)
        assert result_target["labels"].tolist() == replay.labels.tolist()
        assert result_target["boxes"].canvas_size == (result.height, result.width)
    assert kinds == {
        ("resize",),
        ("flip", "resize"),
        ("resize", "crop", "resize"),
        ("flip", "resize", "crop", "resize"),
    }


def test_detr_train_draws_as_the_paper_says(choices):
    """Flip and crop half of the time each, every scale equally often, crops of 384 … 600."""
    image, target = example(60, 40, [])
    transform = detr_train([48, 64, 80], 133)
    counts = {"flip": 0, "crop": 0}
    last, crops = [], []
    for seed in range(300):
        choices.clear()
        torch.manual_seed(seed)
        result, _ = transform(image, target)
        last.append(min(result.size))
        names = [name for name, _ in choices]
        for name in counts:
            counts[name] += name in names
        crops += [params for name, params in choices if name == "crop"]
        if "crop" in names:
            first = next(params for name, params in choices if name == "resize")
            assert min(first["size"]) in (400, 500, 600)
    assert all(110 < count < 190 for count in counts.values())  # 150 ± 4.6 standard deviations
    assert all(384 <= params[key] <= 600 for params in crops for key in ("height", "width"))
    assert max(params["width"] for params in crops) > 550
    assert set(last) <= {48, 64, 80} | set(range(48, 81))
    assert {48, 64, 80} <= set(last)


def test_default_recipe_covers_every_scale(choices):
    image, target = example(10, 10, [])
    resize = detr_train(SCALES, 1333).transforms[1].later.transforms[0]
    for seed in range(150):
        torch.manual_seed(seed)
        resize(image, target)
    assert {params["size"] for _, params in choices} == {(scale, scale) for scale in SCALES}


@given(sides, sides, st.integers(0, 2**32))
@settings(max_examples=40)
def test_crops_of_any_image_lie_within_it(width, height, seed):
    """Also where the image is smaller than the smallest crop."""
    image, target = example(width, height, [[0, 0, width, height]])
    torch.manual_seed(seed)
    result, cropped = RandomSizeCrop(384, 600)(image, target)
    for before, after in zip(image.size, result.size, strict=True):
        assert min(384, before) <= after <= min(600, before)
    assert cropped["boxes"].tolist() == [[0, 0, *result.size]]


@given(sides, sides)
@settings(max_examples=40)
def test_flipping_twice_changes_nothing(width, height):
    image, target = example(width, height, random_boxes(width, height))
    flip = v2.RandomHorizontalFlip(1.0)
    twice, twice_target = flip(*flip(image, target))
    assert np.array_equal(np.asarray(image), np.asarray(twice))
    torch.testing.assert_close(twice_target["boxes"], target["boxes"], rtol=0, atol=1e-3)


PIPELINES = {
    "detr": lambda: detr_train([200, 260], 400),
    "light": lambda: light_train(160),
    "zoom": lambda: RandomZoom(1000, p=1.0),
    "short": lambda: ResizeShortSide([150], 300),
    "long": lambda: ShrinkLongSide(150),
}


@pytest.mark.parametrize("name", PIPELINES)
@given(st.integers(0, 2**32), st.integers(60, 240), st.integers(60, 240), st.data())
@settings(max_examples=15)
def test_boxes_stay_on_their_objects(name, seed, width, height, data):
    """A magenta rectangle on dark green is found again where its box says, to a pixel and a half."""
    left, top = data.draw(st.integers(0, width - 30)), data.draw(st.integers(0, height - 30))
    right, bottom = data.draw(st.integers(left + 24, width)), data.draw(st.integers(top + 24, height))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 1] = 90
    pixels[top:bottom, left:right] = (255, 0, 255)
    _, target = example(width, height, [[left, top, right, bottom]])
    torch.manual_seed(seed)
    image, target = PIPELINES[name]()(Image.fromarray(pixels), target)
    found = np.asarray(image).astype(int)
    rows, columns = np.nonzero((found[..., 0] > found[..., 1] + 20) & (found[..., 2] > found[..., 1] + 20))
    if len(target["boxes"]) == 0:
        assert len(rows) == 0
        return
    box = target["boxes"][0].tolist()
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else box
    scale = max(box[2] - box[0], box[3] - box[1]) / 24  # a blurred edge is as wide as the enlargement
    assert np.abs(np.array(seen) - np.array(box)).max() <= 1.5 + scale / 2


@given(sides, sides, st.integers(0, 2**32))
@settings(max_examples=40)
def test_light_keeps_the_size_of_evaluation(width, height, seed):
    """So that images of one size make batches without padding."""
    image, target = example(width, height, random_boxes(width, height))
    torch.manual_seed(seed)
    result, augmented = light_train(200)(image, target)
    assert result.size == ShrinkLongSide(200)(image, target)[0].size
    boxes = augmented["boxes"]
    assert augmented["boxes"].canvas_size == (result.height, result.width)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= result.width + 1e-3).all()
    assert (boxes[:, 3] <= result.height + 1e-3).all()


def test_zoom_factors_cover_their_range():
    """Objects become smaller and larger, within the limits, and about 3 in 10 images are not zoomed."""
    image, target = example(200, 200, [[90, 90, 110, 110]])
    zoom = RandomZoom(200, p=0.7, scale=(0.5, 2.0))
    widths = []
    for seed in range(300):
        torch.manual_seed(seed)
        boxes = zoom(image, target)[1]["boxes"]
        widths += [(box[2] - box[0]).item() for box in boxes if box[0] > 0 and box[2] < 200]
    assert 0.5 * 20 - 0.2 <= min(widths) < 12
    assert 34 < max(widths) <= 2 * 20 + 0.5
    assert 0.2 < sum(abs(width - 20) < 1e-4 for width in widths) / len(widths) < 0.45


def test_photometric_changes_colours_only():
    image, target = example(20, 10, [[1, 2, 3, 4]])
    torch.manual_seed(0)
    result, same = RandomPhotometric(p=1.0)(image, target)
    assert result.size == image.size
    assert not np.array_equal(np.asarray(result), np.asarray(image))
    assert torch.equal(same["boxes"], target["boxes"])
    assert np.array_equal(np.asarray(RandomPhotometric(p=0.0)(image, target)[0]), np.asarray(image))
    assert np.array_equal(np.asarray(RandomPhotometric(p=1.0, strength=0.0)(image, target)[0]), np.asarray(image))


def test_evaluation_is_deterministic():
    image, target = example(90, 60, random_boxes(90, 60))
    for transform in (ResizeShortSide([80], 133), ShrinkLongSide(70)):
        torch.manual_seed(0)
        first = transform(image, target)
        torch.manual_seed(1)
        second = transform(image, target)
        assert np.array_equal(np.asarray(first[0]), np.asarray(second[0]))
        assert torch.equal(first[1]["boxes"], second[1]["boxes"])


def test_objects_are_dropped_with_every_entry_of_theirs():
    _, target = example(20, 10, [[1, 1, 1, 5], [1, 2, 3, 4], [3, 4, 9, 4]])
    target["masks"] = tv_tensors.Mask(torch.arange(3)[:, None, None].expand(3, 10, 20))
    kept = drop_empty_boxes(target)
    assert kept["labels"].tolist() == [1]
    assert kept["boxes"].tolist() == [[1, 2, 3, 4]]
    assert kept["masks"].unique().tolist() == [1]
    assert isinstance(kept["masks"], tv_tensors.Mask)
    assert isinstance(kept["boxes"], tv_tensors.BoundingBoxes)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_masks_follow(seed):
    """A mask that fills its box fills it after augmentation, too."""
    image, target = example(120, 90, [[20, 10, 80, 70]])
    mask = torch.zeros(1, 90, 120, dtype=torch.uint8)
    mask[:, 10:70, 20:80] = 1
    target["masks"] = tv_tensors.Mask(mask)
    torch.manual_seed(seed)
    image, target = light_train(100)(image, target)
    assert len(target["masks"]) == len(target["boxes"])
    for mask, box in zip(target["masks"], target["boxes"], strict=True):
        assert mask.shape == (image.height, image.width)
        rows, columns = mask.nonzero(as_tuple=True)
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (seen - box.as_subclass(Tensor)).abs().max() <= 1.5


@pytest.mark.parametrize("size", [(30, 40), (61, 47), (90, 120), (133, 178)])
def test_masks_are_resized_as_the_official_code_does(size):
    """`resize` in datasets/transforms.py: nearest, of floats, above one half."""
    image, target = example(120, 90, random_boxes(120, 90))
    masks = torch.rand(6, 90, 120) < 0.5
    target["masks"] = tv_tensors.Mask(masks.to(torch.uint8))
    _, resized = v2.Resize(size)(image, target)
    expected = torch.nn.functional.interpolate(masks[:, None].float(), size, mode="nearest")[:, 0] > 0.5
    assert resized["masks"].bool().equal(expected)


def test_a_crop_keeps_the_objects_whose_box_it_touches():
    """`crop` in datasets/transforms.py favours boxes over masks: an object may stay without any visible pixel."""
    boxes = [[0, 0, 30, 30], [40, 40, 60, 60], [100, 50, 110, 60]]
    image, target = example(120, 90, boxes)
    masks = torch.zeros(3, 90, 120, dtype=torch.uint8)
    masks[0, :5, :5] = masks[1, 40:60, 40:60] = masks[2, 50:60, 100:110] = 1
    target["masks"] = tv_tensors.Mask(masks)
    crop = RandomSizeCrop(50, 50)
    crop.make_params = lambda inputs: {"top": 20, "left": 20, "height": 50, "width": 50}
    _, cropped = crop(image, target)
    assert cropped["labels"].tolist() == [0, 1]
    assert cropped["masks"].flatten(1).sum(1).tolist() == [0, 400]
    assert cropped["masks"].shape[-2:] == (50, 50)


def test_impossible_sizes_are_refused():
    for build in (lambda: ResizeShortSide([], 5), lambda: ResizeShortSide([0], 5), lambda: ShrinkLongSide(0)):
        with pytest.raises(UserError, match="augmentation: "):
            build()
