"""The embedded data set: the same everywhere, whole or absent, and what its specification says."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from coco_example import keep
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from detr.data.shapes import dataset as shapes
from detr.data.shapes.dataset import Shapes, annotate, run_lengths
from detr.data.shapes.raster import FULL, rasterize
from detr.data.shapes.scenes import CLASSES, MIN_VISIBLE, SIDE, Scene, compose, render
from detr.errors import UserError

COUNTS = {"train": 24, "val": 8, "test": 8}

# Of compose() and annotate() for the first images of each split. It may change only together with
# shapes.VERSION, and then only towards harder images: all results so far become incomparable.
ANNOTATIONS_SHA256 = "d6f4a5b6debff32cdb522d02c051954c5dced094406ca9e18385d50a367cfc5c"
PIXELS_SHA256 = "c0f3e3d31db46d860ed47186e83d61134ce1a92a0cbd5661342bf7e9c7c0e0b3"


def build(root: Path, counts: dict[str, int] | None = None) -> Shapes:
    files = {
        split: {"images": str(root / "images" / split), "annotations": str(root / f"annotations/{split}.json")}
        for split in COUNTS
    }
    return Shapes(root=str(root), categories="contiguous", counts=counts or COUNTS, **files)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "deep" / "shapes"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose(0, index) for index in range(240)]


def test_annotations_are_the_same_everywhere():
    annotations = [
        annotate(compose(split, index), image_id=index, first_id=0) for split in range(3) for index in range(60)
    ]
    assert hashlib.sha256(json.dumps(annotations).encode()).hexdigest() == ANNOTATIONS_SHA256


def test_pixels_are_the_same_everywhere():
    pixels = [render(compose(split, index), split, index) for split in range(3) for index in range(8)]
    assert hashlib.sha256(np.stack(pixels).tobytes()).hexdigest() == PIXELS_SHA256


def test_no_two_images_are_alike(scenes):
    pictures = {render(scene, 0, index).tobytes() for index, scene in enumerate(scenes[:16])}
    pictures |= {render(compose(1, index), 1, index).tobytes() for index in range(16)}
    assert len(pictures) == 32


def test_specification(scenes):
    """Up to six objects of 0.1 to 0.45 of the side, all classes alike, at least 10 % empty images, clutter."""
    counts = np.array([len(scene.classes) for scene in scenes])
    assert (counts == 0).mean() == 0.125
    assert set(counts) == set(range(7))
    classes = np.bincount([c for scene in scenes for c in scene.classes], minlength=5)
    assert len(classes) == len(CLASSES) == 5
    assert classes.min() > 0.15 * classes.sum()
    sizes = [max(layer.stencil.mask.any(axis=axis).sum() for axis in (0, 1)) for layer in objects_of(scenes)]
    assert min(sizes) >= 0.1 * SIDE - 2  # a star's thin tips cover less than half of their pixels
    assert max(sizes) <= 0.45 * SIDE + 1
    assert np.quantile(sizes, 0.9) > 0.38 * SIDE
    clutter = [sum(layer.object is None for layer in scene.layers) for scene in scenes]
    assert min(clutter) >= 2  # a patch and a stroke
    assert np.mean(clutter) > 3


def objects_of(scenes):
    return [layer for scene in scenes for layer in scene.layers if layer.object is not None]


def test_objects_overlap_but_stay_visible(scenes):
    visible = [
        scene.mask(layer.object).sum() / layer.stencil.mask.sum()
        for scene in scenes
        for layer in scene.layers
        if layer.object is not None
    ]
    assert min(visible) >= MIN_VISIBLE
    assert np.mean(np.array(visible) < 1) > 0.2


def test_objects_stand_out(scenes):
    """What an object covers differs from what it looks like by a visible amount."""
    differences = []
    for index, scene in enumerate(scenes[:40]):
        picture = render(scene, 0, index).astype(int)
        for number in range(len(scene.classes)):
            mask = scene.mask(number)
            rows, columns = np.nonzero(mask)
            box = (slice(max(rows.min() - 3, 0), rows.max() + 4), slice(max(columns.min() - 3, 0), columns.max() + 4))
            around = picture[box][scene.owner[box] != number]
            differences.append(np.abs(picture[mask].mean(0) - around.mean(0)).sum())
    assert np.quantile(differences, 0.05) > 60


def test_annotations_agree_with_the_masks(root):
    """Boxes are tight around the visible pixels, areas and run lengths are theirs, as pycocotools reads them."""
    for split in COUNTS:
        content = json.loads((root / f"annotations/{split}.json").read_text())
        assert [image["id"] for image in content["images"]] == list(range(1, COUNTS[split] + 1))
        assert content["annotations"]
        for annotation in content["annotations"]:
            encoded = coco_mask.frPyObjects(annotation["segmentation"], SIDE, SIDE)
            mask = coco_mask.decode(encoded)
            assert coco_mask.area(encoded) == annotation["area"] == mask.sum()
            assert coco_mask.toBbox(encoded).tolist() == annotation["bbox"]
            assert annotation["iscrowd"] == 0


def test_masks_lie_on_the_objects_of_the_picture(scenes):
    """Painting an object's pixels changes the picture there, and hardly anywhere else."""
    index = next(i for i, scene in enumerate(scenes) if len(scene.classes) == 1)
    scene = scenes[index]
    without = compose(0, index)
    without.layers = [layer for layer in scene.layers if layer.object is None]
    (layer,) = objects_of([scene])
    last = scene.layers[: scene.layers.index(layer) + 1]
    scene.layers = last  # the strokes on top draw other colours without the object
    without.layers = last[:-1]
    noise = 14  # illumination and noise are drawn anew
    changed = np.abs(render(scene, 0, index).astype(int) - render(without, 0, index)).max(axis=2) > noise * 4
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[layer.stencil.rows, layer.stencil.columns] = layer.stencil.mask
    assert changed[mask].mean() > 0.8
    assert changed[~mask].mean() < 0.03


