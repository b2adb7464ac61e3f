"""`detr convert`, as users meet it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import BCCD, only_error, run


def test_it_says_what_it_wrote_and_leaves_nothing_else(tmp_path: Path) -> None:
    done = run(
        *("-m", "detr", "convert", "dataset=voc", f"dataset.root={BCCD}", "format=yolo", "output=out"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "train: 205 images, 2,805 objects"
    assert '"truncated" of 4,888 objects is left out: YOLO has boxes and polygons only' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.yaml", "images", "labels"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=yolo"], ["output"]),
        (["format=yollo", "output=out"], ["format", "yolo", "yollo"]),
        (["format=yolo", "output=out", "dataset=vox"], ["there is no such option", "yolo"]),
        (["format=yolo", "output=out", "dataset.root=nowhere"], ["nowhere"]),
        (["format=yolo", "output=out", "dataset=coco_panoptic"], ["panoptic"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    line = only_error(run("-m", "detr", "convert", *arguments, cwd=tmp_path))
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []
