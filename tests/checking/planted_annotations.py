"""What can be wrong with annotations."""

from __future__ import annotations

import json

from planted import (
    HEIGHT,
    WIDTH,
    Data,
    boxes,
    fault,
)


@fault("annotation-file", file="train.json", words="no such annotation file", also=("unlisted-images",))
def no_annotation_file(data: Data) -> None:
    data.splits["trian"] = data.splits.pop("train")


@fault("annotation-file", file="train.json", words="not valid JSON", also=("unlisted-images",))
def half_a_json(data: Data) -> None:
    data.splits.pop("train")
    (data.root / "annotations").mkdir()
    (data.root / "annotations" / "train.json").write_text('{"images": [')
    (data.root / "annotations" / "val.json").write_text(json.dumps(data.splits.pop("val")))
    data.save = lambda: None  # type: ignore[method-assign]


@fault("annotation-file", file="train.json", words='"annotations": expected a list')
def no_list(data: Data) -> None:
    del data.train["annotations"]


@fault("no-images", file="train.json", also=("unlisted-images", "unknown-image"))
def no_images(data: Data) -> None:
    data.train["images"] = []


@fault("malformed-image", words='"height": None')
def an_image_without_a_height(data: Data) -> None:
    del data.train["images"][0]["height"]


@fault("malformed-image", file="train.json", words="\"file_name\": ''", also=("unlisted-images", "unknown-image"))
def an_image_without_a_name(data: Data) -> None:
    data.train["images"][0]["file_name"] = ""


@fault("malformed-annotation", annotation=1, words='"bbox"')
def a_box_of_three_numbers(data: Data) -> None:
    data.first["bbox"] = [1, 2, 3]


@fault("malformed-annotation", file="train.json", annotation=1, words='"image_id"')
def no_image_id(data: Data) -> None:
    del data.first["image_id"]


@fault("malformed-annotation", annotation=1, words='"area": -4')
def a_negative_area(data: Data) -> None:
    data.first["area"] = -4


@fault("malformed-annotation", file="train.json", words="number 0: 17")
def an_annotation_that_is_a_number(data: Data) -> None:
    data.train["annotations"][0] = 17


@fault("malformed-category", file="train.json", words="category 3")
def a_category_without_a_name(data: Data) -> None:
    del data.train["categories"][0]["name"]
    data.train["categories"].append({"id": 4, "name": "cat"})
    for each in boxes(data):
        each["category_id"] = {3: 4}.get(each["category_id"], each["category_id"])
    for each in data.val["annotations"]:
        each["category_id"] = {3: 4}.get(each["category_id"], each["category_id"])
    data.val["categories"][0]["id"] = 4


@fault("number-as-text", annotation=1, words="'12'", mended=True)
def a_number_as_text(data: Data) -> None:
    data.first["bbox"] = ["12", "3", "8", "9"]
    del data.first["area"]


@fault("number-as-text", words="'64'", mended=True)
def a_width_as_text(data: Data) -> None:
    data.train["images"][0]["width"] = "64"


@fault("flag-as-text", annotation=1, words="'0'", mended=True)
def a_flag_as_text(data: Data) -> None:
    data.first["iscrowd"] = "0"


@fault("flag-as-text", annotation=1, words="'False'", mended=True)
def a_flag_as_a_word(data: Data) -> None:
    data.first["iscrowd"] = "False"


@fault("flag-as-text", annotation=1, words="2")
def a_flag_that_is_none(data: Data) -> None:
    data.first["iscrowd"] = 2


@fault("box-not-finite", annotation=1, words="nan", mended=True)
def not_a_number(data: Data) -> None:
    data.first["bbox"][2] = float("nan")