def test_behaves_as_an_ordinary_data_set(root):
    splits = build(root)
    assert splits.classes.names == CLASSES
    dataset = splits.split("train", transform=keep)
    assert len(dataset) == COUNTS["train"]
    sample = dataset[0]
    assert sample.image.shape == (3, SIDE, SIDE)
    assert np.abs(sample.image.permute(1, 2, 0).numpy().astype(int) - render(compose(0, 0), 0, 0)).mean() < 3  # JPEG
    assert len(sample.labels) == len(compose(0, 0).classes)
    assert sample.labels.tolist() == compose(0, 0).classes


def test_it_is_generated_once(root, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(shapes, "compose", None)  # would fail if called
    build(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in root.parent.iterdir()] == ["shapes"]


def test_smaller_sets_are_prefixes(root, tmp_path):
    build(tmp_path / "small", {"train": 3, "val": 1, "test": 1})
    for path in (tmp_path / "small/images").rglob("*.jpg"):
        assert path.read_bytes() == (root / path.relative_to(tmp_path / "small")).read_bytes()


def test_other_counts_are_not_confused(root):
    with pytest.raises(UserError, match=r'shapes: made from .*"train": 24.* but .*"train": 25.* remove the folder'):
        build(root, {**COUNTS, "train": 25})


def test_another_version_is_not_taken(root, monkeypatch):
    monkeypatch.setattr(shapes, "VERSION", 0)
    with pytest.raises(UserError, match="made from"):
        build(root)


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"not empty, but not a finished shapes data set \(shapes\.json is missing"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shapes").mkdir()
    build(tmp_path / "shapes", {"train": 1, "val": 1, "test": 1})
    assert (tmp_path / "shapes/shapes.json").is_file()


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(scene: Scene, split: int, index: int) -> np.ndarray:
        if index == 2:
            raise KeyboardInterrupt
        return render(scene, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "shapes")
    assert list(tmp_path.iterdir()) == []
    build(tmp_path / "shapes")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/shapes: the shapes data set cannot be written \(Not a directory\)"):
        build(tmp_path / "file" / "shapes")


def test_processes_that_start_together(tmp_path):
    """All of them find the whole data set, and nothing else stays."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=build, args=(tmp_path / "shapes",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(build(tmp_path / "shapes").split("train", transform=keep)) == COUNTS["train"]


def test_who_comes_second_keeps_what_the_first_wrote(tmp_path, monkeypatch):
    """The race itself: another process publishes while this one is still drawing."""
    original = shapes._publish

    def late(temporary: Path, root: Path, recipe: dict) -> None:
        monkeypatch.setattr(shapes, "_publish", original)
        build(root)
        (root / "first").touch()
        original(temporary, root, recipe)

    monkeypatch.setattr(shapes, "_publish", late)
    build(tmp_path / "shapes")
    assert (tmp_path / "shapes/first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("seed", range(20))
def test_rasterized_polygons(seed):
    """Coverage against a brute-force even-odd test of every sample, also beyond the border and self-crossing."""
    rng = np.random.default_rng(seed)
    polygon = np.rint(rng.uniform(-8, 40, (rng.integers(3, 9), 2)) * 64) / 64
    rows, columns, coverage = rasterize(polygon, 32)
    full = np.zeros((32, 32), dtype=int)
    full[rows, columns] = coverage
    centres = (np.arange(128) + 0.5) / 4
    x, y = np.meshgrid(centres, centres)
    inside = np.zeros((128, 128), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= spans & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    expected = inside.reshape(32, 4, 32, 4).sum(axis=(1, 3))
    assert np.abs(full - expected).max() <= 1  # samples exactly on an edge may fall to either side
    assert (full != expected).mean() < 0.01


def test_coverage_of_a_known_square():
    rows, columns, coverage = rasterize(np.array([[2.0, 3.0], [5.5, 3.0], [5.5, 6.25], [2.0, 6.25]]), 10)
    assert (rows, columns) == (slice(3, 7), slice(2, 6))
    assert coverage[:3].tolist() == [[FULL, FULL, FULL, FULL // 2]] * 3
    assert coverage[3].tolist() == [FULL // 4] * 3 + [FULL // 8]


@pytest.mark.parametrize("value", [0, 1])
def test_run_lengths(value):
    image = Image.new("1", (7, 5), 1 - value)
    ImageDraw.Draw(image).ellipse((1, 0, 5, 4), fill=value)
    mask = np.asarray(image)
    encoded = {"size": [5, 7], "counts": run_lengths(mask)}
    assert (coco_mask.decode(coco_mask.frPyObjects(encoded, 5, 7)) == mask).all()
    assert run_lengths(np.full((2, 3), bool(value))) == ([0, 6] if value else [6])
