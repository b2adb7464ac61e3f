"""Masks from polygons and run lengths: those of pycocotools, and what a user is told about broken ones."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO

from detr.data.annotations import Annotations
from detr.data.coco_reader import read_annotations
from detr.data.segmentations import CocoSegmentations, decode, encode, read_segmentations
from detr.data.shapes.dataset import run_lengths
from detr.errors import UserError

HEIGHT, WIDTH = 37, 53


def polygon(rng: np.random.Generator) -> list[float]:
    """Any closed line, some of it outside of the image."""
    return np.round(rng.uniform(-10, 63, (rng.integers(3, 12), 2)), 2).ravel().tolist()


def blob(rng: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.asfortranarray(rng.random(size) < rng.choice([0.0, 0.1, 0.5, 1.0]), dtype=np.uint8)


def segmentation(rng: np.random.Generator) -> Any:
    kind = rng.integers(3)
    if kind == 0:
        return [polygon(rng) for _ in range(rng.integers(1, 4))]
    mask = blob(rng)
    if kind == 1:
        return {"size": [HEIGHT, WIDTH], "counts": reference.encode(mask)["counts"].decode()}
    return {"size": [HEIGHT, WIDTH], "counts": run_lengths(mask)}


def content(rng: np.random.Generator, images: int = 12) -> dict[str, Any]:
    annotations = [
        {
            "id": number + 1,
            "image_id": int(rng.integers(1, images + 1)),
            "category_id": 1,
            "bbox": [1, 1, 10, 10],
            "area": 100,
            "iscrowd": int(rng.random() < 0.2),
            "segmentation": segmentation(rng),
        }
        for number in range(80)
    ]
    entries = [{"id": i + 1, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(images)]
    return {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "blob"}]}


def read(folder: Path, *contents: dict[str, Any], masks: bool = True) -> Annotations:
    files = [str(folder / f"{number}.json") for number in range(len(contents))]
    for file, each in zip(files, contents, strict=True):
        Path(file).write_text(json.dumps(each))
    return read_annotations([str(folder)], files, masks=masks)


def all_masks(table: Annotations) -> dict[int, np.ndarray]:
    """Annotation id → mask, asked for image by image as the data set does."""
    found = {}
    assert table.segmentations is not None
    for index in range(len(table)):
        rows = table.objects(index)
        masks = table.segmentations.masks(rows, (HEIGHT, WIDTH))
        assert masks.dtype == np.bool_
        found |= dict(zip(table.annotation_ids[rows].tolist(), masks, strict=True))
    return found


def coco_of(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(content)
    coco.createIndex()
    return coco


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_of_pycocotools(tmp_path, seed, capsys) -> None:
    given = content(np.random.default_rng(seed))
    coco = coco_of(given)
    found = all_masks(read(tmp_path, given))
    assert sorted(found) == sorted(coco.anns)
    for annotation_id, mask in found.items():
        expected = coco.annToMask(coco.anns[annotation_id])
        np.testing.assert_array_equal(mask, expected, err_msg=str(coco.anns[annotation_id]["segmentation"]))
    assert 0 < np.mean([mask.mean() for mask in found.values()]) < 1


def test_masks_follow_their_annotations(tmp_path) -> None:
    """Through keep, subset and merged files."""
    rng = np.random.default_rng(7)
    first, second = content(rng), content(rng)
    for entry in second["images"]:
        entry["id"] += 100
    for annotation in second["annotations"]:
        annotation["id"] += 100
        annotation["image_id"] += 100
    expected = all_masks(read(tmp_path, first)) | all_masks(read(tmp_path, second))
    merged = read(tmp_path, first, second)
    chosen = merged.keep(~merged.crowd).subset([20, 3, 11])
    found = all_masks(chosen)
    assert len(found) == len(chosen.annotation_ids) > 5
    for annotation_id, mask in found.items():
        np.testing.assert_array_equal(mask, expected[annotation_id])
    assert sorted(all_masks(merged)) == sorted(expected)


def test_the_ground_truth_has_the_masks(tmp_path, capsys) -> None:
    given = content(np.random.default_rng(3))
    table = read(tmp_path, given)
    coco, exported = coco_of(given), coco_of(table.to_coco())
    for number, annotation_id in enumerate(table.annotation_ids.tolist(), start=1):
        np.testing.assert_array_equal(
            exported.annToMask(exported.anns[number]), coco.annToMask(coco.anns[annotation_id])
        )
    json.dumps(table.to_coco())


def test_without_masks_segmentations_are_not_looked_at(tmp_path) -> None:
    given = content(np.random.default_rng(3))
    given["annotations"][0]["segmentation"] = "nonsense"
    table = read(tmp_path, given, masks=False)
    assert table.segmentations is None
    assert "segmentation" not in table.to_coco()["annotations"][0]


def test_taking_rows_copies_no_content() -> None:
    items = [{"segmentation": [[0, 0, 5, 0, 5, 5]]}] * 3
    table = read_segmentations(Path("a.json"), items, np.arange(3), np.full((3, 2), 20))
    part = table.take(np.array([True, False, True]))
    assert len(part) == 2
    assert np.shares_memory(part.content, table.content)
    assert len(pickle.dumps(table)) < 1000
    assert len(CocoSegmentations.join([table, part])) == 5


def test_encoding_is_that_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    masks = np.stack([blob(rng) for _ in range(20)]).astype(bool)
    for mask, rle in zip(masks, encode(masks), strict=True):
        expected = reference.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert rle == {"size": list(expected["size"]), "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(decode(rle), mask)
    assert encode(np.zeros((0, 4, 4), dtype=bool)) == []


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "is missing"),
        ([], "is missing"),
        ("abc", "a list of polygons"),
        (5, "a list of polygons"),
        ([1, 2, 3, 4, 5, 6], "a list of polygons"),
        ([[]], "0 points"),
        ([[1, 1, 5, 5]], "2 points; expected at least three"),
        ([[1, 1, 5, 5, 9, 9], [1, 1, 5, 5]], "2 points"),
        ([[1, 1, 5, 5, 9, 9, 3]], "7 numbers; expected an even number"),
        ([[1, 1, 5, float("nan"), 9, 9]], "coordinate nan"),
        ([[1, 1, 5, float("inf"), 9, 9]], "coordinate inf"),
        ([[1, 1, 5, 1e30, 9, 9]], "coordinate 1e\\+30"),
        ([[1, 1, 5, "7", 9, 9]], "coordinate '7'"),
        ([[1, 1, 5, True, 9, 9]], "coordinate True"),
        ([[1, 1, 5, None, 9, 9]], "coordinate None"),
        ([[1, 1, 5, [2], 9, 9]], "coordinate \\[2\\]"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "of size \\[53, 37\\], but the image is \\[37, 53\\]"),
        ({"counts": [HEIGHT * WIDTH]}, "of size None"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2, 3]}, "of 6 pixels, but the image has 37 × 53 = 1961"),
        ({"size": [HEIGHT, WIDTH], "counts": []}, "of 0 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}, "not run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]}, "not run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": ["1961"]}, "not run lengths"),
        ({"size": [HEIGHT, WIDTH]}, "the counts None"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "not compressed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "52203"}, "pixels, but the image"),
        ({"size": [HEIGHT, WIDTH], "counts": "ÄÖÜ"}, "not compressed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 50}, "not compressed run lengths"),
    ],
)
def test_a_broken_segmentation_is_named_in_one_line(tmp_path, segmentation, message) -> None:
    given = content(np.random.default_rng(0))
    given["annotations"][17]["segmentation"] = segmentation
    if segmentation is None:
        del given["annotations"][17]["segmentation"]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, given)
    assert str(caught.value).startswith(f'{tmp_path / "0.json"}: annotation 18: "segmentation" ')
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
