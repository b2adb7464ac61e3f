"""What can be mended in the entries of COCO JSON. Each function changes them in place and yields a line a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import hotcoco.mask
import numpy as np

from detr.checking.boxes import CENTRES, CORNERS, EXCHANGED, FRACTIONS, convention_of, same_boxes, wrong_areas
from detr.checking.classes import ROOT_NAMES
from detr.checking.coco import flag_of
from detr.checking.masks import MIN_AREA
from detr.checking.records import Records
from detr.data.coco_json import is_coordinate, is_flag, is_whole

Item = dict[str, Any]

NUMBERS = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "area"),
    "categories": ("id",),
}


def mend_entries(content: Item) -> Iterator[str]:
    """Mend every entry by itself: numbers and flags as text, boxes that can be had from masks."""
    for kind, keys in NUMBERS.items():
        for item in content[kind]:
            for key in keys:
                if isinstance(item.get(key), str):
                    number = _number(item[key])
                    if number is not None:
                        yield f"{kind[:-1]} {item.get('id')}: {key} {item[key]!r} → {number}"
                        item[key] = number
    for item in content["annotations"]:
        name = f"annotation {item.get('id')}"
        crowd = item.get("iscrowd")
        if not is_flag(crowd) and flag_of(crowd) is not None:
            item["iscrowd"] = flag_of(crowd)
            yield f"{name}: iscrowd {crowd!r} → {item['iscrowd']}"
        box = item.get("bbox")
        if isinstance(box, list) and any(isinstance(each, str) for each in box):
            numbers = [_number(each) if isinstance(each, str) else each for each in box]
            if None not in numbers:
                item["bbox"] = numbers
                yield f"{name}: bbox {box} → {numbers}"
        yield from _mend_mask(item, name)


def _mend_mask(item: Item, name: str) -> Iterator[str]:
    polygons = item.get("segmentation")
    if isinstance(polygons, list) and polygons:
        kept = [each for each in polygons if _has_inside(each)]
        if len(kept) < len(polygons):
            yield f"{name}: {len(polygons) - len(kept)} of {len(polygons)} polygons without an inside removed"
            item["segmentation"] = kept
    if not item.get("bbox") and item.get("segmentation"):
        bounds = _bounds(item["segmentation"])
        if bounds is not None:
            item["bbox"] = bounds
            yield f"{name}: box {bounds} from its mask"


def mend_references(content: Item) -> Iterator[str]:
    """Drop annotations that belong to nothing or have no box; merge categories of one name; number what clashes."""
    by_name: dict[str, Any] = {}
    merged: dict[Any, Any] = {}
    for category in list(content["categories"]):
        first = by_name.setdefault(category.get("name"), category.get("id"))
        if first != category.get("id"):
            merged[category.get("id")] = first
            content["categories"].remove(category)
            yield f"category {category.get('id')} merged into {first}, which has the same name {category['name']!r}"
    images = {item.get("id") for item in content["images"]}
    categories = {item.get("id") for item in content["categories"]}
    kept, taken = [], set()
    fresh = 1 + max((item["id"] for item in content["annotations"] if is_whole(item.get("id"))), default=0)
    for item in content["annotations"]:
        item["category_id"] = merged.get(item.get("category_id"), item.get("category_id"))
        box = item.get("bbox")
        reason = ""
        if item.get("image_id") not in images:
            reason = f"image {item.get('image_id')} is not listed"
        elif item["category_id"] not in categories:
            reason = f"category {item['category_id']} is not listed"
        elif not (isinstance(box, list) and len(box) == 4 and all(map(is_coordinate, box))):
            reason = f"its box is {box}"
        if reason:
            yield f"annotation {item.get('id')} removed: {reason}"
            continue
        if item.get("id") in taken or not is_whole(item.get("id")):
            yield f"annotation {item.get('id')} becomes {fresh}"
            item["id"] = fresh
            fresh += 1
        taken.add(item["id"])
        kept.append(item)
    content["annotations"] = kept
    used = {item["category_id"] for item in kept}
    for category in list(content["categories"]):
        root = category["id"] == 0 or category.get("name") in ROOT_NAMES
        others = {each["id"] for each in content["categories"]} - {category["id"]}
        if root and category["id"] not in used and others and others <= used:
            content["categories"].remove(category)
            yield f"category {category['id']} {category['name']!r} removed: no annotation has it"


def mend_convention(content: Item, records: Records) -> Iterator[str]:
    """Convert all boxes where they are in another convention, again until they are in COCO's."""
    kind = convention_of(records)
    for row, item in enumerate(content["annotations"]):
        width, height = (float(side) for side in records.frames[row])
        a, b, c, d = item["bbox"]
        boxes = {
            CORNERS: [a, b, c - a, d - b],
            CENTRES: [a - c / 2, b - d / 2, c, d],
            EXCHANGED: [b, a, d, c],
            FRACTIONS: [a * width, b * height, c * width, d * height],
        }
        if kind in boxes:
            item["bbox"] = [round(value, 4) for value in boxes[kind]]
    if kind is not None:
        yield f"{len(content['annotations'])} boxes converted: they were {kind.name}"


