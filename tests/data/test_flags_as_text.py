"""Flags in users' files: what says yes or no is taken, and everything else is told, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_example import keep
from formats_example import voc, xml
from test_panoptic_data import CAT, DOG, Example
from test_voc import DOG as A_DOG
from test_voc import simple

from detr.checking.coco import flag_of
from detr.errors import UserError

FLAGS: list[tuple[Any, bool]] = [(0, False), (1, True), (False, False), (True, True), (None, False), (1.0, True)]
TEXTS = ["0", "1", "false", "True", "", 2, -1, 0.5, [], [0], {}, "no"]
ADVICE = r'"iscrowd": expected 0, 1, false, true or null, got .*; write 0 or 1, without quotes'


@pytest.mark.parametrize(("value", "meant"), FLAGS)
def test_a_flag_of_coco_is_taken(value: Any, meant: bool, coco, write) -> None:  # type: ignore[no-untyped-def]
    coco["annotations"][0]["iscrowd"] = value
    del coco["annotations"][1]["iscrowd"]
    crowd = write(coco).read("train").crowd
    assert crowd.tolist() == [meant, False, False, True]
    assert flag_of(value) == meant


@pytest.mark.parametrize("value", TEXTS)
def test_a_text_is_no_flag_of_coco(value: Any, coco, write) -> None:  # type: ignore[no-untyped-def]
    coco["annotations"][2]["iscrowd"] = value
    with pytest.raises(UserError, match=rf"train\.json: annotation 3: {ADVICE}") as error:
        write(coco).split("train", transform=keep)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "meant"), FLAGS)
def test_a_flag_of_a_segment_is_taken(value: Any, meant: bool, tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.segments(0)[1]["iscrowd"] = value
    del example.segments(0)[0]["iscrowd"]
    truth = example.write().split("val", transform=keep).panoptic_ground_truth()
    assert [each["iscrowd"] for each in truth["annotations"][0]["segments_info"]] == [0, int(meant)]


@pytest.mark.parametrize("value", TEXTS)
def test_a_text_is_no_flag_of_a_segment(value: Any, tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.segments(0)[1]["iscrowd"] = value
    with pytest.raises(UserError, match=rf"panoptic\.json: segment 5 of image 10: {ADVICE}"):
        example.write().split("train", transform=keep)


@pytest.mark.parametrize("value", [*TEXTS, None])
def test_a_text_does_not_make_a_thing(value: Any, tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.content["categories"][1]["isthing"] = value
    with pytest.raises(UserError, match=r'category 3 \("dog"\): "isthing": expected 1 \(a thing\) or 0 \(stuff\), got'):
        example.write().split("train", transform=keep)


@pytest.mark.parametrize("value", [True, 1.0])
def test_a_thing_may_be_true(value: Any, tmp_path: Path) -> None:
    example = Example(tmp_path)
    example.content["categories"][1]["isthing"] = value
    assert example.write().split("val", transform=keep).things[DOG] is True
    assert json.loads((tmp_path / "panoptic.json").read_text())["categories"][0]["id"] == CAT


@pytest.mark.parametrize(
    ("text", "meant"), [("0", 0), ("1", 1), (" true ", 1), ("False", 0), ("", 0), ("Unspecified", 0)]
)
def test_a_flag_of_voc_is_a_text(text: str, meant: int, tmp_path: Path) -> None:
    data = voc(simple(tmp_path, xml(A_DOG, more=f"<difficult>{text}</difficult>")))
    assert data.read("train").crowd.tolist() == [bool(meant)]


@pytest.mark.parametrize("text", ["2", "maybe", "no", "-1"])
def test_another_text_is_no_flag_of_voc(text: str, tmp_path: Path) -> None:
    data = voc(simple(tmp_path, xml(A_DOG, more=f"<difficult>{text}</difficult>")))
    with pytest.raises(UserError, match=r"\.xml, line \d+: <difficult>: expected 0 or 1, got"):
        data.read("train")


@pytest.mark.parametrize("box", [[True, 5, 10, 8], ["5", 5, 10, 8], [5, 5, None, 8]])
def test_a_box_is_made_of_numbers(box: list[Any], coco, write) -> None:  # type: ignore[no-untyped-def]
    coco["annotations"][0]["bbox"] = box
    with pytest.raises(UserError, match=r'annotation 1: "bbox": expected four finite numbers'):
        write(coco).read("train")
