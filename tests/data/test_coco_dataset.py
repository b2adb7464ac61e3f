"""COCO-format data sets as samples."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_example import HEIGHT, WIDTH, keep
from PIL import Image
from torchvision.ops import box_convert

from detr.assembly import warn_shared
from detr.data.coco import CocoSplits
from detr.data.dataset import check_capacity
from detr.data.transforms import detr_train, light_train
from detr.errors import UserError
from detr.structures import Classes, Sample

BCCD = Path(__file__).resolve().parents[2] / "../shared/data/bccd"


def absolute(sample: Sample) -> list[list[float]]:
    """xywh in pixels."""
    height, width = sample.image.shape[-2:]
    boxes = sample.boxes * torch.tensor([width, height, width, height])
    return box_convert(boxes, "cxcywh", "xywh").round(decimals=3).tolist()


def test_samples_are_what_the_file_says(coco, write):
    splits = write(coco)
    dataset = splits.split("train", transform=keep)
    assert splits.classes == Classes(("dog", "bird", "cat"), (3, 5, 7))
    sample = dataset[0]
    assert sample.labels.tolist() == [2, 0]
    assert absolute(sample) == [[5, 5, 10, 8], [30, 20, 10, 10]]  # the second stuck out
    assert (sample.image_id, sample.original_size) == (10, (HEIGHT, WIDTH))
    assert sample.image.dtype == torch.uint8
    with Image.open(sample.file) as image:
        assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.asarray(image))


def test_crowds_are_evaluated_but_not_trained_with(coco, write):
    dataset = write(coco).split("train", transform=keep)
    assert absolute(dataset[1]) == [[1.5, 2.5, 20, 10]]
    assert dataset.objects_per_image.tolist() == [2, 1, 0]
    assert [a["iscrowd"] for a in dataset.ground_truth()["annotations"]] == [0, 0, 0, 1]
    assert {a["category_id"] for a in dataset.ground_truth()["annotations"]} == {3, 7}


def test_images_without_objects_stay(coco, write):
    sample = write(coco).split("train", transform=keep)[2]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.labels.dtype == torch.int64


def test_identity_map(coco, write):
    splits = write(coco, categories="identity")
    assert splits.classes.num_classes == 8
    assert splits.split("train", transform=keep)[0].labels.tolist() == [7, 3]


@pytest.mark.parametrize("category_id", [-1, 10**9])
def test_ids_that_cannot_be_indices(coco, write, category_id):
    coco["categories"].append({"id": category_id, "name": "whale"})
    with pytest.raises(UserError, match=r"train\.json.*use dataset\.categories=contiguous"):
        _ = write(coco, categories="identity").classes
    assert write(coco).classes.num_classes == 4


def test_no_categories(coco, write):
    coco.update(categories=[], annotations=[])
    with pytest.raises(UserError, match=r"train\.json: no categories"):
        _ = write(coco).classes


def test_classes_of_a_checkpoint_spare_the_training_annotations(coco, write, tmp_path):
    splits = write(coco)
    classes = splits.classes
    (tmp_path / "train.json").unlink()
    files = {
        name: {"images": str(tmp_path / "images"), "annotations": str(tmp_path / f"{name}.json")}
        for name in ("train", "val")
    }
    again = CocoSplits(root="", categories="contiguous", **files)
    assert again.split("val", transform=keep, classes=classes)[0].labels.tolist() == [2, 0]
    with pytest.raises(UserError, match=r"train\.json: no such annotation file"):
        again.split("val", transform=keep)


def test_validation_images_that_are_trained_on_are_warned_of(coco, write, caplog):
    val = copy.deepcopy(coco)
    val["images"].append(val["images"][0] | {"id": 99, "file_name": "new.jpg"})
    splits = write(coco, val)
    train_set, val_set = (splits.split(name, transform=keep) for name in ("train", "val"))
    warn_shared(train_set, val_set.subset([len(val_set) - 1]))
    assert not caplog.messages
    warn_shared(train_set, val_set)
    (message,) = caplog.messages
    assert message.startswith(f"{len(train_set)} of {len(val_set)} validation images are trained on, too")


def test_validation_uses_the_classes_of_training(coco, write):
    """Even if its own table is shorter, so that its own numbering would be another."""
    val = copy.deepcopy(coco)
    val["categories"] = [category for category in val["categories"] if category["id"] != 5]
    assert write(coco, val).split("val", transform=keep)[0].labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"id": 9, "name": "cow"}, r'annotation 1 of image .*1\.png has category 9 \("cow"\), which is unknown'),
        ({"id": 7, "name": "cow"}, r'annotation 1 of image .*1\.png has category 7 \("cow"\), which is "cat" to'),
    ],
)
def test_categories_that_training_does_not_know(coco, write, category, message):
    val = copy.deepcopy(coco)
    val["categories"][0] = category
    for annotation in val["annotations"]:
        annotation["category_id"] = category["id"]
    with pytest.raises(UserError, match=message):
        write(coco, val).split("val", transform=keep)


def test_unused_categories_do_not_matter(coco, write):
    val = copy.deepcopy(coco)
    val["categories"].append({"id": 99, "name": "supercategory"})
    assert len(write(coco, val).split("val", transform=keep)) == 3


def test_missing_split(coco, write):
    with pytest.raises(UserError, match=r"dataset\.test is not set; this data set has the splits train, val"):
        write(coco).split("test", transform=keep)


def test_missing_images_are_found_at_the_start(coco, write):
    with pytest.raises(UserError, match=r"1\.png and 2 more: missing, but listed in .*train\.json"):
        write(coco, images=False).split("train", transform=keep)


def test_image_of_another_size(coco, write):
    coco["images"][1]["width"] = 41
    dataset = write(coco).split("train", transform=keep)
    assert dataset[0].image_id == 10
    with pytest.raises(UserError, match=r"2\.png: the image is 40 × 30 .* 41 × 30"):
        dataset[1]


def test_augmentation_is_a_function_of_seed_epoch_and_index(coco, write):
    splits = write(coco)
    first, second = (splits.split("train", transform=light_train(40), seed=5) for _ in "ab")
    torch.manual_seed(0)
    expected = [first[epoch, index] for epoch in (0, 1, 2) for index in (0, 1, 2)]
    torch.manual_seed(1)
    for epoch, index in [(2, 1), (0, 0), (1, 2)]:  # another order, another global state
        sample = second[epoch, index]
        assert torch.equal(sample.image, expected[3 * epoch + index].image)
        assert torch.equal(sample.boxes, expected[3 * epoch + index].boxes)
    images = {sample.image.numpy().tobytes() for sample in expected}
    assert len(images) > 6  # epochs and indices differ (all three images have the same pixels)
    other_seed = splits.split("train", transform=light_train(40), seed=6)
    assert any(not torch.equal(other_seed[e, 0].image, first[e, 0].image) for e in range(3))


def test_augmentation_leaves_the_global_generator_alone(coco, write):
    dataset = write(coco).split("train", transform=light_train(40), seed=5)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_subset(coco, write):
    dataset = write(coco).split("train", transform=keep)
    subset = dataset.subset([2, 0])
    assert len(subset) == 2
    assert subset.image_ids == [30, 10]
    assert subset.objects_per_image.tolist() == [0, 2]
    assert absolute(subset[1]) == absolute(dataset[0])
    truth = subset.ground_truth()
    assert [image["id"] for image in truth["images"]] == [30, 10]
    assert {a["image_id"] for a in truth["annotations"]} == {10}


@pytest.mark.parametrize("index", [3, -1])
def test_index_out_of_range(coco, write, index):
    with pytest.raises(IndexError):
        write(coco).split("train", transform=keep)[index]


def test_capacity(coco, write):
    dataset = write(coco).split("train", transform=keep)
    check_capacity(dataset, 2)
    with pytest.raises(UserError, match=r"1\.png has 2 objects, but the model has 1 queries; .* at least 2"):
        check_capacity(dataset, 1)


@pytest.mark.parametrize(("json_size", "turned"), [((HEIGHT, WIDTH), True), ((WIDTH, HEIGHT), False)])
def test_exif_orientation_follows_the_json(coco, write, json_size, turned):
    """Upright if the JSON's size is the upright one, as stored if the boxes were made on the stored pixels."""
    coco["images"] = coco["images"][:1]
    coco["annotations"] = coco["annotations"][:1]
    height, width = json_size
    coco["images"][0].update(height=height, width=width)
    coco["annotations"][0]["bbox"] = [2, 3, 6, 8]
    splits = write(coco)
    dataset_file = splits.split("train", transform=keep).files[0]
    upright = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    stored = np.rot90(upright, 1).copy()
    (upright if turned else stored)[3:11, 2:8] = 255  # where the annotator saw it
    if turned:
        stored = np.rot90(upright, 1)  # stored lying on its side: orientation 6 turns it back
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(stored)).save(dataset_file, exif=exif)
    sample = splits.split("train", transform=keep)[0]
    assert tuple(sample.image.shape[-2:]) == sample.original_size == json_size
    rows, columns = np.nonzero(sample.image[0].numpy())
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [2, 3, 8, 11]
    assert absolute(sample) == [[2, 3, 6, 8]]


