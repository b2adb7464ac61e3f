"""YOLO's text files, in every layout that the field has."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from coco_example import keep
from formats_example import image, text, yolo

from detr.errors import UserError

BOX = "1 0.5 0.5 0.25 0.5\n"  # in an image of 40 × 20: x 15, y 5, 10 × 10


def two_splits(root: Path, images: str, labels: str) -> None:
    """One image with a box, one without a label file, in each of train and val (`{}` in the places)."""
    for split in ("train", "val"):
        image(root / images.format(split) / "a.jpg")
        image(root / images.format(split) / "b.jpg")
        text(root / labels.format(split) / "a.txt", BOX)


@pytest.mark.parametrize(
    ("images", "labels", "data"),
    [
        ("images/{}", "labels/{}", None),
        ("{}/images", "{}/labels", None),
        ("{}", "{}", None),  # as Darknet has it: beside the images
        ("images/{}", "labels/{}", {"train": "images/train", "val": "images/val"}),
        ("sets/images/{}", "sets/labels/{}", {"path": "sets", "train": "images/train", "val": "images/val"}),
        ("images/{}", "labels/{}", {"path": "/another/machine", "train": "images/train", "val": ["images/val"]}),
        ("{}/images", "{}/labels", {"train": "../train/images", "val": "../val/images"}),  # as Roboflow writes it
        ("{}/images", "{}/labels", {"train": "./train/images", "val": "val/images"}),
    ],
)
def test_every_common_layout_is_read(tmp_path: Path, images: str, labels: str, data: dict | None) -> None:
    two_splits(tmp_path, images, labels)
    if data is None:
        text(tmp_path / "classes.txt", "cat\ndog\n")
    else:
        text(tmp_path / "data.yaml", yaml.safe_dump({**data, "nc": 2, "names": ["cat", "dog"]}))
    for split in ("train", "val"):
        found = yolo(tmp_path).split(split, transform=keep)  # type: ignore[arg-type]
        assert [Path(file).name for file in found.files] == ["a.jpg", "b.jpg"]
        assert found.objects_per_image.tolist() == [1, 0]
        assert found[0].boxes.tolist() == [[0.5, 0.5, 0.25, 0.5]]
        assert found[0].labels.tolist() == [1]
        assert found.ground_truth()["annotations"][0]["bbox"] == [15, 5, 10, 10]


def test_valid_is_validation_and_names_may_be_a_mapping(tmp_path: Path) -> None:
    two_splits(tmp_path, "{}/images", "{}/labels")
    (tmp_path / "val").rename(tmp_path / "valid")
    text(tmp_path / "anything.yml", yaml.safe_dump({"names": {0: "cat", 1: "dog"}}))
    data = yolo(tmp_path)
    assert len(data.split("val", transform=keep)) == 2
    assert data.classes.names == ("cat", "dog")
    assert data.classes.category_ids == (0, 1)


def test_text_files_list_images(tmp_path: Path) -> None:
    two_splits(tmp_path, "images/{}", "labels/{}")
    text(tmp_path / "train.txt", "./images/train/a.jpg\n\nimages/val/b.jpg\n")
    text(tmp_path / "data.yaml", yaml.safe_dump({"train": "train.txt", "names": ["cat", "dog"]}))
    found = yolo(tmp_path).split("train", transform=keep)
    assert [Path(file).relative_to(tmp_path).as_posix() for file in found.files] == [
        "images/train/a.jpg",
        "images/val/b.jpg",
    ]
    assert found.objects_per_image.tolist() == [1, 0]
    text(tmp_path / "train.txt", "images/train/gone.jpg\n")
    with pytest.raises(UserError, match=r"gone\.jpg: missing, but listed in .*train\.txt"):
        yolo(tmp_path).split("train", transform=keep)


def test_darknets_lists_are_read(tmp_path: Path) -> None:
    """As CVAT and Datumaro write them: paths begin with data/, the folder that the lists are in."""
    for split in ("train", "val"):
        image(tmp_path / f"obj_{split}_data" / "a.jpg")
        text(tmp_path / f"obj_{split}_data" / "a.txt", BOX)
        text(tmp_path / f"{split}.txt", f"data/obj_{split}_data/a.jpg\n")
    text(tmp_path / "obj.names", "cat\ndog\n")
    for split in ("train", "val"):
        found = yolo(tmp_path).split(split, transform=keep)  # type: ignore[arg-type]
        assert [Path(file).parent.name for file in found.files] == [f"obj_{split}_data"]
        assert found.objects_per_image.tolist() == [1]


def test_folders_may_be_named(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "x" / "a.b.png")
    text(tmp_path / "boxes" / "x" / "a.b.txt", BOX)
    where = {"images": str(tmp_path / "photos"), "annotations": str(tmp_path / "boxes")}
    found = yolo(tmp_path, names=["cat", "dog"], train=where).split("train", transform=keep)
    assert found.objects_per_image.tolist() == [1]


def test_polygons_are_boxes_and_masks(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75\n")  # a triangle of half its box
    sample = yolo(tmp_path, names=["cat"], masks=True).split("train", transform=keep)[0]
    assert sample.boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert sample.masks is not None
    assert sample.masks[0].sum().item() == pytest.approx(100, abs=15)
    whole = yolo(tmp_path, names=["cat"]).read("train")
    assert whole.areas.tolist() == [100]
    text(tmp_path / "labels" / "a.txt", BOX.replace("1", "0", 1))
    with pytest.raises(UserError, match=r"without polygon.*dataset\.masks=false"):
        yolo(tmp_path, names=["cat"], masks=True).split("train", transform=keep)


def test_keypoints_are_not_polygons(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.9 0.9 2 0.4 0.4 1 0.3 0.3 0\n")
    text(tmp_path / "data.yaml", yaml.safe_dump({"train": "images", "names": ["cat"], "kpt_shape": [4, 3]}))
    assert yolo(tmp_path).read("train").boxes.tolist() == [[15, 5, 10, 10]]


def test_fractions_of_whole_pixels_are_whole_pixels(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    rng = np.random.default_rng(0)
    boxes = [(x, y, w, h) for x, y, w, h in rng.integers(1, [20, 10, 20, 10], (200, 4)).tolist()]
    lines = [f"0 {(x + w / 2) / 40!r} {(y + h / 2) / 20!r} {w / 40!r} {h / 20!r}" for x, y, w, h in boxes]
    text(tmp_path / "labels" / "a.txt", "\n".join(lines))
    assert yolo(tmp_path, names=["cat"]).read("train").boxes.tolist() == [list(map(float, box)) for box in boxes]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.5", "expected a class and four numbers .* got 4 values"),
        ("0 0.5 0.5 0.5 0.5 0.9", "got 6 values"),  # a prediction, with its score
        ("0 20 10 0.5 0.5", "expected fractions of the image from 0 to 1, got '20'; are these pixels"),
        ("0 0.5 nan 0.5 0.5", "got 'nan'"),
        ("0 0.5 -0.2 0.5 0.5", "got '-0.2'"),
        ("0 0.5 x 0.5 0.5", "got 'x'"),
        ("cat 0.5 0.5 0.5 0.5", "expected the number of a class first, got 'cat'"),
        ("0.5 0.5 0.5 0.5 0.5", "expected the number of a class first"),
        ("2 0.5 0.5 0.5 0.5", r"expected a class that names has \(0 to 1\), got 2"),
        ("-1 0.5 0.5 0.5 0.5", "got -1"),
    ],
)
def test_a_broken_line_is_one_line_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", f"{BOX}\n{line}\n")
    with pytest.raises(UserError, match=rf"labels/a\.txt, line 3: .*{words}") as caught:
        yolo(tmp_path, names=["cat", "dog"]).split("train", transform=keep)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [cat]\nnc: 2\n", "nc is 2, but names has 1"),
        ("names: cat\n", "expected a list, or number: name"),
        ("names: [cat, cat]\n", '"cat" stands for several classes'),
        ("names: [cat\n", "not valid YAML"),
        ("- names\n", "expected keys such as train, val and names"),
        ("names: [cat]\ntrain: nowhere\n", "train: nowhere is not there; looked for .*nowhere"),
    ],
)
def test_a_broken_data_yaml_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", BOX)
    text(tmp_path / "data.yaml", content)
    with pytest.raises(UserError, match=rf"data\.yaml: .*{words}") as caught:
        yolo(tmp_path).split("train", transform=keep)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"no such folder; set dataset\.root"):
        yolo(tmp_path / "gone")
    image(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"no names of classes; looked for a data\.yaml"):
        yolo(tmp_path).split("train", transform=keep)
    with pytest.raises(UserError, match=r"none of 1 images has a label file, such as .*labels/a\.txt"):
        yolo(tmp_path, names=["cat"]).split("train", transform=keep)
    with pytest.raises(UserError, match=r"no validation split: dataset\.holdout=0\.2"):
        yolo(tmp_path, names=["cat"]).split("val", transform=keep)
    text(tmp_path / "labels" / "a.txt", "")
    text(tmp_path / "labels" / "of_no_image.txt", BOX)
    with caplog.at_level(logging.WARNING):
        assert yolo(tmp_path, names=["cat", "dog"]).split("train", transform=keep).objects_per_image.tolist() == [0]
    assert "of_no_image.txt: there is no image for it" in caplog.text


def test_a_test_split_may_lack_labels(tmp_path: Path) -> None:
    image(tmp_path / "images" / "test" / "a.png")
    assert not yolo(tmp_path, names=["cat"]).split("test", transform=keep).annotated
