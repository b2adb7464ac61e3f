"""From each format to each other: what is written is read again, and what a format cannot hold is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_example import keep
from command import BCCD
from formats_example import image, voc, yolo

from detr.config import build, check, compose
from detr.data.converting.convert import convert
from detr.data.splits import Splits
from detr.errors import UserError

SPLITS = ("train", "val", "test")


def custom(root: Path, *overrides: str) -> Splits:
    values, _ = check(compose(["dataset=custom", f"dataset.root={root}", *overrides]))
    return build(values["dataset"])


def facts(data: Splits, split: Any) -> list[Any]:
    """Everything that is known of a split but ids: by image file, each object in order."""
    found = data.read(split)
    return [
        (
            Path(str(file)).stem,
            found.sizes[index].tolist(),
            [
                (found.categories[int(category)], box, area, crowd)
                for category, box, area, crowd in zip(
                    *(
                        column[found.objects(index)].tolist()
                        for column in (found.category_ids, found.boxes, found.areas, found.crowd)
                    ),
                    strict=True,
                )
            ],
        )
        for index, file in enumerate(found.files)
    ]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """BCCD's XML → COCO → YOLO → VOC → COCO, and its JSON → VOC → YOLO: folder, and what was said."""
    root = tmp_path_factory.mktemp("chain")
    steps = {
        "coco": ("coco", voc(BCCD, names=["RBC", "WBC", "Platelets"])),
        "yolo": ("yolo", root / "coco"),
        "voc": ("voc", root / "yolo"),
        "again": ("coco", root / "voc"),
        "json_voc": ("voc", BCCD),
        "json_voc_yolo": ("yolo", root / "json_voc"),
    }
    said = {}
    for name, (layout, source) in steps.items():
        data = custom(source) if isinstance(source, Path) else source
        said[name] = (root / name, list(convert(data, layout, root / name)))  # type: ignore[arg-type]
    return said


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "again", "json_voc", "json_voc_yolo"])
def test_round_trips_of_bccd_lose_nothing(chain: dict[str, tuple[Path, list[str]]], name: str) -> None:
    """The two boxes without area included; everything that is not the same in it is said."""
    folder, said = chain[name]
    ours, theirs = custom(folder), custom(BCCD)
    for split in SPLITS:
        assert facts(ours, split) == facts(theirs, split)
    assert [line for line in said if "objects" in line and "left out" not in line] == [
        "train: 205 images, 2,805 objects",
        "val: 87 images, 1,138 objects",
        "test: 72 images, 945 objects",
    ]
    a, b = (each.split("train", transform=keep)[3] for each in (ours, theirs))
    assert a.image.equal(b.image)
    assert a.boxes.equal(b.boxes)
    assert a.labels.equal(b.labels)


def test_coco_that_came_back_is_what_it_was(chain: dict[str, tuple[Path, list[str]]]) -> None:
    """Ids, order and numbers of BCCD's own JSON, through YOLO and VOC, but for what was said."""
    folder, _ = chain["again"]
    for split in SPLITS:
        ours = json.loads((folder / "annotations" / f"{split}.json").read_text())
        theirs = json.loads((BCCD / "annotations" / f"{split}.json").read_text())
        assert ours["annotations"] == theirs["annotations"]
        assert [(each["id"], each["name"]) for each in ours["categories"]] == [(1, "RBC"), (2, "WBC"), (3, "Platelets")]
        assert [each | {"file_name": Path(each["file_name"]).name} for each in ours["images"]] == theirs["images"]


def test_what_xml_says_beside_boxes_is_kept_by_coco(tmp_path: Path) -> None:
    back = tmp_path / "voc"
    list(convert(voc(BCCD), "coco", tmp_path / "coco"))
    list(convert(custom(tmp_path / "coco"), "voc", back))
    for split in SPLITS:
        a, b = (each.read(split, everything=True).extras for each in (voc(BCCD), voc(back)))  # type: ignore[arg-type]
        assert a is not None
        assert b is not None
        assert a.tolist() == b.tolist()
        assert {each["attributes"]["truncated"] for each in a.tolist()} == {"0", "1"}


def test_images_are_the_same_files(chain: dict[str, tuple[Path, list[str]]]) -> None:
    for name in ("coco", "yolo", "voc"):
        files = custom(chain[name][0]).split("val", transform=keep).files
        for file in files[:5]:
            original = BCCD / "images" / Path(file).name
            assert Path(file).read_bytes() == original.read_bytes()
            same_disk = os.stat(file).st_dev == original.stat().st_dev
            assert os.path.samefile(file, original) == (same_disk and os.stat(file).st_nlink > 1)


