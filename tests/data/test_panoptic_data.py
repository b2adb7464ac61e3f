"""Panoptic data sets: targets, evaluation's ground truth, and what is wrong with files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_example import HEIGHT, WIDTH, keep
from PIL import Image
from torchvision.ops import box_convert

from detr.data.loader import collate, eval_loader
from detr.data.panoptic.dataset import CocoPanoptic, masks_to_boxes
from detr.data.panoptic.segment_ids import from_rgb, read_segment_ids, save_segment_ids, to_rgb
from detr.data.transforms import light_train
from detr.errors import UserError

Coco = dict[str, Any]

CAT, DOG, SKY = 7, 3, 12
BIG = 200 + 256 * 100 + 65536 * 50  # an id that needs all three channels


def segment(segment_id: int, category_id: int, pixels: np.ndarray, mask: tuple[slice, slice], **more: Any) -> Coco:
    """Paint a rectangle; its entry."""
    pixels[mask] = segment_id
    (top, bottom), (left, right) = ((part.start, part.stop) for part in mask)
    box = [left, top, right - left, bottom - top]
    return {"id": segment_id, "category_id": category_id, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} | more


class Example:
    """Three images: a cat on the sky, a crowd of dogs beside void, nothing; to be damaged before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pixels = [np.zeros((HEIGHT, WIDTH), dtype=np.int32) for _ in range(3)]
        sky = segment(BIG, SKY, self.pixels[0], (slice(0, HEIGHT), slice(0, WIDTH)), area=HEIGHT * WIDTH - 80)
        cat = segment(5, CAT, self.pixels[0], (slice(4, 12), slice(6, 16)))
        dogs = segment(5, DOG, self.pixels[1], (slice(0, 10), slice(3, 4)), iscrowd=1)
        names = ["1.png", "2.png", "3.png"]
        self.content: Coco = {
            "images": [{"id": 10 * (n + 1), "file_name": names[n], "width": WIDTH, "height": HEIGHT} for n in range(3)],
            "annotations": [
                {"image_id": 10 * (n + 1), "file_name": names[n], "segments_info": segments}
                for n, segments in enumerate([[sky, cat], [dogs], []])
            ],
            "categories": [
                {"id": CAT, "name": "cat", "isthing": 1},
                {"id": DOG, "name": "dog", "isthing": 1},
                {"id": SKY, "name": "sky", "isthing": 0},
            ],
        }

    def segments(self, image: int) -> list[Coco]:
        return self.content["annotations"][image]["segments_info"]

    def write(self, **more: Any) -> CocoPanoptic:
        for folder in ("images", "segments"):
            (self.folder / folder).mkdir()
        for pixels, entry in zip(self.pixels, self.content["images"], strict=False):
            noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.folder / "images" / entry["file_name"])
            save_segment_ids(pixels, self.folder / "segments" / entry["file_name"])
        (self.folder / "panoptic.json").write_text(json.dumps(self.content))
        files: dict[str, Any] = {
            "images": str(self.folder / "images"),
            "annotations": str(self.folder / "panoptic.json"),
            "segments": str(self.folder / "segments"),
            "instances": more.pop("instances", None),
        }
        return CocoPanoptic(**{"root": "", "categories": "contiguous", "train": files, "val": files, **more})


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


