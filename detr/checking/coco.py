"""COCO JSON read past every mistake, so that all of them are told; `detr.data.coco_reader` stops at the first."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detr.checking.finding import MAX_DETAIL, Faults, Kind, Place, shown
from detr.checking.masks import examine
from detr.checking.records import Records
from detr.data.coco_json import MAX_COORDINATE, is_coordinate, is_flag, is_whole, load
from detr.errors import UserError

Item = dict[str, Any]

FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "null": 0, "none": 0, "": 0}  # as texts

ANNOTATION_FILE = Kind(
    "annotation-file", "error", "annotation file that cannot be used", "what it should have is not checked"
)
NO_IMAGES = Kind("no-images", "error", "annotation file without images", "list the images, or leave the file out")
MALFORMED_IMAGE = Kind("malformed-image", "error", "images with a wrong entry", "correct the entries")
MALFORMED_ANNOTATION = Kind(
    "malformed-annotation", "error", "annotations with a wrong entry", "correct or remove the annotations"
)
MALFORMED_CATEGORY = Kind("malformed-category", "error", "categories with a wrong entry", "correct the entries")
NUMBER_AS_TEXT = Kind("number-as-text", "error", "numbers in quotes", "write them without quotes; fix=true does")
FLAG_AS_TEXT = Kind(
    "flag-as-text", "error", 'values of "iscrowd" that are no flag', "write 0 or 1; fix=true does where it is clear"
)
NOT_FINITE = Kind("box-not-finite", "error", "boxes with NaN or infinity", "draw them again; fix=true removes them")
NO_BOX = Kind("box-missing", "error", "annotations without a box", "add it; fix=true takes it from the mask")
KEYPOINTS_ONLY = Kind(
    "keypoints-only", "error", "annotations with keypoints but no box", "export with boxes; fix=true removes them"
)
SAME_IMAGE_ID = Kind("duplicate-image-id", "error", "image ids that occur twice", "give every image its own id")
SAME_ANNOTATION_ID = Kind(
    "duplicate-annotation-id", "error", "annotation ids that occur twice", "number them anew; fix=true does"
)
SAME_CATEGORY_ID = Kind("duplicate-category-id", "error", "category ids that occur twice", "give each its own id")
UNKNOWN_IMAGE = Kind(
    "unknown-image",
    "error",
    'annotations of an image that is not in "images"',
    "add the image, or remove them; fix=true removes them",
)
UNKNOWN_CATEGORY = Kind(
    "unknown-category",
    "error",
    'annotations of a category that is not in "categories"',
    "add the category (are the ids off by one?), or remove them; fix=true removes them",
)
SAME_NAME = Kind(
    "duplicate-category-name", "error", "categories of the same name", "rename one, or merge them; fix=true merges them"
)
EMPTY_NAME = Kind("empty-category-name", "error", "categories without a name", "name them")
NO_CATEGORIES = Kind("no-categories", "error", "annotation file without categories", "list the categories")


def read_coco(split: str, folders: Sequence[str], files: Sequence[str], faults: Faults, *, masks: bool) -> Records:
    """Read the COCO files of a split; what is wrong with them goes to `faults`, and what can be read comes back.

    Args:
        split: its name.
        folders: of the images: one for all files, or one each.
        files: the annotations.
        faults: what is found.
        masks: whether a training would read the masks.
    """
    every_folder = list(folders) * len(files) if len(folders) == 1 else list(folders)
    readers = []
    for file, folder in zip(files, every_folder, strict=False):
        reader = _File(Path(file), folder, faults, masks)
        reader.read()
        readers.append(reader)
    starts = np.cumsum([0, *(len(each.ids) for each in readers)])
    owners = [np.array(each.owners, dtype=np.int64) + start for each, start in zip(readers, starts, strict=False)]

    def joined(name: str, dtype: type) -> Any:
        return np.concatenate([np.zeros(0, dtype), *(np.array(getattr(each, name), dtype=dtype) for each in readers)])

    return Records(
        split=split,
        source=", ".join(files),
        image_ids=joined("ids", np.int64),
        sizes=joined("sizes", np.int64).reshape(-1, 2),
        files=np.array([name for each in readers for name in each.names], dtype=np.str_),
        owners=np.concatenate([np.zeros(0, np.int64), *owners]),
        annotation_ids=joined("annotation_ids", np.int64),
        category_ids=joined("category_ids", np.int64),
        boxes=joined("boxes", np.float64).reshape(-1, 4),
        areas=joined("areas", np.float64),
        mask_areas=joined("mask_areas", np.float64),
        crowd=joined("crowd", np.bool_),
        categories={number: name for each in readers for number, name in each.categories.items()},
        annotated=any(each.annotated for each in readers),
    )


class _File:
    """Reads one file; its lists become columns of `Records`."""

    def __init__(self, path: Path, folder: str, faults: Faults, masks: bool) -> None:
        self.path, self.folder, self.faults, self.masks = path, folder, faults, masks
        self.categories: dict[int, str] = {}
        self.annotated = False
        self.index_of: dict[int, int] = {}
        self.names: list[str] = []
        self.ids, self.sizes = array("q"), array("q")
        self.owners, self.annotation_ids, self.category_ids = array("q"), array("q"), array("q")
        self.boxes, self.areas, self.mask_areas, self.crowd = array("d"), array("d"), array("d"), array("b")
        self.seen: set[int] = set()  # ids of annotations

    def read(self) -> None:
        try:
            content = load(self.path)
        except UserError as error:
            self.fault(ANNOTATION_FILE, str(error).removeprefix(f"{self.path}: ")[:MAX_DETAIL])
            return
        for position, item in enumerate(self.items(content, "categories")):
            self.category(item, f"category number {position}")
        if content.get("categories") == []:
            self.fault(NO_CATEGORIES)
        for position, item in enumerate(self.items(content, "images")):
            self.image(item, position)
        if not self.ids and isinstance(content.get("images"), list):
            self.fault(NO_IMAGES)
        if "annotations" in content or self.faults.split != "test":
            self.annotated = isinstance(content.get("annotations"), list)
            for position, item in enumerate(self.items(content, "annotations")):
                self.annotation(item, position)

    def fault(self, kind: Kind, detail: str = "", **place: Any) -> None:
        self.faults.add(kind, Place(**({"file": str(self.path)} | place), detail=detail))

    def items(self, content: Item, key: str) -> Iterable[Any]:
        items = content.get(key)
        if isinstance(items, list):
            return items
        got = f"got {shown(items)}" if key in content else "but it is missing"
        self.fault(ANNOTATION_FILE, f'not COCO format: "{key}": expected a list of objects, {got}')
        return []

    def category(self, item: Any, place: str) -> None:
        if not isinstance(item, dict):
            self.fault(MALFORMED_CATEGORY, f"{place}: {shown(item)}")
            return
        number, name = item.get("id"), item.get("name")
        if not is_whole(number):
            kind = NUMBER_AS_TEXT if _is_text_number(number) else MALFORMED_CATEGORY
            self.fault(kind, f'{place}: "id": {shown(number)}')
        elif not isinstance(name, str):
            self.fault(MALFORMED_CATEGORY, f'category {number}: "name": {shown(name)}')
        elif int(number) in self.categories:  # type: ignore[arg-type]
            self.fault(SAME_CATEGORY_ID, f'category {number}: "{self.categories[int(number)]}" and "{name}"')  # type: ignore[arg-type]
        else:
            if not name.strip():
                self.fault(EMPTY_NAME, f"category {number}")
            other = next((known for known, each in self.categories.items() if each == name), None)
            if other is not None:
                self.fault(SAME_NAME, f'categories {other} and {number}: "{name}"')
            self.categories[int(number)] = name  # type: ignore[arg-type]

    def image(self, item: Any, position: int) -> None:
        if not isinstance(item, dict):
            self.fault(MALFORMED_IMAGE, f"number {position}: {shown(item)}")
            return
        number, name = item.get("id"), item.get("file_name")
        file = str(Path(self.folder) / name) if isinstance(name, str) and name else None
        known = number if isinstance(number, int) else None
        for key in ("id", "height", "width"):
            value = item.get(key)
            if not is_whole(value) or (key != "id" and value <= 0):  # type: ignore[operator]
                kind = NUMBER_AS_TEXT if _is_text_number(value) else MALFORMED_IMAGE
                self.fault(kind, f'"{key}": {shown(value)}', file=file or str(self.path), image_id=known)
                item = item | {key: None}
        if file is None:
            self.fault(MALFORMED_IMAGE, f'"file_name": {shown(name)}', image_id=known)
        if item["id"] is None or file is None:
            return
        if int(item["id"]) in self.index_of:
            self.fault(SAME_IMAGE_ID, file=file, image_id=int(item["id"]))
        self.index_of.setdefault(int(item["id"]), len(self.ids))
        self.ids.append(int(item["id"]))
        self.sizes.extend((int(item["height"] or 0), int(item["width"] or 0)))
        self.names.append(file)

    def annotation(self, item: Any, position: int) -> None:
        if not isinstance(item, dict):
            self.fault(MALFORMED_ANNOTATION, f"number {position}: {shown(item)}")
            return
        where: dict[str, Any] = {"annotation_id": item["id"] if isinstance(item.get("id"), int) else position}
        owner = self.index_of.get(item["image_id"]) if is_whole(item.get("image_id")) else None
        if owner is not None:
            where |= {"file": self.names[owner], "image_id": self.ids[owner]}
        sound = True
        for key in ("id", "image_id", "category_id"):
            if not is_whole(item.get(key)):
                kind = NUMBER_AS_TEXT if _is_text_number(item.get(key)) else MALFORMED_ANNOTATION
                self.fault(kind, f'"{key}": {shown(item.get(key))}', **where)
                sound = False
        if sound and owner is None:
            self.fault(UNKNOWN_IMAGE, f"image {item['image_id']}", **where)
        if sound and int(item["category_id"]) not in self.categories:
            self.fault(UNKNOWN_CATEGORY, f"category {item['category_id']}", **where)
            sound = False
        if sound and int(item["id"]) in self.seen:
            self.fault(SAME_ANNOTATION_ID, **where)
        if not is_flag(item.get("iscrowd")):
            self.fault(FLAG_AS_TEXT, f'"iscrowd": {shown(item["iscrowd"])}', **where)
        if self.box(item, where) and sound and owner is not None:
            self.keep(item, owner, where)

    def box(self, item: Item, where: dict[str, Any]) -> bool:
        """Whether there is one, with an area that is a number."""
        box, area = item.get("bbox"), item.get("area")
        if area is not None and not (isinstance(area, (int, float)) and 0 <= area < MAX_COORDINATE**2):
            kind = NUMBER_AS_TEXT if _is_text_number(area) else MALFORMED_ANNOTATION
            self.fault(kind, f'"area": {shown(area)}', **where)
            item["area"] = None
        if isinstance(box, list) and len(box) == 4 and all(map(is_coordinate, box)):
            return True
        if not box:
            kind = KEYPOINTS_ONLY if item.get("keypoints") else NO_BOX
        elif not isinstance(box, list) or len(box) != 4:
            kind = MALFORMED_ANNOTATION
        elif all(is_coordinate(each) or _is_text_number(each) for each in box):
            kind = NUMBER_AS_TEXT
        else:
            kind = NOT_FINITE if all(isinstance(each, (int, float)) for each in box) else MALFORMED_ANNOTATION
        self.fault(kind, f'"bbox": {shown(box)}', **where)
        return False

    def keep(self, item: Item, owner: int, where: dict[str, Any]) -> None:
        self.seen.add(int(item["id"]))
        self.owners.append(owner)
        self.annotation_ids.append(int(item["id"]))
        self.category_ids.append(int(item["category_id"]))
        self.boxes.extend(item["bbox"])
        self.areas.append(float("nan") if item.get("area") is None else item["area"])
        self.crowd.append(flag_of(item.get("iscrowd")) == 1)
        size = (self.sizes[2 * owner], self.sizes[2 * owner + 1])
        area = float("nan")
        if self.masks or item.get("segmentation"):
            fault, area = examine(item.get("segmentation"), size, item["bbox"], needed=self.masks)
            if fault is not None:
                self.fault(*fault, **where)
        self.mask_areas.append(area)


def flag_of(value: object) -> int | None:
    """Return 0 or 1 for a flag, also for one in quotes; None where it is unclear what is meant."""
    if is_flag(value):
        return int(bool(value))
    return FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def _is_text_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return abs(float(value)) < MAX_COORDINATE
    except ValueError:
        return False
