"""A part of train that is kept for validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coco_example import keep
from command import BCCD
from formats_example import image, text, voc, yolo

from detr.config import build, check, compose
from detr.data.holdout import choose
from detr.data.splits import Splits
from detr.errors import UserError

KINDS = {
    "zipf": np.random.default_rng(0).poisson(3 / np.arange(1, 21) ** 1.5, (500, 20)),
    "one each": np.eye(6, dtype=np.int64)[np.random.default_rng(1).choice(6, 300, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])],
    "mostly empty": np.random.default_rng(2).poisson(0.1, (400, 3)),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_has_its_share(name: str, share: float) -> None:
    counts = KINDS[name]
    held = choose(counts, share, seed=0)
    assert held.mean() == pytest.approx(share, abs=0.03)
    off = np.abs(counts[held].sum(axis=0) - share * counts.sum(axis=0))
    assert (off <= np.maximum(0.03 * counts.sum(axis=0), 1.01)).all(), "to an object, or three in a hundred"
    empty = counts.sum(axis=1) == 0
    assert empty[held].sum() == pytest.approx(share * empty.sum(), abs=1.01)


def test_at_random_classes_would_not_have_it() -> None:
    """The test above can fail: drawn without regard to classes, some lack theirs."""
    counts = KINDS["one each"]
    misses = []
    for seed in range(20):
        drawn = np.random.default_rng(seed).permutation(300) < 60
        misses.append(np.abs(counts[drawn].sum(axis=0) - 0.2 * counts.sum(axis=0)).max())
    assert min(misses) > 1.01


def test_it_is_the_same_for_the_same_seed() -> None:
    counts = KINDS["zipf"]
    assert np.array_equal(choose(counts, 0.2, seed=1), choose(counts, 0.2, seed=1))
    assert not np.array_equal(choose(counts, 0.2, seed=1), choose(counts, 0.2, seed=2))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_part_is_empty(share: float) -> None:
    for images in (2, 3, 10):
        assert 0 < choose(np.ones((images, 1), dtype=np.int64), share, seed=0).sum() < images
    with pytest.raises(UserError, match="cannot be divided"):
        choose(np.ones((1, 1), dtype=np.int64), share, seed=0)


def bccd(*overrides: str) -> Splits:
    values, _ = check(compose(["dataset=custom", f"dataset.root={BCCD}", *overrides]))
    return build(values["dataset"])


def test_train_is_divided_whatever_val_is() -> None:
    data = bccd("dataset.holdout=0.2", "dataset.val=null", "seed=7")
    train, val = (data.split(name, transform=keep) for name in ("train", "val"))  # type: ignore[arg-type]
    whole = bccd().split("train", transform=keep)
    assert sorted([*train.files, *val.files]) == sorted(whole.files)
    assert not {*train.files} & {*val.files}
    assert data.held_out == [Path(file).relative_to(BCCD.resolve()).as_posix() for file in map(resolved, val.files)]
    assert len(bccd("dataset.holdout=0.2").split("test", transform=keep)) == 72
    assert data.categories("val") == data.categories("train")
    again = bccd("dataset.holdout=0.2", "seed=7").split("val", transform=keep)
    assert again.fingerprint() == val.fingerprint()


def resolved(file: str) -> Path:
    return Path(file).resolve()


def test_what_was_held_out_stays_so_when_images_are_added() -> None:
    data = bccd("dataset.holdout=0.2")
    val = data.split("val", transform=keep)
    named = bccd(f"dataset.holdout=[{','.join(data.held_out or [])}]")
    assert named.split("val", transform=keep).fingerprint() == val.fingerprint()
    with pytest.raises(UserError, match=r"none of the 1 images .* gone\.jpg, is among the training images"):
        bccd("dataset.holdout=[gone.jpg]").split("val", transform=keep)


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "20"])
def test_a_share_is_between_0_and_1(share: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.holdout: expected a share .* between 0 and 1"):
        bccd(f"dataset.holdout={share}")


def test_every_format_can_be_divided(tmp_path: Path) -> None:
    for number in range(10):
        image(tmp_path / "images" / f"{number}.png")
        text(tmp_path / "labels" / f"{number}.txt", f"{number % 2} 0.5 0.5 0.5 0.5\n")
    data = yolo(tmp_path, names=["cat", "dog"], holdout=0.2, val=None)
    parts = [data.split(name, transform=keep) for name in ("train", "val")]  # type: ignore[arg-type]
    assert [part.class_counts().sum(axis=0).tolist() for part in parts] == [[4, 4], [1, 1]]
    assert len(voc(BCCD, holdout=0.5).split("val", transform=keep)) == pytest.approx(102, abs=6)


@pytest.mark.parametrize("name", ["shapes", "shapes_panoptic"])
def test_embedded_data_too(tmp_path: Path, name: str) -> None:
    overrides = [f"dataset={name}", f"dataset.root={tmp_path}/shapes", "dataset.holdout=0.25"]
    values, _ = check(compose([*overrides, "+dataset.counts={train: 8, val: 2, test: 2}"]))
    data = build(values["dataset"])
    train, val = (data.split(split, transform=keep) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert train[0].boxes.shape[1] == 4
    assert val.ground_truth()["images"]