def reference_masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Written out pixel by pixel from the definition in util/box_ops.py: extreme coordinates, nothing added."""
    boxes = []
    for mask in masks.tolist():
        points = [(x, y) for y, row in enumerate(mask) for x, value in enumerate(row) if value]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        boxes.append([min(xs), min(ys), max(xs), max(ys)])
    return torch.tensor(boxes, dtype=torch.float32)


def test_targets(example):
    splits = example.write(masks=True)
    assert splits.classes.names == ("dog", "cat", "sky")
    assert splits.classes.things == (True, True, False)
    dataset = splits.split("train", transform=keep)
    sample = dataset[0]
    assert sample.labels.tolist() == [2, 1]
    boxes = box_convert(sample.boxes * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]), "cxcywh", "xyxy")
    assert boxes.round().tolist() == [[0, 0, WIDTH - 1, HEIGHT - 1], [6, 4, 15, 11]]  # no pixel added
    assert sample.masks.shape == (2, HEIGHT, WIDTH)
    assert sample.masks.dtype == torch.bool
    assert torch.equal(sample.masks[0], ~sample.masks[1])
    assert sample.masks[1].sum() == 80
    assert dataset.objects_per_image.tolist() == [2, 1, 0]  # the crowd is trained with


def test_without_masks(example):
    dataset = example.write().split("train", transform=keep)
    assert dataset[0].masks is None
    assert len(dataset[0].boxes) == 2


def test_an_image_without_segments(example):
    sample = example.write(masks=True).split("train", transform=keep)[2]
    assert sample.masks.shape == (0, HEIGHT, WIDTH)
    assert sample.boxes.shape == (0, 4)


def test_batches(example):
    dataset = example.write(masks=True).split("train", transform=keep)
    batch = collate([dataset[index] for index in range(3)])
    assert batch.targets.counts == [2, 1, 0]
    assert batch.targets.masks.shape == (3, HEIGHT, WIDTH)
    assert batch.targets.masks[2].nonzero().tolist() == [[y, 3] for y in range(10)]


def test_masks_follow_the_augmentation(example):
    """Where the augmented mask is, its box is, to a pixel of rounding (and the pixel that boxes lack)."""
    dataset = example.write(masks=True).split("train", transform=light_train(WIDTH))
    seen = 0
    for epoch in range(20):
        sample = dataset[epoch, 0]
        height, width = sample.image.shape[-2:]
        boxes = box_convert(sample.boxes * torch.tensor([width, height, width, height]), "cxcywh", "xyxy")
        for mask, box in zip(sample.masks, boxes, strict=True):
            if mask.any():
                found = torch.from_numpy(masks_to_boxes(mask.numpy()[None]))[0]
                assert (found - box).abs().max() <= 2.01
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("seed", range(5))
def test_masks_to_boxes(seed):
    masks = np.random.default_rng(seed).random((4, 9, 13)) < 0.05
    masks[:, 3, 4] = True
    assert torch.equal(torch.from_numpy(masks_to_boxes(masks)), reference_masks_to_boxes(torch.from_numpy(masks)))


def test_ids_and_colours(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65536, BIG]], dtype=np.int32)
    assert to_rgb(ids)[1].tolist() == [[0, 1, 0], [0, 0, 1], [200, 100, 50]]
    assert np.array_equal(from_rgb(to_rgb(ids)), ids)
    save_segment_ids(ids, tmp_path / "ids.png")
    assert np.array_equal(read_segment_ids(str(tmp_path / "ids.png"), (2, 3)), ids)


def test_identity_map_with_room(example):
    classes = example.write(categories="identity", num_classes=250).classes
    assert classes.num_classes == 250
    assert classes.names[SKY] == "sky"
    assert classes.names[249] == "N/A"
    assert [classes.things[index] for index in (DOG, CAT, SKY)] == [True, True, False]


def test_too_few_classes(example):
    with pytest.raises(
        UserError, match=r"panoptic\.json: dataset\.num_classes: expected at least 13 for .* 12, got 12"
    ):
        _ = example.write(categories="identity", num_classes=12).classes


def test_boxes_are_evaluated_on_things(example):
    truth = example.write().split("val", transform=keep).ground_truth()
    assert [(a["category_id"], a["bbox"], a["iscrowd"]) for a in truth["annotations"]] == [
        (CAT, [6, 4, 10, 8], 0),
        (DOG, [3, 0, 1, 10], 1),
    ]
    assert [category["id"] for category in truth["categories"]] == [DOG, CAT]
    assert "segmentation" not in truth["annotations"][0]


def test_masks_are_evaluated_on_things(example):
    from pycocotools import mask as coco_mask

    truth = example.write(masks=True).split("val", transform=keep).ground_truth()
    cat = coco_mask.decode(truth["annotations"][0]["segmentation"])
    assert np.array_equal(cat, example.pixels[0] == 5)


def test_instances_of_their_own(example, coco, tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    dataset = example.write(instances=str(tmp_path / "instances.json")).split("val", transform=keep)
    assert len(dataset.ground_truth()["annotations"]) == 4
    subset = dataset.subset([1])
    assert [a["image_id"] for a in subset.ground_truth()["annotations"]] == [20, 20]
    assert subset[0].image_id == 20
    assert len(subset[0].boxes) == 1


def test_instances_without_an_image(example, coco, tmp_path):
    coco["images"] = coco["images"][:2]
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"instances\.json: image 30 of .*panoptic\.json is missing"):
        example.write(instances=str(tmp_path / "instances.json")).split("val", transform=keep)


def test_panoptic_ground_truth(example):
    truth = example.write().split("val", transform=keep).subset([1, 0]).panoptic_ground_truth()
    assert [image["id"] for image in truth["images"]] == [20, 10]
    assert [Path(entry["file_name"]).name for entry in truth["annotations"]] == ["2.png", "1.png"]
    assert truth["annotations"][0]["segments_info"] == [{"id": 5, "category_id": DOG, "area": 10, "iscrowd": 1}]
    assert {c["id"]: c["isthing"] for c in truth["categories"]} == {CAT: 1, DOG: 1, SKY: 0}


def test_a_test_split_that_lists_images_only(example, tmp_path):
    listed = {key: example.content[key] for key in ("images", "categories")}
    files = {"images": str(tmp_path / "images"), "annotations": str(tmp_path / "test.json")}
    (tmp_path / "test.json").write_text(json.dumps(listed))
    dataset = example.write(test=files).split("test", transform=keep)
    assert not dataset.annotated
    assert dataset[0].boxes.shape == (0, 4)


def no_isthing(example: Example) -> None:
    del example.content["categories"][1]["isthing"]


def unknown_category(example: Example) -> None:
    example.segments(0)[1]["category_id"] = 8


def repeated(example: Example) -> None:
    example.segments(0).append(dict(example.segments(0)[1]))


def void(example: Example) -> None:
    example.segments(0)[1]["id"] = 0


def no_pixels(example: Example) -> None:
    example.segments(0)[1]["area"] = 0


def no_box(example: Example) -> None:
    del example.segments(0)[1]["bbox"]


def no_entry(example: Example) -> None:
    del example.content["annotations"][2]


def stray_entry(example: Example) -> None:
    del example.content["images"][2]


def two_entries(example: Example) -> None:
    example.content["annotations"].append(example.content["annotations"][0])


def boxes_only(example: Example) -> None:
    for entry in example.content["annotations"]:
        del entry["segments_info"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            no_isthing,
            r'panoptic\.json: category 3 \("dog"\): "isthing": expected 1 \(a thing\) or 0 .*, but it is missing',
        ),
        (unknown_category, r'panoptic\.json: segment 5 of image 10 has category 8, which is not in "categories"'),
        (repeated, r"panoptic\.json: segment 5 of image 10 is listed more than once"),
        (
            void,
            r'panoptic\.json: segment 0 of image 10: "id": expected a whole number from 1 \(0 is void\) to .*, got 0',
        ),
        (no_pixels, r'panoptic\.json: segment 5 of image 10: "area": .* \(remove a segment without pixels\), got 0'),
        (no_box, r'panoptic\.json: segment 5 of image 10: "bbox": expected four finite numbers .*, but it is missing'),
        (no_entry, r'panoptic\.json: image 30 has no entry in "annotations"'),
        (stray_entry, r'panoptic\.json: an annotation points to image 30, which is not in "images"'),
        (two_entries, r"panoptic\.json: annotation of the image id 10 occurs 2 times"),
        (boxes_only, r"panoptic\.json: not COCO panoptic format.* use dataset=coco or dataset=custom"),
    ],
)
def test_what_the_json_alone_tells(example, damage: Callable[[Example], None], message: str):
    damage(example)
    with pytest.raises(UserError, match=message) as caught:
        example.write().split("train", transform=keep)
    assert "\n" not in str(caught.value)


def test_a_missing_png_is_found_at_the_start(example):
    splits = example.write()
    (example.folder / "segments/2.png").unlink()
    with pytest.raises(UserError, match=r"segments/2\.png: missing, but listed in .*panoptic\.json; .*\.segments$"):
        splits.split("train", transform=keep)


def stray_id(example: Example) -> None:
    example.pixels[0][2, 3:5] = 77


def no_pixel_of_a_segment(example: Example) -> None:
    example.pixels[0][example.pixels[0] == 5] = BIG


def another_size(example: Example) -> None:
    example.pixels[0] = example.pixels[0][:, :-1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (stray_id, r"segments/1\.png: 2 pixels have the segment id 77, which the JSON does not list"),
        (no_pixel_of_a_segment, r"segments/1\.png: no pixel has the segment id 5, which the JSON lists"),
        (another_size, r"segments/1\.png: the PNG is 39 × 30 \(width × height\), but its image is 40 × 30"),
    ],
)
def test_what_the_png_tells(example, damage: Callable[[Example], None], message: str):
    """The other images can be read; a loader's worker says it in the same one line."""
    damage(example)
    dataset = example.write().split("train", transform=keep)
    assert dataset[1].image_id == 20
    with pytest.raises(UserError, match=message) as caught:
        list(eval_loader(dataset, batch_size=2, num_workers=1))
    assert "\n" not in str(caught.value)


def test_pngs_that_are_none(example):
    dataset = example.write().split("train", transform=keep)
    path = example.folder / "segments/1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1\.png: not a readable PNG"):
        dataset[0]
    Image.fromarray(example.pixels[0].astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=r"1\.png: expected RGB pixels, got L"):
        dataset[0]
    path.unlink()
    with pytest.raises(UserError, match=r"1\.png: no such panoptic PNG"):
        dataset[0]
