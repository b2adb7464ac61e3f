"""What is read from COCO files, and what a user is told about broken ones."""

import copy
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr.data.annotations import Annotations, check_images_exist
from detr.data.coco_reader import read_annotations, read_categories
from detr.errors import UserError


def read(folder: Path, *contents: object, require_annotations: bool = True) -> Annotations:
    files = []
    for number, content in enumerate(contents):
        files.append(str(folder / f"{number}.json"))
        Path(files[-1]).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations([str(folder)], files, require_annotations=require_annotations).without_empty_boxes()


def test_annotations_are_grouped_by_image(tmp_path, coco):
    coco["annotations"].reverse()
    table = read(tmp_path, coco)
    assert table.image_ids.tolist() == [10, 20, 30]
    assert [table.annotation_ids[table.objects(i)].tolist() for i in range(3)] == [[2, 1], [4, 3], []]
    assert table.categories == {3: "dog", 5: "bird", 7: "cat"}
    assert table.sizes.tolist() == [[30, 40]] * 3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.sampled_from([3, 7])), max_size=12))
def test_boxes_in_any_order_are_grouped_by_image(boxes):
    table = Annotations.of_boxes(
        files=list("abcd"),
        sizes=[(60, 80)] * 4,
        image_index=[owner for owner, _, _ in boxes],
        boxes=[(1, 2, side, 5) for _, side, _ in boxes],
        category_ids=[category for _, _, category in boxes],
        categories={3: "dog", 7: "cat"},
    )
    for image in range(4):
        mine = table.objects(image)
        expected = [(side, category) for owner, side, category in boxes if owner == image]
        assert list(zip(table.boxes[mine, 2], table.category_ids[mine], strict=True)) == expected
        assert table.areas[mine].tolist() == [5 * side for side, _ in expected]
    assert sorted(table.annotation_ids) == list(range(1, len(boxes) + 1))


def test_a_data_set_without_images_is_told():
    with pytest.raises(UserError, match="no images; a data set needs at least one"):
        Annotations.of_boxes(files=[], sizes=[], image_index=[], boxes=[], category_ids=[], categories={})


def test_to_coco_gives_back_the_file(tmp_path, coco):
    """Except that annotations are numbered anew."""
    result = read(tmp_path, coco).to_coco()
    assert result["images"] == coco["images"]
    assert result["annotations"] == coco["annotations"]  # whose ids are 1 … n already
    assert result["categories"] == sorted(coco["categories"], key=lambda category: category["id"])


def test_evaluators_never_see_annotation_id_zero(tmp_path, coco):
    """pycocotools takes it for "not matched"."""
    for annotation in coco["annotations"]:
        annotation["id"] -= 1
    assert [a["id"] for a in read(tmp_path, coco).to_coco()["annotations"]] == [1, 2, 3, 4]


def test_missing_area_is_that_of_the_box(tmp_path, coco):
    del coco["annotations"][0]["area"]
    coco["annotations"][1]["area"] = 5
    assert read(tmp_path, coco).areas[:2].tolist() == [80, 5]