def write_masks(root: Path) -> Path:
    """COCO with everything: a polygon, two polygons, run lengths, a crowd, none, and a box mostly outside."""
    for number in (1, 2):
        image(root / "images" / f"{number}.png", number)
    triangle = [10.0, 5.0, 30.0, 5.0, 30.0, 15.0]
    common: dict[str, Any] = {"category_id": 7, "iscrowd": 0}
    objects = [
        {"bbox": [10, 5, 20, 10], "area": 100, "segmentation": [triangle], "track": 4},
        {"bbox": [1, 1, 12, 4], "area": 30, "segmentation": [[1, 1, 5, 1, 5, 5], [10, 1, 13, 1, 13, 5]]},
        {"bbox": [0, 0, 40, 20], "area": 790, "segmentation": {"size": [20, 40], "counts": [10, 790]}},
        {"bbox": [2, 2, 30, 10], "area": 300, "segmentation": [], "iscrowd": 1},
        {"bbox": [2.5, 3.25, 5, 6], "area": 30},
        {"bbox": [35, 2, 20, 5], "area": 100},
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 20, "license": 3} for n in (1, 2)],
        "annotations": [common | {"id": 10 + n, "image_id": 1} | each for n, each in enumerate(objects)],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog & <fox>"}],
    }
    for split in ("train", "val"):
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def test_coco_keeps_everything(tmp_path: Path) -> None:
    source = custom(write_masks(tmp_path / "in"))
    said = list(convert(source, "coco", tmp_path / "out"))
    assert said == [
        "train: 2 images, 6 objects",
        "val: 2 images, 6 objects",
        "test: there is none",
        '"license" of images is left out, 4 times',
        '"supercategory" of categories is left out, 2 times',
    ]
    ours, theirs = (custom(tmp_path / name).read("train", everything=True) for name in ("out", "in"))
    assert ours.digest() == theirs.digest()
    assert ours.annotation_ids.tolist() == theirs.annotation_ids.tolist()
    assert ours.extras is not None
    assert ours.extras.tolist() == [{"track": 4}, *[{}] * 5]
    assert ours.segmentations is not None
    for row in (0, 1, 2):
        a, b = (each.segmentations.masks([row], (20, 40)) for each in (ours, theirs))  # type: ignore[union-attr]
        assert np.array_equal(a, b)


def test_what_yolo_cannot_hold_is_said_a_line_a_kind(tmp_path: Path) -> None:
    said = list(convert(custom(write_masks(tmp_path / "in"), "dataset.val=null"), "yolo", tmp_path / "out"))
    assert sorted(said) == sorted(
        [
            "train: 2 images, 6 objects",
            "val: there is none",
            "test: there is none",
            '"license" of images is left out, 2 times',
            '"supercategory" of categories is left out, 1 times',
            "2 category ids become the numbers of YOLO's classes, which count from 0",
            "1 crowds (regions to ignore) are left out: YOLO has none",
            "1 masks as run lengths are left out: YOLO has polygons",
            "the polygons of 1 objects in several parts are joined into one",
            '"area" of 1 objects becomes that of their polygons',
            '"area" of 1 objects becomes that of their boxes',
            '"track" of 1 objects is left out: YOLO has boxes and polygons only',
            "1 boxes that lie outside of their image for the most part, or have a negative side, are clipped",
        ]
    )
    back = yolo(tmp_path / "out").read("train", everything=True)
    assert back.categories == {0: "cat", 1: "dog & <fox>"}
    assert back.boxes.tolist() == [[10, 5, 20, 10], [1, 1, 12, 4], [0, 0, 40, 20], [2.5, 3.25, 5, 6], [35, 2, 5, 5]]
    source = custom(tmp_path / "in").read("train", everything=True)
    for row in (0, 1):
        a, b = (each.segmentations.masks([row], (20, 40)) for each in (back, source))  # type: ignore[union-attr]
        assert (a != b).sum() <= 4, "but for pixels on the line between two parts"


def test_what_voc_cannot_hold_is_said_a_line_a_kind(tmp_path: Path) -> None:
    said = list(convert(custom(write_masks(tmp_path / "in"), "dataset.val=null"), "voc", tmp_path / "out"))
    assert "3 masks are left out: Pascal VOC's XML has boxes only" in said
    assert "1 crowds (regions to ignore) become objects that are difficult" in said
    assert '"track" of 1 objects is left out: Pascal VOC has no place for it' in said
    back = voc(tmp_path / "out").read("train")
    source = custom(tmp_path / "in").read("train")
    assert back.boxes.tolist() == source.boxes.tolist()
    assert back.crowd.tolist() == source.crowd.tolist()
    assert back.categories == {1: "cat", 2: "dog & <fox>"}


def test_names_that_clash_are_told_apart(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        image(tmp_path / "in" / "images" / folder / "cell 1.jpg", len(folder))
        (tmp_path / "in" / "labels" / folder).mkdir(parents=True)
        (tmp_path / "in" / "labels" / folder / "cell 1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    said = list(convert(yolo(tmp_path / "in", names=["cat"], test=None), "voc", tmp_path / "out"))
    assert "1 images get another name, since theirs is that of another image, too" in said
    back = voc(tmp_path / "out", test=None)
    for split in ("train", "val"):
        a, b = (each.split(split, transform=keep)[0] for each in (back, yolo(tmp_path / "in", names=["cat"])))  # type: ignore[arg-type]
        assert a.image.equal(b.image)
        assert a.boxes.equal(b.boxes)


def test_a_part_of_train_becomes_validation(tmp_path: Path) -> None:
    data = custom(BCCD, "dataset.holdout=0.2")
    list(convert(data, "coco", tmp_path / "out"))
    back = custom(tmp_path / "out")
    for split in ("train", "val"):
        a, b = ({Path(file).name for file in each.split(split, transform=keep).files} for each in (back, data))  # type: ignore[arg-type]
        assert a == b


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    data = yolo(tmp_path / "in", names=["cat"]) if (tmp_path / "in").mkdir() is None else None
    assert data is not None
    with pytest.raises(UserError):
        list(convert(data, "coco", tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; choose another output"):
        list(convert(custom(BCCD), "yolo", tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_breaks_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "in")
    data = custom(root)
    part = data.part
    (root / "images" / "2.png").rename(root / "images" / "3.png")

    def gone(name: Any) -> Any:
        (root / "images" / "2.png").touch()
        found = part(name)
        (root / "images" / "2.png").unlink()
        return found

    data.part = gone  # type: ignore[method-assign]
    with pytest.raises(UserError, match="cannot be written"):
        list(convert(data, "yolo", tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
