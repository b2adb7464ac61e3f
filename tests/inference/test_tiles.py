"""Tiles: how images are cut, and that every object is found once, whatever of it each tile saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from random_checkpoints import write_checkpoint

from detr import Detector
from detr.data.coco import CocoSplits
from detr.data.shapes.dataset import Shapes
from detr.errors import UserError
from detr.inference.tiles import Tiling, View, merged
from detr.structures import Detections

SIZE = (1000, 700)
TILING = Tiling(320, 0.25)  # objects up to 80 pixels lie wholly in some tile


@given(st.integers(16, 400), st.floats(0, 0.9), st.tuples(st.integers(1, 900), st.integers(1, 900)), st.randoms())
def test_tiles_cover_the_image_and_small_objects_lie_wholly_in_one(size, overlap, image, random) -> None:  # type: ignore[no-untyped-def]
    tiling = Tiling(size, overlap)
    views = tiling.views(image)
    assert (views == []) == (max(image) <= size)
    for left, top, right, bottom in views:
        assert 0 <= left < right <= image[0]
        assert 0 <= top < bottom <= image[1]
        assert (right - left, bottom - top) == tuple(min(side, size) for side in image)
    side = int(tiling.shared)
    for _ in range(10 if views and side else 0):
        x, y = (random.randint(0, max(0, length - side)) for length in image)
        w, h = min(side, image[0]), min(side, image[1])
        assert any(l <= x and t <= y and x + w <= r and y + h <= b for l, t, r, b in views)  # noqa: E741


def seen(truth: np.ndarray, labels: np.ndarray, view: View, generator: np.random.Generator) -> Detections:
    """What a detector sees through a tile: the part of each object that is in it, if it is a third of it or more."""
    low, high = np.tile(view[:2], 2), np.tile(view[2:], 2)
    parts = truth.clip(low, high)
    sides, whole = parts[:, 2:] - parts[:, :2], truth[:, 2:] - truth[:, :2]
    rows = np.flatnonzero(sides.prod(axis=1) > whole.prod(axis=1) / 3)
    boxes = torch.tensor(parts[rows] - low + generator.uniform(-1, 1, (len(rows), 4)), dtype=torch.float32)
    scores = torch.tensor(generator.uniform(0.3, 1, len(rows)), dtype=torch.float32).sort(descending=True)[0]
    return Detections(scores, torch.tensor(labels[rows]), boxes.view(-1, 4))


def everything(
    truth: np.ndarray, labels: np.ndarray, *, whole: bool, seed: int = 0, tiling: Tiling = TILING
) -> Detections:
    generator = np.random.default_rng(seed)
    tiles = [(view, seen(truth, labels, view, generator)) for view in tiling.views(SIZE)]
    none = np.zeros((0, 4))
    first = seen(truth if whole else none, labels if whole else labels[:0], (0, 0, *SIZE), generator)
    return merged(first, tiles, SIZE, tiling)


@pytest.mark.parametrize("seed", range(6))
def test_every_object_is_found_once(seed: int) -> None:
    """Small ones side by side and some larger than a tile: what was cut at a seam counts no second time."""
    generator = np.random.default_rng(seed)
    large = [[30, 40, 560, 380], [600, 20, 980, 360], [100, 420, 420, 690]]
    grid = [(x, y) for x in range(450, 940, 60) for y in range(400, 640, 60)]
    small = [[x, y, x + generator.uniform(15, 55), y + generator.uniform(15, 55)] for x, y in grid]
    truth, labels = np.array([*large, *small]), generator.integers(0, 2, len(large) + len(small))
    found = everything(truth, labels, whole=True, seed=seed)
    assert len(found.boxes) == len(truth)
    order = [int(np.abs(found.boxes.numpy() - box).max(axis=1).argmin()) for box in truth]
    assert sorted(order) == list(range(len(truth)))
    assert np.abs(found.boxes.numpy()[order] - truth).max() < 1.01
    assert found.labels[order].tolist() == labels.tolist()
    assert (found.scores.diff() <= 0).all()


def test_pieces_of_what_no_pass_saw_whole_are_put_together() -> None:
    """In the middle of two tiles, each of which sees two thirds of it."""
    left, right = TILING.views(SIZE)[:2]
    middle = (right[0] + left[2]) / 2
    truth = np.array([[middle - 110, 100, middle + 110, 180]])
    found = everything(truth, np.zeros(1, np.int64), whole=False)
    assert len(found.boxes) == 1
    assert np.abs(found.boxes.numpy() - truth).max() < 1.01


def test_within_a_pass_and_between_classes_nothing_is_suppressed() -> None:
    boxes = torch.tensor([[10.0, 10, 60, 60], [11.0, 11, 61, 61], [12.0, 10, 60, 60]])
    one = Detections(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), boxes)
    none = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    found = merged(none, [((0, 0, 320, 320), one)], SIZE, TILING)
    assert torch.equal(found.boxes, boxes)
    again = merged(none, [((0, 0, 320, 320), one), ((0, 0, 320, 320), one)], SIZE, TILING, top_k=2)
    assert torch.equal(again.boxes, boxes[:2])
    assert merged(none, [((0, 0, 320, 320), none)], SIZE, TILING).boxes.shape == (0, 4)


def test_small_things_in_the_whole_image_are_left_to_the_tiles() -> None:
    boxes = torch.tensor([[10.0, 10, 60, 60], [100.0, 100, 500, 160]])
    whole = Detections(torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), boxes)
    found = merged(whole, [], SIZE, TILING)
    assert torch.equal(found.boxes, boxes[1:])


def test_masks_lie_where_their_tile_does() -> None:
    masks = torch.zeros(1, 320, 320, dtype=torch.bool)
    masks[0, 10:30, 20:50] = True
    tile = Detections(torch.tensor([0.9]), torch.tensor([0]), torch.tensor([[20.0, 10, 50, 30]]), masks)
    large = torch.zeros(1, 700, 1000, dtype=torch.bool)
    large[0, 100:500, 100:500] = True
    whole = Detections(torch.tensor([0.8]), torch.tensor([0]), torch.tensor([[100.0, 100, 500, 500]]), large)
    found = merged(whole, [((600, 300, 920, 620), tile)], SIZE, TILING)
    assert found.masks is not None
    assert torch.equal(found.masks[1], large[0])
    assert found.masks[0].sum() == 600
    assert found.masks[0, 310:330, 620:650].all()


def test_an_image_that_fits_a_tile_is_looked_at_as_ever(tmp_path: Path) -> None:
    detector = Detector.load(str(write_checkpoint(tmp_path / "best.pt")), device="cpu")
    image = Image.effect_noise((96, 64), 90)
    plain, tiled = detector(image, threshold=0), detector(image, threshold=0, tiles=96)
    assert np.array_equal(plain.boxes, tiled.boxes)
    assert np.array_equal(plain.scores, tiled.scores)
    assert not np.array_equal(detector(image, threshold=0, tiles=64).boxes[:9], plain.boxes[:9])


def test_large_scenes_are_made_of_small_ones(tmp_path: Path) -> None:
    places = {
        split: {"images": f"{tmp_path}/images/{split}", "annotations": f"{tmp_path}/annotations/{split}.json"}
        for split in ("train", "val")
    }
    facts = {"root": str(tmp_path), "categories": "contiguous", "masks": True, **places}
    data = Shapes(**facts, counts={"train": 1, "val": 2}, mosaic=3)  # type: ignore[arg-type]
    images = data.split("val", transform=lambda image, target: (image, target))
    sample = images[1]
    assert sample.image.shape == (3, 384, 384)
    assert len(sample.boxes) > 12
    assert sample.masks is not None
    for box, mask in zip(sample.boxes * 384, sample.masks, strict=True):
        rows, columns = mask.nonzero().T
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        x, y, w, h = box.tolist()
        assert np.abs(np.array(around) - [x - w / 2, y - h / 2, x + w / 2, y + h / 2]).max() < 1e-2
    assert isinstance(data, CocoSplits)
    with pytest.raises(UserError, match=r"made from .* is asked for"):
        Shapes(**facts, counts={"train": 1, "val": 2})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"dataset\.mosaic: expected at least 1, got 0"):
        Shapes(**facts, mosaic=0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_tiles_in_an_evaluation(tmp_path: Path) -> None:
    """At least twice the AP of the shrunken scenes; the same numbers, exactly, where an image is a tile."""
    trained = run(
        *("train.py", f"dataset.root={tmp_path}/shapes", "trainer.max_steps=350", "trainer.max_minutes=null"),
        *("logger=none", f"hydra.run.dir={tmp_path}/run"),
        timeout=1800,
    )
    assert trained.returncode == 0, trained.stderr

    def evaluated(name: str, *arguments: str) -> tuple[float, list[dict[str, object]]]:
        folder = tmp_path / name
        checkpoint = f"checkpoint={tmp_path}/run/checkpoints/best.pt"
        done = run("evaluate.py", checkpoint, f"hydra.run.dir={folder}", *arguments, timeout=900)
        assert done.returncode == 0, done.stderr
        ap = json.loads((folder / "metrics.json").read_text())["AP"]
        return ap, json.loads((folder / "predictions.json").read_text())

    assert evaluated("small", "tiles=128") == evaluated("plain")
    scenes = [f"dataset.root={tmp_path}/scenes", "+dataset.mosaic=4", "+dataset.counts={train: 1, val: 10, test: 1}"]
    shrunken, _ = evaluated("shrunken", *scenes, "augmentation.max_size=256")
    tiled, _ = evaluated("tiled", *scenes, "augmentation.max_size=256", "tiles=128", "overlap=0.5")
    assert tiled > 2 * shrunken
    assert tiled > 0.1