def test_annotations_are_arrays(coco, write):
    """Python objects would be copied into every worker as soon as their reference counts move."""
    dataset = write(with_polygons(coco), masks=True).split("train", transform=keep)
    values = vars(dataset._annotations)
    others = {name for name, value in values.items() if not isinstance(value, np.ndarray)}
    assert others == {"categories", "annotated", "segmentations", "extras"}
    assert values["extras"] is None
    assert all(isinstance(value, np.ndarray) for value in vars(values["segmentations"]).values())


def with_polygons(coco):
    """Each object fills the upper left half of its box."""
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x, y + height]]
    return coco


def test_samples_have_masks_where_they_are_asked_for(coco, write):
    given = with_polygons(coco)
    assert write(given).split("train", transform=keep)[0].masks is None
    dataset = write(given, masks=True).split("train", transform=keep)
    masks = dataset[0].masks
    assert masks.shape == (2, HEIGHT, WIDTH)
    assert type(masks) is torch.Tensor
    assert masks.dtype == torch.bool
    assert masks[0, 5:13, 5:15].float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert masks[0].sum() == masks[0, 5:13, 5:15].sum()
    assert masks[1, 20:, 30:].any()
    assert len(dataset[1].masks) == len(dataset[1].labels) == 1  # the crowd is left out
    assert dataset[2].masks.shape == (0, HEIGHT, WIDTH)
    assert all(a["segmentation"]["size"] == [HEIGHT, WIDTH] for a in dataset.ground_truth()["annotations"])
    assert dataset.subset([1])[0].masks.equal(dataset[1].masks)


