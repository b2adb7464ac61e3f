"""The embedded data set's panoptic annotations: they agree with its boxes, and appear whole or not at all."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from coco_example import keep

from detr.data.panoptic.segment_ids import read_segment_ids
from detr.data.shapes import panoptic as shapes_panoptic
from detr.data.shapes.dataset import generate
from detr.data.shapes.panoptic import CATEGORIES, ShapesPanoptic, annotate_panoptic
from detr.data.shapes.scenes import CLASSES, SIDE, STUFF, compose

COUNTS = {"train": 12, "val": 4, "test": 4}

# Of annotate_panoptic() for the first images of each split; see test_shapes.py.
SEGMENTS_SHA256 = "be49738fa62d04505476ae1c9b88e47babd0036bb691475329e87d424ba883de"


def build(root: Path, **more) -> ShapesPanoptic:
    files = {
        split: {
            "images": str(root / "images" / split),
            "annotations": str(root / f"annotations/panoptic_{split}.json"),
            "segments": str(root / f"annotations/panoptic_{split}"),
            "instances": str(root / f"annotations/{split}.json"),
        }
        for split in COUNTS
    }
    return ShapesPanoptic(root=str(root), categories="contiguous", counts=COUNTS, **files, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    build(folder)
    return folder


def test_segments_are_the_same_everywhere():
    digest = hashlib.sha256()
    for split in range(3):
        for index in range(30):
            ids, segments = annotate_panoptic(compose(split, index))
            digest.update(ids.astype("<i4").tobytes() + json.dumps(segments).encode())
    assert digest.hexdigest() == SEGMENTS_SHA256


def test_things_are_the_shapes_of_the_detection_annotations(root):
    for split in COUNTS:
        detection = json.loads((root / f"annotations/{split}.json").read_text())
        panoptic = json.loads((root / f"annotations/panoptic_{split}.json").read_text())
        assert panoptic["images"] == detection["images"]
        assert panoptic["categories"][: len(CLASSES)] == [c | {"isthing": 1} for c in detection["categories"]]
        for entry in panoptic["annotations"]:
            boxes = [a for a in detection["annotations"] if a["image_id"] == entry["image_id"]]
            things = [segment for segment in entry["segments_info"] if segment["category_id"] <= len(CLASSES)]
            assert [(a["category_id"], a["bbox"], a["area"]) for a in boxes] == [
                (segment["category_id"], segment["bbox"], segment["area"]) for segment in things
            ]


def test_pngs_are_a_partition(root):
    """Each pixel is of an object, of the background or a patch, or of a stroke (void), and areas are theirs."""
    for index in range(COUNTS["train"]):
        scene = compose(0, index)
        entry = json.loads((root / "annotations/panoptic_train.json").read_text())["annotations"][index]
        ids = read_segment_ids(str(root / "annotations/panoptic_train" / entry["file_name"]), (SIDE, SIDE))
        values, counts = np.unique(ids, return_counts=True)
        areas = {segment["id"]: segment["area"] for segment in entry["segments_info"]}
        assert areas | {0: 0} == dict(zip(values.tolist(), counts.tolist(), strict=True)) | {0: 0}
        assert 0 < (ids == 0).mean() < 0.2
        assert np.array_equal(ids == 0, (scene.owner < 0) & (scene.stuff < 0))


def test_stuff_is_what_was_painted():
    shares = []
    for index in range(60):
        scene = compose(0, index)
        assert scene.stuff_mask(0).mean() > 0.3  # the background
        shares.append(scene.stuff_mask(1).mean())
    assert np.mean(np.array(shares) > 0) > 0.9
    assert 0.02 < np.mean(shares) < 0.2
    patch, *_ = (layer.stencil for layer in scene.layers)
    covered = scene.stuff[patch.rows, patch.columns][patch.mask]
    assert (covered != 0).all()


def test_samples(root):
    splits = build(root, masks=True)
    assert splits.classes.names == CLASSES + STUFF
    assert splits.classes.things == (True,) * 5 + (False,) * 2
    dataset = splits.split("val", transform=keep)
    scene = compose(1, 0)
    sample = dataset[0]
    stuff = [5 + index for index in range(2) if scene.stuff_mask(index).any()]
    assert sample.labels.tolist() == [*scene.classes, *stuff]
    for number in range(len(scene.classes)):
        assert np.array_equal(sample.masks[number].numpy(), scene.mask(number))
    assert len(dataset.ground_truth()["annotations"]) == sum(len(compose(1, index).classes) for index in range(4))
    assert all(len(dataset[index].labels) for index in range(4))


def test_a_folder_without_panoptic_annotations_is_completed(tmp_path, root):
    generate(tmp_path / "shapes", COUNTS)
    before = {path: path.read_bytes() for path in (tmp_path / "shapes").rglob("*") if path.is_file()}
    build(tmp_path / "shapes")
    assert {path: path.read_bytes() for path in before} == before
    added = sorted(path.relative_to(tmp_path) for path in (tmp_path / "shapes/annotations").iterdir())
    assert [path.name for path in added] == sorted(
        [f"{split}.json" for split in COUNTS]
        + [f"panoptic_{split}.json" for split in COUNTS]
        + [f"panoptic_{split}" for split in COUNTS]
    )
    for path in (root / "annotations").rglob("*.png"):
        assert (tmp_path / "shapes" / path.relative_to(root)).read_bytes() == path.read_bytes()


def test_they_are_generated_once(root, monkeypatch):
    monkeypatch.setattr(shapes_panoptic, "compose", None)  # would fail if called
    build(root)


def test_an_interrupted_generation_is_repeated(tmp_path, monkeypatch):
    def interrupted(split: int, index: int):
        if index == 3:
            raise KeyboardInterrupt
        return compose(split, index)

    with monkeypatch.context() as patch:
        patch.setattr(shapes_panoptic, "compose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "shapes")
    assert sorted(path.name for path in (tmp_path / "shapes/annotations").iterdir()) == [
        "test.json",
        "train.json",
        "val.json",
    ]
    assert len(build(tmp_path / "shapes").split("train", transform=keep)) == COUNTS["train"]


def test_processes_that_start_together(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=build, args=(tmp_path / "shapes",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not [path for path in (tmp_path / "shapes/annotations").iterdir() if path.name.startswith(".")]
    dataset = build(tmp_path / "shapes", masks=True).split("train", transform=keep)
    assert all(len(dataset[index].masks) for index in range(len(dataset)))


def test_categories():
    assert [category["name"] for category in CATEGORIES if not category["isthing"]] == list(STUFF)
    assert len(shapes_panoptic.COLOURS) == len(CATEGORIES)
