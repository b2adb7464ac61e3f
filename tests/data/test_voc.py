"""Pascal VOC's XML files, in every layout that the field has, and BCCD's."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from coco_example import keep
from formats_example import image, text, voc, xml

from detr.data.coco import CocoSplits
from detr.data.loader import eval_loader, train_loader
from detr.data.transforms import light_train
from detr.errors import UserError

BCCD = Path(__file__).resolve().parents[2] / "../shared/data/bccd"
DOG = ("dog", (15.0, 5.0, 25.0, 15.0))


@pytest.mark.parametrize("root", [BCCD, BCCD / "voc"])
def test_batches_of_bccd_are_those_of_its_json(root: Path) -> None:
    """Tensor by tensor, augmented and not."""
    files = {
        name: {"images": str(BCCD / "images"), "annotations": str(BCCD / "annotations" / f"{name}.json")}
        for name in ("train", "val", "test")
    }
    ours = voc(root, names=["RBC", "WBC", "Platelets"])
    theirs = CocoSplits(root=str(BCCD), categories="contiguous", **files)  # type: ignore[arg-type]
    for name in ("train", "val", "test"):
        a, b = (each.split(name, transform=keep) for each in (ours, theirs))  # type: ignore[arg-type]
        assert a.fingerprint() == b.fingerprint()
        assert a.ground_truth() == b.ground_truth()
    sets = [each.split("train", transform=light_train(96), seed=3) for each in (ours, theirs)]
    loaders = [train_loader(each, batch_size=8, num_workers=0, seed=1) for each in sets]
    plain = [eval_loader(each.split("val", transform=keep), batch_size=4, num_workers=0) for each in (ours, theirs)]
    compared = 0
    for pair in (loaders, plain):
        for one, other, _ in zip(*pair, range(3), strict=False):
            assert [Path(file).name for file in one.files] == [Path(file).name for file in other.files]
            assert one.image_ids == other.image_ids
            for x, y in zip(tensors(one), tensors(other), strict=True):
                assert torch.equal(x, y)
                compared += 1
    assert compared == 6 * 7


def tensors(batch) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    targets = batch.targets
    return [
        *(batch.images, batch.padding, batch.sizes, batch.original_sizes),
        *(targets.labels, targets.boxes, targets.image),
    ]


def test_names_of_bccd_are_found() -> None:
    data = voc(BCCD)
    assert data.classes.names == ("Platelets", "RBC", "WBC")
    assert data.categories("val") == data.categories("train")


@pytest.mark.parametrize(
    ("images", "xmls", "listed"),
    [
        ("JPEGImages", "Annotations", True),
        ("VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/Annotations", True),
        ("images/{}", "annotations/{}", False),
        ("{}/images", "{}/annotations", False),
        ("{}", "{}", False),  # as Roboflow exports it
    ],
)
def test_every_common_layout_is_read(tmp_path: Path, images: str, xmls: str, listed: bool) -> None:
    for split in ("train", "val"):
        for stem in ("a", "b"):
            image(tmp_path / images.format(split) / f"{split}_{stem}.jpg")
        text(tmp_path / xmls.format(split) / f"{split}_a.xml", xml(DOG))
        text(tmp_path / xmls.format(split) / f"{split}_b.xml", xml())
        if listed:
            base = (tmp_path / xmls).parent
            text(base / "ImageSets" / "Main" / f"{split}.txt", f"{split}_a\n{split}_b  -1\n")
    for split in ("train", "val"):
        found = voc(tmp_path).split(split, transform=keep)  # type: ignore[arg-type]
        assert [Path(file).name for file in found.files] == [f"{split}_a.jpg", f"{split}_b.jpg"]
        assert found.objects_per_image.tolist() == [1, 0]
        assert found[0].boxes.tolist() == [[0.5, 0.5, 0.25, 0.5]]


def test_valid_is_validation(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        image(tmp_path / split / "a.jpg")
        text(tmp_path / split / "a.xml", xml(DOG))
    assert len(voc(tmp_path).split("val", transform=keep)) == 1


def simple(root: Path, content: str) -> Path:
    """One image in the challenge's layout."""
    image(root / "JPEGImages" / "a.jpg")
    text(root / "ImageSets" / "Main" / "train.txt", "a\n")
    text(root / "Annotations" / "a.xml", content)
    return root


def test_the_challenge_counts_pixels_from_1(tmp_path: Path) -> None:
    """So (1, 1) to (width, height) is the whole image; what exporters write starts at 0."""
    whole = xml(("dog", (1, 1, 40, 20)))
    theirs = whole.replace("<size>", "<source><database>The VOC2007 Database</database></source><size>")
    assert voc(simple(tmp_path, theirs)).read("train").boxes.tolist() == [[0, 0, 40, 20]]
    assert voc(tmp_path, first_pixel=0).read("train").boxes.tolist() == [[1, 1, 39, 19]]
    assert voc(simple(tmp_path, whole)).read("train").boxes.tolist() == [[1, 1, 39, 19]]
    assert voc(tmp_path, first_pixel=1).read("train").boxes.tolist() == [[0, 0, 40, 20]]


