"""A small data set in which nothing is wrong, and sixty ways to spoil it, each alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Coco = dict[str, Any]

WIDTH, HEIGHT = 64, 48
COUNTS = {"train": 12, "val": 6}
CLASSES = {3: "cat", 7: "dog"}
SETTINGS = ["dataset=custom", "dataloader.batch_size=4"]


@functools.cache
def picture(seed: int) -> Image.Image:
    """Coarse noise, so that no two look alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@dataclass
class Data:
    """What is written: COCO dictionaries and images; faults change either."""

    root: Path
    splits: dict[str, Coco]
    overrides: list[str] = field(default_factory=list)

    @property
    def train(self) -> Coco:
        return self.splits["train"]

    @property
    def val(self) -> Coco:
        return self.splits["val"]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def first(self) -> dict[str, Any]:
        """Annotation 1, in image 1, train01.png."""
        return self.train["annotations"][0]

    def file(self, name: str = "train01.png") -> Path:
        return self.images / name

    def save(self) -> None:
        (self.root / "annotations").mkdir()
        for name, content in self.splits.items():
            (self.root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def sound(root: Path) -> Data:
    """A data set without a fault; its images are on disk, its annotations are not yet."""
    (root / "images").mkdir(parents=True)
    data = Data(root, {name: split(name, count) for name, count in COUNTS.items()})
    for name, count in COUNTS.items():
        for number in range(1, count + 1):
            picture(1000 * (name == "val") + number).save(data.file(f"{name}{number:02}.png"))
    return data


def split(name: str, count: int) -> Coco:
    drawn = np.random.default_rng(count)
    images = [
        {"id": n, "file_name": f"{name}{n:02}.png", "width": WIDTH, "height": HEIGHT} for n in range(1, count + 1)
    ]
    annotations = []
    for image in images:
        for number, category in enumerate((3, 7, 3)):
            width, height = (int(drawn.integers(17, 20)) for _ in range(2))
            box = [1 + 21 * number, int(drawn.integers(1, HEIGHT - height)), width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": each} for number, each in CLASSES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


@dataclass(frozen=True)
class Fault:
    """How to plant a fault, and how it has to be named."""

    plant: Callable[[Data], None]
    check: str
    file: str | None = "train01.png"  # that the finding names; None: the fault is of no file
    annotation: int | None = None
    words: str = ""  # in the message
    also: frozenset[str] = frozenset()  # what else is true then
    mended: bool = False  # by fix=true

    @property
    def name(self) -> str:
        return self.plant.__name__


FAULTS: list[Fault] = []


def fault(
    check: str,
    *,
    file: str | None = "train01.png",
    annotation: int | None = None,
    words: str = "",
    also: tuple[str, ...] = (),
    mended: bool = False,
) -> Callable[[Callable[[Data], None]], Callable[[Data], None]]:
    def register(plant: Callable[[Data], None]) -> Callable[[Data], None]:
        FAULTS.append(Fault(plant, check, file, annotation, words, frozenset(also), mended))
        return plant

    return register


def boxes(data: Data) -> Iterator[dict[str, Any]]:
    yield from data.train["annotations"]


# Files


@fault("missing-image")
def a_file_that_is_gone(data: Data) -> None:
    data.file().unlink()


@fault("missing-image", file="TRAIN01.PNG", words="train01.png is (upper and lower case)", mended=True)
def another_case(data: Data) -> None:
    data.train["images"][0]["file_name"] = "TRAIN01.PNG"


@fault(
    "missing-image",
    file="tra\u0308in.png",
    words="(another Unicode normal form)",
    also=("unlisted-images",),
    mended=True,
)
def another_normal_form(data: Data) -> None:
    data.train["images"][0]["file_name"] = "tra\u0308in.png"
    data.file().rename(data.file("tr\u00e4in.png"))


@fault("missing-image", file="a%20b.png", words="(percent-encoding)", mended=True)
def percent_encoding(data: Data) -> None:
    data.train["images"][0]["file_name"] = "a%20b.png"
    data.file().rename(data.file("a b.png"))


@fault("missing-image", file="sub\\train01.png", words="(backslashes in the path)", mended=True)
def backslashes(data: Data) -> None:
    data.train["images"][0]["file_name"] = "sub\\train01.png"
    (data.images / "sub").mkdir()
    data.file().rename(data.images / "sub" / "train01.png")


@fault("missing-image", file="images/train01.png", words="(the folder is named twice)", mended=True)
def the_folder_named_twice(data: Data) -> None:
    data.train["images"][0]["file_name"] = "images/train01.png"


@fault("missing-image", file="train01.jpg", words="(nearly the same name)", mended=True)
def another_extension(data: Data) -> None:
    data.train["images"][0]["file_name"] = "train01.jpg"


@fault("empty-file", mended=True)
def an_empty_file(data: Data) -> None:
    data.file().write_bytes(b"")


@fault("not-an-image", words="a web page", mended=True)
def a_web_page(data: Data) -> None:
    data.file().write_text("<!DOCTYPE html><html>404</html>")


@fault("not-an-image", words="Git LFS", mended=True)
def a_pointer(data: Data) -> None:
    data.file().write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@fault("unreadable-image", mended=True)
def a_truncated_file(data: Data) -> None:
    data.file().write_bytes(data.file().read_bytes()[:-2000])


@fault("unreadable-image", file="a.tiff", words="floating-point")
def floating_point(data: Data) -> None:
    data.train["images"][0]["file_name"] = "a.tiff"
    Image.new("F", (WIDTH, HEIGHT)).save(data.file("a.tiff"))
    data.file().unlink()


@fault("image-size-differs", words="32 × 24 (width × height), the annotations say 64 × 48", mended=True)
def another_size(data: Data) -> None:
    picture(1).resize((32, 24)).save(data.file())


@fault("image-size-differs", words="60 × 48")
def cut_after_annotating(data: Data) -> None:
    picture(1).crop((0, 0, 60, 48)).save(data.file())


@fault("image-size-exchanged", mended=True, also=("box-sticks-out",))
def width_and_height_exchanged(data: Data) -> None:
    data.train["images"][0] |= {"width": HEIGHT, "height": WIDTH}


def turned(data: Data, orientation: int, **size: int) -> None:
    """train01 with an EXIF tag, as a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data.file().unlink()
    picture(1).save(data.file("turned.jpg"), exif=exif, quality=95)
    data.train["images"][0] |= {"file_name": "turned.jpg"} | size


@fault("exif-other-frame", file="turned.jpg", also=("box-sticks-out", "box-outside", "box-beyond-edge"))
def boxes_of_the_stored_picture_with_the_upright_size(data: Data) -> None:
    turned(data, 6, width=HEIGHT, height=WIDTH)


@fault("exif-unclear", file="turned.jpg", words="orientation 3")
def upside_down(data: Data) -> None:
    turned(data, 3)


@fault(
    "image-listed-twice",
    file="train02.png",
    annotation=None,
    words="also image",
    also=("unlisted-images", "object-twice"),
    mended=True,
)
def one_file_under_two_ids(data: Data) -> None:
    data.train["images"][0]["file_name"] = "train02.png"


@fault("exact-duplicates", file="copy.png", words="like", mended=True)
def a_copy(data: Data) -> None:
    picture(1).save(data.file("copy.png"))
    data.train["images"].append({"id": 99, "file_name": "copy.png", "width": WIDTH, "height": HEIGHT})
    for each in data.train["annotations"][:3]:
        data.train["annotations"].append(each | {"id": each["id"] + 1000, "image_id": 99})


@fault("duplicates-disagree", file="copy.png")
def a_copy_with_other_boxes(data: Data) -> None:
    a_copy(data)
    del data.train["annotations"][-1]


@fault("near-duplicates", file="copy.jpg")
def a_re_encoded_copy(data: Data) -> None:
    picture(1).save(data.file("copy.jpg"), quality=60)
    data.train["images"].append({"id": 99, "file_name": "copy.jpg", "width": WIDTH, "height": HEIGHT})


@fault("leaked-duplicates", file="val01.png", words="like train's", mended=True)
def a_training_image_copied_to_val(data: Data) -> None:
    picture(1).save(data.file("val01.png"))


@fault("leaked-near-duplicates", file="val01.png", words="like train's")
def a_training_image_slightly_changed_in_val(data: Data) -> None:
    picture(1).resize((32, 24)).resize((WIDTH, HEIGHT)).save(data.file("val01.png"))


@fault("shared-images", file="train01.png", also=("unlisted-images",), mended=True)
def a_training_image_listed_in_val(data: Data) -> None:
    data.val["images"][0]["file_name"] = "train01.png"


@fault("sliver-of-16-bits", words="brightest sample", mended=True)
def twelve_bits_of_sixteen(data: Data) -> None:
    grey = np.asarray(picture(1).convert("L")).astype(np.uint16) * 16
    Image.fromarray(grey).save(data.file())


@fault("blank-image")
def one_colour(data: Data) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(data.file())


@fault("elongated-image")
def a_panorama(data: Data) -> None:
    picture(1).resize((400, HEIGHT)).save(data.file())
    data.train["images"][0]["width"] = 400


@fault("huge-image", also=("mixed-sizes", "blank-image"))
def a_scan(data: Data) -> None:
    Image.new("1", (8000, 6300)).save(data.file())
    data.train["images"][0] |= {"width": 8000, "height": 6300}


@fault("mixed-sizes", file=None, words="from 64 to 640", also=("objects-small",))
def images_of_two_sources(data: Data) -> None:
    for number in range(1, 7):
        picture(number).resize((640, 480)).save(data.file(f"train{number:02}.png"))
        data.train["images"][number - 1] |= {"width": 640, "height": 480}


@fault("several-frames", file="a.gif")
def an_animation(data: Data) -> None:
    data.file().unlink()
    picture(1).save(data.file("a.gif"), save_all=True, append_images=[picture(50)])
    data.train["images"][0]["file_name"] = "a.gif"


@fault("unlisted-images", file="stray.png")
def an_image_that_nobody_lists(data: Data) -> None:
    picture(77).save(data.file("stray.png"))


# Annotations


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


@fault("no-objects", words="36 of them crowds", also=("mostly-crowds",))
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


# Classes


@fault("no-categories", file="train.json", also=("unknown-category", "no-annotations"))
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


# Splits and settings


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
