"""COCO files read column by column, against entries that are looked at one by one."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

from detr.data.coco_reader import read_annotations
from detr.errors import UserError
from detr.files import uncollected


def read(tmp_path, content):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_annotations([str(tmp_path / "images")], [str(tmp_path / "a.json")])


def example(spelling) -> dict:
    """The same content, its numbers spelled by `spelling`."""
    names = ["b.jpg", "sub/a.jpg", "./c.jpg", "d e.jpg"]
    images = [{"id": spelling(9 - n), "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    annotations = [
        {
            "id": spelling(100 + n),
            "image_id": spelling(9 - n % 3),
            "category_id": spelling(1 + n % 2),
            "bbox": [n, spelling(2), 5 + n, 7],
            "area": spelling(12),
            "iscrowd": int(n == 2),
        }
        for n in range(7)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 2, "name": "x"}, {"id": 1, "name": "y"}],
    }


def test_both_ways_read_the_same(tmp_path):
    """Whole numbers go through at once; written as 640.0 they are looked at one by one."""
    fast, slow = read(tmp_path, example(int)), read(tmp_path, example(float))
    for name in ("image_ids", "sizes", "files", "offsets", "annotation_ids", "category_ids", "boxes", "areas", "crowd"):
        ours, theirs = getattr(fast, name), getattr(slow, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs), name
    assert fast.annotation_ids.tolist() == [100, 103, 106, 101, 104, 102, 105]
    assert [file.removeprefix(f"{tmp_path}/images/") for file in fast.files] == [
        "b.jpg",
        "sub/a.jpg",
        "c.jpg",
        "d e.jpg",
    ]
    assert fast.digest() == slow.digest()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_id", 2**63, "expected a whole number"),
        ("image_id", 77, "points to image 77"),
        ("category_id", 5, "has category 5"),
        ("bbox", [1, 2, 3, float("nan")], "expected four finite numbers"),
        ("bbox", [1, 2, 3, 10**400], "expected four finite numbers"),
        ("bbox", [1, 2, 3, True], "expected four finite numbers"),
        ("bbox", [1, 2, 3], "expected four finite numbers"),
        ("area", -1, "expected a number of square pixels"),
        ("area", "12", "expected a number of square pixels"),
        ("iscrowd", 2, "expected 0, 1, false, true or null"),
    ],
)
def test_one_wrong_value_among_many_is_named(tmp_path, key, value, said):
    content = example(int)
    content["annotations"][5][key] = value
    with pytest.raises(UserError, match=rf"annotation 105.*{said}"):
        read(tmp_path, content)


def test_the_collection_goes_on_afterwards():
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    with pytest.raises(ZeroDivisionError), uncollected():
        _ = 1 / 0
    assert gc.isenabled()