@given(st.lists(st.tuples(*[st.floats(-50, 90, width=32)] * 4), max_size=8))
@settings(max_examples=30)
def test_clipped_boxes_lie_in_the_image(tmp_path_factory, boxes):
    """And are the boxes' intersections with the image, as an independent formula has them."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": list(box), "area": 1} for i, box in enumerate(boxes)
    ]
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    table = read(tmp_path_factory.mktemp("coco"), content)
    expected = []
    for x, y, w, h in boxes:
        corners = np.float32([x, y, np.float32(x) + np.float32(w), np.float32(y) + np.float32(h)])
        left, top, right, bottom = np.minimum(np.maximum(corners, 0), np.float32([40, 30, 40, 30]))
        if right > left and bottom > top:
            expected.append([left, top, right, bottom])
    assert table.corners().tolist() == np.array(expected, dtype=np.float32).reshape(-1, 4).tolist()


def test_boxes_without_area_are_dropped_and_named(tmp_path, coco, caplog):
    coco["annotations"][0]["bbox"] = [5, 5, 0, 8]
    coco["annotations"][2]["bbox"] = [50, 5, 10, 8]  # outside of the image
    table = read(tmp_path, coco)
    assert sorted(table.annotation_ids.tolist()) == [2, 4]
    assert table.objects(0) == slice(0, 1)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    assert "annotation 1 of image" in caplog.messages[0]
    assert "1.png" in caplog.messages[0]
    assert "annotation 3" in caplog.messages[1]


def test_many_warnings_collapse_to_a_count(tmp_path, coco, caplog):
    coco["annotations"] = [dict(coco["annotations"][0], id=i, bbox=[1, 1, 0, 0]) for i in range(12)]
    read(tmp_path, coco)
    assert len(caplog.messages) == 6
    assert caplog.messages[-1] == "7 other boxes without area are dropped"


def test_subset_and_keep_agree_with_the_dictionary(tmp_path, coco):
    table = read(tmp_path, coco)
    chosen = table.subset([2, 0]).to_coco()
    assert [image["id"] for image in chosen["images"]] == [30, 10]
    assert [a["bbox"] for a in chosen["annotations"]] == [a["bbox"] for a in coco["annotations"][:2]]
    assert len(table.subset([])) == 0
    assert table.keep(~table.crowd).annotation_ids.tolist() == [1, 2, 3]
    assert table.keep(~table.crowd).offsets.tolist() == [0, 2, 3, 3]


def test_several_files_are_merged(tmp_path, coco, caplog):
    other = copy.deepcopy(coco)
    other["images"][0]["id"] = other["annotations"][0]["image_id"] = other["annotations"][1]["image_id"] = 99
    with caplog.at_level(logging.INFO):
        table = read(tmp_path, coco, other)
    assert table.image_ids.tolist() == [10, 20, 30, 99, 100, 101]  # 20 and 30 clash
    assert "2 image ids clash" in caplog.text
    owners = [a["image_id"] for a in table.to_coco()["annotations"]]
    assert owners == [10, 10, 20, 20, 99, 99, 100, 100]


def test_each_file_may_have_its_own_folder(tmp_path, coco):
    read(tmp_path, coco, coco)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = [str(tmp_path / "0.json"), str(tmp_path / "1.json")]
    table = read_annotations([str(tmp_path / "a"), str(tmp_path / "b")], files)
    assert [Path(f).parent.name for f in table.files] == ["a"] * 3 + ["b"] * 3
    with pytest.raises(UserError, match=r"3 image folders for 2 annotation files"):
        read_annotations(["a", "b", "c"], files)


def test_image_info_without_annotations(tmp_path, coco):
    del coco["annotations"]
    table = read(tmp_path, coco, require_annotations=False)
    assert len(table) == 3
    assert not table.annotated
    assert table.to_coco()["annotations"] == []


def broken(change):
    def apply(coco):
        change(coco)
        return coco

    return apply


BROKEN = {
    "not json": (lambda coco: "{nonsense", r"0\.json: not valid JSON"),
    "binary": (lambda coco: "\x00\x01", r"not valid JSON"),
    "a list": (lambda coco: [coco], r"not COCO format: expected a JSON object, got a list"),
    "no images": (broken(lambda c: c.pop("images")), r'"images" is missing'),
    "no annotations": (broken(lambda c: c.pop("annotations")), r'"annotations" is missing'),
    "no categories": (broken(lambda c: c.pop("categories")), r'"categories" is missing'),
    "images a dict": (broken(lambda c: c.update(images={})), r'"images": expected a list'),
    "annotations of numbers": (
        broken(lambda c: c.update(annotations=[1])),
        r'"annotations": expected a list of objects',
    ),
    "zero images": (broken(lambda c: c.update(images=[], annotations=[])), r"no images"),
    "image id a text": (
        broken(lambda c: c["images"][0].update(id="x")),
        r"image number 0: \"id\": expected a whole number, got 'x'",
    ),
    "no file name": (
        broken(lambda c: c["images"][1].pop("file_name")),
        r'image 20: "file_name": expected a text, but it is missing',
    ),
    "no width": (
        broken(lambda c: c["images"][1].pop("width")),
        r'image 20: "width": expected a whole number, but it is missing',
    ),
    "width zero": (
        broken(lambda c: c["images"][1].update(width=0)),
        r"image 20: expected a positive width and height, got 0 ×",
    ),
    "image twice": (broken(lambda c: c["images"][1].update(id=10)), r"image id 10 occurs 2 times"),
    "annotation twice": (broken(lambda c: c["annotations"][1].update(id=1)), r"annotation id 1 occurs 2 times"),
    "annotation without id": (
        broken(lambda c: c["annotations"][1].pop("id")),
        r'annotation number 1: "id": expected a whole number',
    ),
    "missing image": (broken(lambda c: c["annotations"][1].update(image_id=77)), r"annotation 2 points to image 77"),
    "missing category": (broken(lambda c: c["annotations"][1].update(category_id=8)), r"annotation 2 has category 8"),
    "category twice": (broken(lambda c: c["categories"][0].update(id=3)), r"category id 3 occurs 2 times"),
    "name twice": (broken(lambda c: c["categories"][0].update(name="dog")), r'7 and 3 are both named "dog"'),
    "no box": (broken(lambda c: c["annotations"][1].pop("bbox")), r'annotation 2: "bbox": .*, but it is missing'),
    "NaN": (
        broken(lambda c: c["annotations"][1].update(bbox=[1, 2, math.nan, 4])),
        r'annotation 2: "bbox": .*, got \[1, 2, nan',
    ),
    "infinite": (broken(lambda c: c["annotations"][1].update(bbox=[1, 2, math.inf, 4])), r"four finite numbers"),
    "three numbers": (broken(lambda c: c["annotations"][1].update(bbox=[1, 2, 3])), r"annotation 2: .* four finite"),
    "text in box": (broken(lambda c: c["annotations"][1].update(bbox=[1, 2, "3", 4])), r"annotation 2: .* four finite"),
    "huge": (broken(lambda c: c["annotations"][1].update(bbox=[1, 2, 10**400, 4])), r"annotation 2: .* four finite"),
    "area": (broken(lambda c: c["annotations"][1].update(area=-3)), r'annotation 2: "area": .*, got -3'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_get_one_line(tmp_path, coco, case):
    damage, message = BROKEN[case]
    with pytest.raises(UserError) as caught:
        read(tmp_path, damage(coco))
    text = str(caught.value)
    assert re.search(message, text)
    assert "0.json" in text
    assert "\n" not in text


def test_contradicting_categories(tmp_path, coco):
    for change, message in (
        ({"name": "wolf"}, r'1\.json: category 7 "wolf" contradicts .* 7 is "cat"'),
        ({"id": 9}, r'1\.json: category 9 "cat" contradicts .* is 7'),
    ):
        other = copy.deepcopy(coco)
        other["categories"][0].update(change)
        other["annotations"] = []
        with pytest.raises(UserError, match=message):
            read(tmp_path, coco, other)
        with pytest.raises(UserError, match=message):
            read_categories([str(tmp_path / "0.json"), str(tmp_path / "1.json")])


def test_missing_files_and_folders(tmp_path, coco):
    with pytest.raises(UserError, match=r"nowhere\.json: no such annotation file"):
        read_annotations([str(tmp_path)], [str(tmp_path / "nowhere.json")])
    read(tmp_path, coco)
    with pytest.raises(UserError, match=r"nowhere: no such image folder"):
        read_annotations([str(tmp_path / "nowhere")], [str(tmp_path / "0.json")])
    with pytest.raises(UserError, match=r"cannot be read"):
        read_annotations([str(tmp_path)], [str(tmp_path)])


def test_missing_images_are_counted(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / "sub/b.png").touch()
    present = [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")]
    check_images_exist(present, "x.json")
    with pytest.raises(UserError, match=r"c\.png: missing, but listed in x\.json"):
        check_images_exist([*present, str(tmp_path / "sub/c.png")], "x.json")
    with pytest.raises(UserError, match=r"c\.png and 1 more: missing"):
        check_images_exist([*present, str(tmp_path / "sub/c.png"), str(tmp_path / "none/d.png")], "x.json")
