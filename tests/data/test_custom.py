"""Which of the three formats a folder holds."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from coco_example import keep
from command import BCCD
from formats_example import HEIGHT, WIDTH, image, text, xml

from detr.config import build, check, compose
from detr.data.coco import CocoSplits
from detr.data.splits import Splits
from detr.data.voc import VocSplits
from detr.data.yolo import YoloSplits
from detr.errors import UserError


def custom(root: Path, *overrides: str) -> Splits:
    """As the command line has it."""
    values, _ = check(compose(["dataset=custom", f"dataset.root={root}", *overrides]))
    return build(values["dataset"])


def coco_json() -> str:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    return json.dumps(content)


def write_coco(root: Path) -> None:
    image(root / "images" / "a.jpg")
    for split in ("train", "val"):
        text(root / "annotations" / f"{split}.json", coco_json())


def write_roboflow_coco(root: Path) -> None:
    for split in ("train", "valid"):
        image(root / split / "a.jpg")
        text(root / split / "_annotations.coco.json", coco_json())


def write_datumaro_coco(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        text(root / "annotations" / f"instances_{split}.json", coco_json())


def write_yolo(root: Path) -> None:
    text(root / "data.yaml", "names: [dog]\ntrain: images/train\nval: images/val\n")
    for split in ("train", "val"):
        image(root / "images" / split / "a.jpg")
        text(root / "labels" / split / "a.txt", "0 0.5 0.5 0.5 0.5\n")


def write_voc(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "JPEGImages" / f"{split}.jpg")
        text(root / "Annotations" / f"{split}.xml", xml(("dog", (1, 2, 3, 4))))
        text(root / "ImageSets" / "Main" / f"{split}.txt", f"{split}\n")


def write_roboflow_voc(root: Path) -> None:
    for split in ("train", "valid"):
        image(root / split / "a.jpg")
        text(root / split / "a.xml", xml(("dog", (1, 2, 3, 4))))


@pytest.mark.parametrize(
    ("write", "kind", "said"),
    [
        (write_coco, CocoSplits, None),  # named by the keys: nothing has to be found
        (write_roboflow_coco, CocoSplits, "COCO"),
        (write_datumaro_coco, CocoSplits, "COCO"),
        (write_yolo, YoloSplits, "YOLO"),
        (write_voc, VocSplits, "Pascal VOC"),
        (write_roboflow_voc, VocSplits, "Pascal VOC"),
    ],
)
def test_the_format_is_found_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write: Any, kind: type, said: str | None
) -> None:
    write(tmp_path)
    with caplog.at_level(logging.INFO):
        data = custom(tmp_path)
    assert type(data) is kind
    assert [record.message for record in caplog.records] == (
        [f"{tmp_path} is a data set in {said} format"] if said else []
    )
    for split in ("train", "val"):
        assert data.split(split, transform=keep).objects_per_image.tolist() == [1]  # type: ignore[arg-type]
    assert data.classes.names == ("dog",)
    without = custom(tmp_path, "dataset.val=null")
    with pytest.raises(UserError, match="no validation split"):
        without.split("val", transform=keep)


def test_two_formats_or_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no data set of a known format; looked for COCO .*YOLO .*Pascal VOC"
    ) as caught:
        custom(tmp_path)
    assert "\n" not in str(caught.value)
    write_yolo(tmp_path)
    write_voc(tmp_path)
    with pytest.raises(UserError, match=r"holds YOLO and Pascal VOC; choose one with dataset=coco, yolo or voc"):
        custom(tmp_path)
    write_coco(tmp_path)
    assert type(custom(tmp_path)) is CocoSplits  # whose files are named


def test_files_that_are_named_are_cocos(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    data = custom(tmp_path, f"dataset.train.annotations={tmp_path}/mine.json")
    with pytest.raises(UserError, match=r"mine\.json: no such annotation file"):
        data.split("train", transform=keep)
    assert type(custom(BCCD)) is CocoSplits


def test_one_file_of_annotations_is_trains(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "annotations" / "instances_default.json", coco_json())  # as CVAT exports it
    assert len(custom(tmp_path).split("train", transform=keep)) == 1
    with pytest.raises(UserError, match=r"dataset\.holdout=0\.2 keeps"):
        custom(tmp_path).split("val", transform=keep)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such annotation file; set dataset\.root"):
        custom(tmp_path / "gone").split("train", transform=keep)