def test_masks_are_cut_and_scaled_with_their_boxes(coco, write):
    """Whatever the augmentation, an object's mask lies in its box and reaches three of its sides."""
    for name, transform in {"detr": detr_train([48, 56], 90), "light": light_train(64)}.items():
        dataset = write(with_polygons(coco), masks=True).split("train", transform=transform)
        for epoch in range(20):
            for index in range(3):
                sample = dataset[epoch, index]
                assert sample.masks.shape == (len(sample.boxes), *sample.image.shape[-2:]), name
                for mask, (x, y, width, height) in zip(sample.masks, absolute(sample), strict=True):
                    rows, columns = np.nonzero(mask.numpy())
                    if len(rows):  # a crop may keep a corner of the box without any pixel of the object
                        assert x - 2 <= columns.min() <= columns.max() <= x + width + 2, name
                        assert y - 2 <= rows.min() <= rows.max() <= y + height + 2, name


def test_a_missing_mask_is_named_before_training(coco, write):
    given = with_polygons(coco)
    del given["annotations"][3]["segmentation"]
    with pytest.raises(UserError, match=r'train.json: annotation 4: "segmentation" is missing.*dataset.masks=false'):
        write(given, masks=True).split("train", transform=keep)


@pytest.mark.skipif(not BCCD.exists(), reason="the blood cell images are not beside the checkout")
class TestBloodCells:
    @pytest.fixture(scope="class")
    def splits(self) -> CocoSplits:
        files = {
            split: {"images": str(BCCD / "images"), "annotations": str(BCCD / f"annotations/{split}.json")}
            for split in ("train", "val", "test")
        }
        return CocoSplits(root=str(BCCD), categories="contiguous", **files)

    @pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
    def test_counts(self, splits, split, images, boxes, caplog):
        dataset = splits.split(split, transform=keep)
        assert len(dataset) == images
        assert dataset.objects_per_image.sum() == boxes == len(dataset.ground_truth()["annotations"])
        dropped = {"train": "BloodImage_00343", "val": "BloodImage_00338"}.get(split)
        assert [dropped in message for message in caplog.messages] == ([True] if dropped else [])

    def test_every_box_equals_the_file(self, splits):
        """Samples, scaled back to pixels, are the boxes of the file clipped to the image."""
        dataset = splits.split("val", transform=keep)
        content = json.loads((BCCD / "annotations/val.json").read_text())
        for index in range(0, len(dataset), 17):
            sample = dataset[index]
            boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == sample.image_id]
            corners = [[max(x, 0), max(y, 0), min(x + w, 640), min(y + h, 480)] for x, y, w, h in boxes if w and h]
            expected = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners]
            np.testing.assert_allclose(absolute(sample), expected, atol=2e-3)

    def test_detr_augmentation_runs(self, splits):
        dataset = splits.split("train", transform=detr_train([480, 800], 1333))
        for epoch in range(4):
            sample = dataset[epoch, 7]
            assert max(sample.image.shape) <= 1333
            assert (sample.boxes[:, 2:] > 0).all()
            assert sample.boxes.max() <= 1 + 1e-6