@fault("box-missing", annotation=1, mended=True)
def a_mask_without_a_box(data: Data) -> None:
    x, y, w, h = data.first.pop("bbox")
    data.first["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


@fault("keypoints-only", annotation=1, mended=True)
def keypoints_without_a_box(data: Data) -> None:
    del data.first["bbox"]
    data.first["keypoints"] = [5, 5, 2]


@fault("duplicate-image-id", file="train02.png")
def an_image_id_twice(data: Data) -> None:
    data.train["images"][1]["id"] = 1
    data.train["annotations"] = [each for each in boxes(data) if each["image_id"] != 2]


@fault("duplicate-annotation-id", annotation=1, mended=True)
def an_annotation_id_twice(data: Data) -> None:
    data.train["annotations"][1]["id"] = 1


@fault("duplicate-category-id", file="train.json", words='"dog" and "cow"')
def a_category_id_twice(data: Data) -> None:
    data.train["categories"].append({"id": 7, "name": "cow"})


@fault("unknown-image", file="train.json", annotation=1, words="image 500", mended=True)
def an_unknown_image(data: Data) -> None:
    data.first["image_id"] = 500


@fault("unknown-category", annotation=1, words="category 0", mended=True)
def an_unknown_category(data: Data) -> None:
    data.first["category_id"] = 0


@fault("box-without-area", annotation=1, mended=True)
def a_box_without_area(data: Data) -> None:
    data.first.update({"bbox": [10, 10, 0, 0], "area": 0})


@fault("box-without-area", annotation=1, mended=True)
def a_box_drawn_backwards(data: Data) -> None:
    data.first["bbox"] = [30, 30, -10, -10]


@fault("box-outside", annotation=1, mended=True)
def a_box_outside(data: Data) -> None:
    data.first["bbox"][0] = 500


@fault("box-sticks-out", annotation=1, mended=True)
def a_box_that_sticks_out(data: Data) -> None:
    data.first["bbox"][0] = -10


@fault("box-beyond-edge", annotation=1, mended=True)
def a_box_just_beyond_the_edge(data: Data) -> None:
    data.first.update({"bbox": [1, 3, 66, 44], "area": 66 * 44})


@fault("box-under-a-pixel", annotation=1)
def a_box_under_a_pixel(data: Data) -> None:
    data.first.update({"bbox": [10, 10, 0.5, 0.5], "area": 0.25})


@fault("corners-as-size", annotation=1, mended=True)
def corners_instead_of_sizes(data: Data) -> None:
    for each in boxes(data):
        x, y, w, h = each["bbox"]
        each["bbox"] = [x, y, x + w, y + h]


@fault("centres-as-corners", annotation=1, mended=True)
def centres_instead_of_corners(data: Data) -> None:
    for each in boxes(data):
        x, y, w, h = each["bbox"]
        each["bbox"] = [x + w / 2, y + h / 2, w, h]


@fault("fractions-as-pixels", annotation=1, mended=True)
def fractions_instead_of_pixels(data: Data) -> None:
    for each in boxes(data):
        x, y, w, h = each["bbox"]
        each["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


@fault("axes-exchanged", annotation=1, mended=True)
def axes_exchanged(data: Data) -> None:
    for each in boxes(data):
        x, y, w, h = each["bbox"]
        each["bbox"] = [y, x, h, w]


@fault("boxes-in-a-corner", file=None, also=("objects-too-small",))
def boxes_of_images_of_half_the_size(data: Data) -> None:
    for each in list(boxes(data)):
        x, y, w, h = each["bbox"]
        each |= {"bbox": [x / 2, y / 2, w / 2, h / 2], "area": w * h / 4}
        twin = {"id": each["id"] + 100, "bbox": [x / 2 + 0.5, y / 2 + 2, w / 2, h / 2 - 2], "area": w / 2 * (h / 2 - 2)}
        data.train["annotations"].append(each | twin)


@fault("object-twice", annotation=1000, mended=True)
def the_same_object_twice(data: Data) -> None:
    data.train["annotations"].append(data.first | {"id": 1000})


@fault("box-with-two-classes", annotation=1000)
def one_box_with_two_classes(data: Data) -> None:
    data.train["annotations"].append(data.first | {"id": 1000, "category_id": 7})


@fault("area-mismatch", annotation=1, words="area 5000", mended=True)
def an_area_that_does_not_fit(data: Data) -> None:
    data.first["area"] = 5000


@fault("mostly-crowds", annotation=1, also=("few-examples",))
def mostly_crowds(data: Data) -> None:
    for each in list(boxes(data))[:20]:
        each["iscrowd"] = 1


@fault("no-objects", file="train.json", words="36 of them crowds", also=("mostly-crowds",))
def nothing_but_crowds(data: Data) -> None:
    for each in boxes(data):
        each["iscrowd"] = 1


@fault("mask-missing", annotation=2)
def a_mask_is_missing(data: Data) -> None:
    outline(data)
    del data.train["annotations"][1]["segmentation"]
    data.overrides.append("dataset.masks=true")


def outline(data: Data) -> None:
    """Masks that are the boxes."""
    for content in data.splits.values():
        for each in content["annotations"]:
            x, y, w, h = each["bbox"]
            each["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


@fault("malformed-mask", annotation=1, words="[1, 2, 3]")
def a_polygon_of_three_numbers(data: Data) -> None:
    data.first["segmentation"] = [[1, 2, 3]]


@fault("degenerate-polygon", annotation=1)
def a_polygon_of_two_points(data: Data) -> None:
    data.first["segmentation"] = [[1, 2, 3, 4]]


@fault("run-length-size", annotation=1)
def run_lengths_of_another_size(data: Data) -> None:
    data.first["segmentation"] = {"size": [10, 10], "counts": [0, 100]}


@fault("mask-off-box", annotation=1)
def a_mask_elsewhere(data: Data) -> None:
    data.first["segmentation"] = [[40, 30, 60, 30, 60, 45, 40, 45]]
    del data.first["area"]