def test_difficult_objects_are_regions_to_ignore(tmp_path: Path) -> None:
    data = voc(simple(tmp_path, xml(DOG, more="<difficult>1</difficult><truncated>1</truncated>")))
    found = data.split("train", transform=keep)
    assert found.objects_per_image.tolist() == [0]
    assert [each["iscrowd"] for each in found.ground_truth()["annotations"]] == [1]


def test_fractions_of_pixels_and_a_missing_size(tmp_path: Path) -> None:
    found = voc(simple(tmp_path, xml(("dog", (1.1, 2.2, 3.3, 5.5)), size=False))).read("train")
    assert found.boxes.tolist() == [[1.1, 2.2, 2.2, 3.3]]
    assert found.sizes.tolist() == [[20, 40]]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<annotation>", "<annotations>", "line 7: expected XML"),
        ("<xmin>15.0</xmin>", "<xmin>left</xmin>", "line 5: <xmin>: expected a number of pixels, got 'left'"),
        ("<xmin>15.0</xmin>", "<xmin>nan</xmin>", "line 5: <xmin>: expected a number of pixels, got 'nan'"),
        ("<xmin>15.0</xmin>", "", "line 5: expected <xmin> in <bndbox>, got none"),
        ("<name>dog</name>", "", "line 3: expected the <name> of a class, got none"),
        ("<name>dog</name>", "<name> </name>", "line 4: expected the <name>"),
        ("<name>dog</name>", "<name>dog</name><difficult>maybe</difficult>", "line 4: <difficult>: expected 0 or 1"),
        ("<width>40</width>", "<width>wide</width>", "line 2: <width>: expected a whole number"),
        ("<width>40</width>", "<width>-40</width>", "line 2: <width>: expected a whole number of pixels, got -40"),
        ("bndbox>", "box>", "line 3: expected a <bndbox> in the object, got none"),
    ],
)
def test_a_broken_file_is_one_line_with_its_number(tmp_path: Path, old: str, new: str, words: str) -> None:
    content = xml(DOG)
    assert old in content
    with pytest.raises(UserError, match=rf"Annotations/a\.xml, {words}") as caught:
        voc(simple(tmp_path, content.replace(old, new))).split("train", transform=keep)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"no such folder; set dataset\.root"):
        voc(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no images of train; looked for ImageSets/Main/train\.txt"):
        voc(tmp_path).split("train", transform=keep)
    simple(tmp_path, xml(DOG))
    with pytest.raises(UserError, match=r"dataset\.holdout=0\.2 keeps"):
        voc(tmp_path).split("val", transform=keep)
    with pytest.raises(UserError, match=r'a\.xml: the class "dog" is none of cat'):
        voc(tmp_path, names=["cat"]).split("train", transform=keep)
    with pytest.raises(UserError, match=r"boxes only; set dataset\.masks=false"):
        voc(tmp_path, masks=True)
    text(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    with pytest.raises(UserError, match=r"b\.jpg: missing, but listed in .*train\.txt"):
        voc(tmp_path).split("train", transform=keep)
    image(tmp_path / "JPEGImages" / "b.jpg")
    with caplog.at_level(logging.WARNING):
        assert voc(tmp_path).split("train", transform=keep).objects_per_image.tolist() == [1, 0]
    assert "1 of 2 images of train have no XML file" in caplog.text


def test_a_label_map_says_the_order_of_classes(tmp_path: Path) -> None:
    simple(tmp_path, xml(DOG))
    text(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\na:b:4,5,6::\n")
    assert voc(tmp_path).categories("train") == {1: "dog", 2: "a:b"}
    simple(tmp_path, xml(DOG, ("background", (1, 2, 3, 4))))
    assert voc(tmp_path).categories("train") == {1: "background", 2: "dog", 3: "a:b"}


def test_the_json_of_bccd_is_what_its_xml_says() -> None:
    """An oracle that is none of ours: the JSON was made by somebody else's converter."""
    read = voc(BCCD, names=["RBC", "WBC", "Platelets"]).read("val")
    content = json.loads((BCCD / "annotations" / "val.json").read_text())
    assert read.boxes.tolist() == [each["bbox"] for each in content["annotations"]]
    assert read.category_ids.tolist() == [each["category_id"] for each in content["annotations"]]
    assert (read.boxes[:, 2:] == 0).all(axis=1).sum() == 1  # the box without area is there before it is dropped
