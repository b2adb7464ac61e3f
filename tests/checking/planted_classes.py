"""What can be wrong with classes and splits, and against the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planted import (
    HEIGHT,
    WIDTH,
    Data,
    boxes,
    fault,
    picture,
)


@fault("no-categories", file="train.json", also=("unknown-category", "no-objects"))
def no_categories(data: Data) -> None:
    data.train["categories"] = []


@fault("duplicate-category-name", file="train.json", words='"cat"', also=("class-without-objects",), mended=True)
def two_categories_of_one_name(data: Data) -> None:
    data.train["categories"].append({"id": 9, "name": "cat"})


@fault("empty-category-name", file="train.json", also=("class-without-objects",))
def an_empty_name(data: Data) -> None:
    data.train["categories"].append({"id": 9, "name": " "})


@fault("similar-class-names", file="train.json", words='"cat" (3) and "Cat " (9)', also=("class-without-objects",))
def names_that_differ_by_case(data: Data) -> None:
    data.train["categories"].append({"id": 9, "name": "Cat "})


@fault("unused-root-category", file="train.json", words='"animals" (0)', mended=True)
def an_unused_root(data: Data) -> None:
    data.train["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})


@fault("class-without-objects", file="train.json", words='"cow" (9), 0 objects')
def a_class_without_objects(data: Data) -> None:
    data.train["categories"].append({"id": 9, "name": "cow"})


@fault("category-ids-differ", file="val.json", words='3 is "dog", in train "cat"', mended=True)
def ids_exchanged_between_splits(data: Data) -> None:
    data.val["categories"] = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    for each in data.val["annotations"]:
        each["category_id"] = 10 - each["category_id"]


@fault("class-not-in-train", file="val.json", words='"cow" (9)')
def a_class_that_train_does_not_list(data: Data) -> None:
    data.val["categories"].append({"id": 9, "name": "cow"})
    data.val["annotations"][0]["category_id"] = 9


@fault("class-never-trained", file="val.json", words='"cow" (9)', also=("class-without-objects",))
def a_class_that_only_val_has(data: Data) -> None:
    for content in data.splits.values():
        content["categories"].append({"id": 9, "name": "cow"})
    data.val["annotations"][0]["category_id"] = 9


@fault("few-examples", file="train.json", words='"cow" (9), 1 object')
def a_class_with_one_example(data: Data) -> None:
    for content in data.splits.values():
        content["categories"].append({"id": 9, "name": "cow"})
    data.first["category_id"] = 9


@fault("class-of-one-size", words='"dog": 24 boxes of 20 × 20', also=("few-examples",))
def boxes_that_were_clicked(data: Data) -> None:
    for each in list(boxes(data))[:24]:
        each |= {"category_id": 7, "bbox": [each["bbox"][0], 5, 20, 20], "area": 400}
    for each in list(boxes(data))[24:]:
        each["category_id"] = 3
    del data.val["annotations"][:]
    data.val["annotations"].append(data.first | {"image_id": 1})
    del data.train["annotations"][32:]


@fault("no-annotations", file="val.json", words="6 images")
def a_split_without_annotations(data: Data) -> None:
    data.val["annotations"] = []


def many(data: Data, train: Callable[[int], dict[str, Any]], val: Callable[[int], dict[str, Any]]) -> None:
    """Each split with 100 images of two objects, which are changed; without pictures of their own."""
    for (name, content), change in zip(data.splits.items(), (train, val), strict=True):
        template = [{key: value for key, value in each.items() if key != "area"} for each in content["annotations"][:2]]
        content["images"], content["annotations"] = [], []
        for number in range(1, 101):
            image = f"many_{name}_{number}.png"
            picture(number + 5000 * (name == "val")).save(data.file(image), compress_level=0)
            content["images"].append({"id": number, "file_name": image, "width": WIDTH, "height": HEIGHT})
            for each in template:
                row = each | {"id": len(content["annotations"]) + 1, "image_id": number}
                content["annotations"].append(row | change(len(content["annotations"])))
    for file in [*data.images.glob("train??.png"), *data.images.glob("val??.png")]:
        file.unlink()


@fault("class-shares-differ", file=None, words='"cat" is 90% of the objects, in train 50%')
def another_share_of_classes(data: Data) -> None:
    many(data, lambda n: {"bbox": spread(n)}, lambda n: {"bbox": spread(n), "category_id": 7 if n % 10 == 1 else 3})


@fault("box-sizes-differ", file=None, words="pixels, in train")
def another_size_of_boxes(data: Data) -> None:
    many(data, lambda n: {"bbox": spread(n)}, lambda n: {"bbox": [*spread(n)[:2], 28 + n % 3, 24]})


def spread(number: int) -> list[int]:
    """A box, another one for every number."""
    return [2 + 30 * (number % 2), 3, 17 + number % 5, 18 + number % 7]


@fault("class-imbalance", file=None, words='"cat" has')
def a_hundred_times_as_many(data: Data) -> None:
    many(data, lambda n: {"bbox": spread(n)}, lambda n: {"bbox": spread(n)})
    rows = data.train["annotations"]
    for each in rows:
        each["category_id"] = 7 if each["id"] <= 10 else 3
    for copy in range(1, 8):
        moved = [each | {"id": each["id"] + 1000 * copy, "bbox": shifted(each["bbox"], copy)} for each in rows[10:190]]
        data.train["annotations"] = data.train["annotations"] + moved
    for each in data.val["annotations"]:
        each["category_id"] = 3
    data.overrides.append("evaluator.detections_per_image=300")


def shifted(box: list[int], copy: int) -> list[int]:
    return [box[0], box[1] + 2 * copy, *box[2:]]


@fault("objects-too-small", words="augmentation.max_size=")
def images_scaled_down_too_far(data: Data) -> None:
    data.overrides.append("augmentation.max_size=24")


@fault("objects-small", words="augmentation.max_size=")
def images_scaled_down_a_little_too_far(data: Data) -> None:
    data.overrides.append("augmentation.max_size=48")


@fault("more-objects-than-queries", words="3 objects, the limit is 2")
def more_objects_than_queries(data: Data) -> None:
    data.overrides.append("queries.num_queries=2")


@fault("more-objects-than-detections", words="3 objects, the limit is 2")
def more_objects_than_detections(data: Data) -> None:
    data.overrides.append("evaluator.detections_per_image=2")


@fault("batch-larger-than-split", file=None, words="dataloader.batch_size=64, 12 images")
def a_batch_larger_than_the_split(data: Data) -> None:
    data.overrides.append("dataloader.batch_size=64")


@fault("classes-of-sides", file=None, words='"left hand"')
def flips_of_left_and_right(data: Data) -> None:
    for content in data.splits.values():
        for each, name in zip(content["categories"], ("left hand", "right hand"), strict=True):
            each["name"] = name


@fault("refused", file=None, words="image folders")
def two_folders_for_three_files(data: Data) -> None:
    data.overrides.append("dataset.train.images=[${dataset.root}/images,${dataset.root}/images]")
