"""Images that are decoded once, and large ones that are decoded reduced, against reading them as they are."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from detr.data import cache, images
from detr.data.annotations import Annotations
from detr.data.cache import ImageCache
from detr.data.coco import CocoSplits
from detr.data.dataset import AnnotatedImages
from detr.data.images import read_image
from detr.data.loader import train_loader
from detr.data.mixing import DenseMixing
from detr.data.transforms import detr_train, flip_train, light_train
from detr.data.variations import Variations
from detr.errors import UserError
from detr.structures import Batch, Classes

TRANSFORMS = {"light": light_train(48), "detr": detr_train([32, 48], 80, exact=False)}


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    """Eight JPEGs of two shapes, one of them turned by its EXIF tag, with a box each."""
    files, sizes = [], []
    for number in range(8):
        size = (60, 90) if number % 2 else (100, 70)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=exif)
        files.append(str(tmp_path / f"{number}.jpg"))
        sizes.append(size[::-1] if number == 3 else size)
    boxes = [[5, 10, 20 + number, 30] for number in range(8)]
    return Annotations.of_boxes(
        files=files, sizes=sizes, image_index=range(8), boxes=boxes, category_ids=[1] * 8, categories={1: "thing"}
    )


def dataset(annotations: Annotations, transform) -> AnnotatedImages:
    return AnnotatedImages(annotations, Classes.contiguous(annotations.categories), transform=transform, seed=3)


def batches(images: AnnotatedImages, workers: int, *, mixing: bool = False, first: int = 0) -> list[Batch]:
    """Those of two epochs, the second from batch `first` on."""
    variations = Variations(mixing=DenseMixing(stop_at=1.0), seed=5) if mixing else None
    loader = train_loader(images, batch_size=2, num_workers=workers, seed=1, variations=variations)
    found = []
    for epoch in range(2):
        loader.set_epoch(epoch, first_batch=first * epoch)
        found += list(loader)
    return found


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(one.images, other.images)
        and torch.equal(one.padding, other.padding)
        and torch.equal(one.targets.boxes, other.targets.boxes)
        for one, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mixing", [False, True])
def test_kept_images_make_the_same_batches(annotations, name, workers, mixing):
    plain, kept = (dataset(annotations, TRANSFORMS[name]) for _ in range(2))
    kept = kept.cached(True)
    assert same(batches(kept, workers, mixing=mixing), batches(plain, 0, mixing=mixing))
    assert same(batches(kept, workers, mixing=mixing, first=1), batches(plain, 0, mixing=mixing, first=1))


def test_workers_share_what_each_of_them_decodes(annotations):
    """After an epoch by other processes, no file is needed any more."""
    kept, plain = dataset(annotations, flip_train(200)).cached(True), dataset(annotations, flip_train(200))
    first = batches(kept, 2)
    expected = [plain[0, index].image for index in range(8)]
    for file in annotations.files:
        open(file, "w").close()
    assert all(torch.equal(kept[0, index].image, image) for index, image in enumerate(expected))
    assert same(batches(kept, 0), first)


def test_a_file_that_changes_is_read_anew_by_the_next_run(annotations):
    before = dataset(annotations, flip_train(200)).cached(True)[0, 1].image
    Image.new("RGB", (90, 60), (200, 0, 0)).save(annotations.files[1])
    assert not torch.equal(dataset(annotations, flip_train(200)).cached(True)[0, 1].image, before)


def test_only_what_fits_is_kept(annotations, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 4 * 3 * int(annotations.sizes.prod(axis=1).sum()))
    assert cache.image_cache("auto", annotations.files, annotations.sizes, None) is not None
    monkeypatch.setattr(cache, "free_memory", lambda: 1000)
    assert cache.image_cache("auto", annotations.files, annotations.sizes, None) is None
    assert cache.image_cache(False, annotations.files, annotations.sizes, None) is None
    with pytest.raises(UserError, match=r"dataset.cache=true: 8 decoded images take"):
        cache.image_cache(True, annotations.files, annotations.sizes, None)
    monkeypatch.setattr(cache, "free_memory", lambda: None)  # the system does not say
    assert cache.image_cache("auto", annotations.files, annotations.sizes, None) is None


def test_an_image_without_room_is_not_kept():
    small = ImageCache(np.array([3 * 4 * 5, 3]))
    image = Image.new("RGB", (5, 4), (1, 2, 3))
    for index in range(2):
        small.put(index, image)
    assert small.get(1) is None
    assert small.get(0).tobytes() == image.tobytes()
    assert pickle.loads(pickle.dumps(small)).get(0) is None  # spawned workers keep nothing


@pytest.mark.parametrize(("side", "longest", "factor"), [(800, 100, 8), (799, 100, 4), (200, 100, 2), (199, 100, 1)])
def test_large_jpegs_are_decoded_reduced(tmp_path, side, longest, factor):
    """About as averaging does it, and never below what was asked for."""
    drawn = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    whole = Image.fromarray(drawn).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    whole.save(tmp_path / "large.jpg", quality=95)
    whole.save(tmp_path / "large.png")
    size = (whole.height, whole.width)
    reduced = read_image(str(tmp_path / "large.jpg"), size, longest)
    assert reduced.size == (-(-side // factor), -(-whole.height // factor))
    assert max(reduced.size) >= longest
    averaged = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(reduced) - averaged).mean() < 2
    assert read_image(str(tmp_path / "large.png"), size, longest).size == whole.size
    with pytest.raises(UserError, match="but the annotations say"):
        read_image(str(tmp_path / "large.jpg"), (9, 9), longest)
    assert images.reduction(side, None) == 1


@pytest.mark.parametrize("kept", [False, True])
def test_reduced_images_have_the_same_sizes_and_boxes(annotations, kept):
    """Of images that are four times as large as they are needed."""
    whole_of = flip_train(16)
    del whole_of.longest
    reduced, whole = dataset(annotations, flip_train(16)).cached(kept), dataset(annotations, whole_of)
    for index in range(8):
        for epoch in (0, 1):
            ours, theirs = reduced[epoch, index], whole[epoch, index]
            apart = torch.tensor(ours.image.shape) - torch.tensor(theirs.image.shape)
            assert apart.abs().max() <= 1  # a reduced side is rounded up
            assert ours.original_size == theirs.original_size
            assert len(ours.boxes) == len(theirs.boxes)
            assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-5)
    assert reduced._image(0, str(annotations.files[0]), (100, 70)).size == (18, 25)


@pytest.mark.parametrize("most", [2 * 3 * 640 * 480, 2**30])
def test_validation_images_are_kept_only_beside_those_of_the_training(tmp_path, monkeypatch, most):
    """Where an epoch reads more than fits, to decode the few that are evaluated takes no time."""
    files = {}
    for name, count in (("train", 3), ("val", 1)):
        for number in range(count):
            Image.new("RGB", (640, 480)).save(tmp_path / f"{name}{number}.png")
        images = [{"id": n, "file_name": f"{name}{n}.png", "width": 640, "height": 480} for n in range(count)]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 50, 50], "area": 2500} for n in range(count)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        files[name] = {"images": str(tmp_path), "annotations": str(tmp_path / f"{name}.json")}
    monkeypatch.setattr(cache, "MOST", most)
    monkeypatch.setattr(cache, "free_memory", lambda: 2**40)
    both, alone = (CocoSplits(root=str(tmp_path), categories="contiguous", cache="auto", **files) for _ in range(2))
    fits = most == 2**30
    assert [both.split(name, transform=flip_train(200)).kept for name in ("train", "val")] == [fits, fits]
    assert alone.split("val", transform=flip_train(200)).kept