def mend_boxes(content: Item, records: Records) -> Iterator[str]:
    """Clip boxes to their images; drop those without area, and the second one of the same object."""
    first, second = same_boxes(records)
    again = dict(zip(second.tolist(), first.tolist(), strict=True))
    kept = []
    for row, item in enumerate(content["annotations"]):
        left, top, right, bottom = records.corners[row].tolist()
        width, height = records.frames[row].tolist()
        clipped = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
        if right <= left or bottom <= top or clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            yield f"annotation {item['id']} removed: box {item['bbox']} has no area inside the image"
            continue
        if row in again and content["annotations"][again[row]]["category_id"] == item["category_id"]:
            yield f"annotation {item['id']} removed: it is annotation {content['annotations'][again[row]]['id']} again"
            continue
        if clipped != [left, top, right, bottom]:
            box = [round(each, 4) for each in (*clipped[:2], clipped[2] - clipped[0], clipped[3] - clipped[1])]
            yield f"annotation {item['id']}: box {item['bbox']} clipped to {box}"
            item["bbox"] = box
        kept.append(item)
    content["annotations"] = kept


def mend_areas(content: Item, records: Records) -> Iterator[str]:
    """Compute areas anew that fit neither box nor mask."""
    for row in np.flatnonzero(wrong_areas(records)).tolist():
        item = content["annotations"][row]
        mask = records.mask_areas[row]
        area = float(mask if np.isfinite(mask) else item["bbox"][2] * item["bbox"][3])
        yield f"annotation {item['id']}: area {item['area']} → {area:g}"
        item["area"] = area


def mend_categories(content: Item, train: Mapping[str, int]) -> Iterator[str]:
    """Give categories the ids that train has for their names."""
    changed = {
        item["id"]: train[item["name"]]
        for item in content["categories"]
        if item["name"] in train and train[item["name"]] != item["id"]
    }
    if not changed:
        return
    free = [item["id"] for item in content["categories"] if item["id"] not in changed]
    if set(free) & set(changed.values()):
        yield f"categories {changed} left as they are: train's ids are taken by others"
        return
    for item in content["categories"]:
        item["id"] = changed.get(item["id"], item["id"])
    for item in content["annotations"]:
        item["category_id"] = changed.get(item["category_id"], item["category_id"])
    yield f"category ids {', '.join(f'{old} → {new}' for old, new in changed.items())}, as in train"


def _number(text: str) -> int | float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _has_inside(polygon: Any) -> bool:
    try:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return True  # not a polygon at all, which is another fault
    x, y = points.T
    return len(points) >= 3 and abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2 >= MIN_AREA


def _bounds(segmentation: Any) -> list[float] | None:
    """xywh around a mask; None where it cannot be read."""
    try:
        if isinstance(segmentation, dict):
            rle = segmentation
            if isinstance(rle["counts"], list):
                rle = hotcoco.mask.frPyObjects(rle, *rle["size"])
            return [float(value) for value in hotcoco.mask.toBbox(rle)]
        points = np.concatenate([np.asarray(each, dtype=np.float64).reshape(-1, 2) for each in segmentation])
    except (TypeError, ValueError, KeyError):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]
