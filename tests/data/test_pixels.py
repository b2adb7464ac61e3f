"""Bytes that are resized by torch against Pillow's, which are the official pipeline's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from detr.data.transforms import Bytes, ResizeShortSide, ResizeSquare, detr_train, square_train

FAST = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
needs_avx2 = pytest.mark.skipif(not FAST, reason="torch resizes bytes otherwise, so Pillow does it")


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A coarse pattern with a little noise, as photographs are."""
    drawn = np.random.default_rng(seed)
    coarse = Image.fromarray(drawn.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
    noise = drawn.integers(-3, 4, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


def objects(width: int, height: int) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[1.0, 2, 90, 80], [100, 50, width - 3, height - 2]])
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        "labels": torch.tensor([0, 1]),
    }


def as_array(image: Image.Image | torch.Tensor) -> np.ndarray:
    return np.asarray(image) if isinstance(image, Image.Image) else image.permute(1, 2, 0).numpy()


@needs_avx2
@pytest.mark.parametrize("resize", [ResizeShortSide([97], 400), ResizeShortSide([800], 1333), ResizeSquare([640])])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (375, 500), (1203, 701)])
def test_a_resize_is_pillows_but_for_a_level_in_a_few_values(resize, width, height):
    image = picture(width, height, seed=width)
    theirs, _ = resize(image, {})
    ours, _ = resize(*Bytes()(image, {}))
    apart = np.abs(as_array(theirs).astype(int) - as_array(ours).astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 2e-3


@needs_avx2
@pytest.mark.parametrize(
    "build", [lambda exact: detr_train([480, 800], 1333, exact=exact), lambda exact: square_train([320], exact=exact)]
)
def test_the_pipeline_draws_and_moves_the_same(build):
    """Whatever is drawn: the same sizes and boxes to the bit, and pixels as above after two resizes."""
    cropped = 0
    for seed in range(6):
        image, target = picture(620, 470, seed), objects(620, 470)
        results = []
        for exact in (True, False):
            torch.manual_seed(seed)
            results.append(build(exact)(image, dict(target)))
        (theirs, their_target), (ours, our_target) = results
        assert isinstance(theirs, Image.Image)
        assert isinstance(ours, tv_tensors.Image)
        assert all(torch.equal(their_target[name], our_target[name]) for name in target)
        apart = np.abs(as_array(theirs).astype(int) - as_array(ours).astype(int))
        assert apart.max() <= 2
        assert (apart > 0).mean() < 2e-2
        cropped += len(our_target["boxes"]) < 2 or ours.shape[-2:] != (480, 633)
    assert cropped


def test_other_processors_leave_it_to_pillow(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    image, _ = Bytes()(picture(40, 30, seed=0), {})
    assert isinstance(image, Image.Image)


@needs_avx2
def test_without_antialiasing_both_are_the_same_to_the_bit():
    image = picture(640, 480, seed=1)
    theirs, _ = ResizeSquare([320], antialias=False)(image, {})
    ours, _ = ResizeSquare([320], antialias=False)(*Bytes()(image, {}))
    assert np.array_equal(as_array(theirs), as_array(ours))
