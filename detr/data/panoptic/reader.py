"""COCO's panoptic JSON read into compact arrays, and checked as far as it goes without its PNGs.

Format: https://cocodataset.org/#format-data (panoptic segmentation): an annotation an image, with the name of its PNG
and the segments in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.data.annotations import Annotations, offsets_of
from detr.data.coco_json import (
    Item,
    categories_of,
    check_sizes,
    flag_expected,
    integers,
    is_coordinate,
    is_flag,
    is_whole,
    items_of,
    load,
    strings,
    unique,
)
from detr.data.panoptic.segment_ids import MAX_ID
from detr.errors import UserError


@dataclass(frozen=True)
class PanopticJson:
    """Holds what a panoptic JSON says."""

    annotations: Annotations  # a row a segment; `annotation_ids` are the segments' ids, unique within an image only
    pngs: list[str]  # [I] names of the PNGs; none where the file lists images only
    things: dict[int, bool]  # category id -> whether it is a thing; else it is stuff


def read_panoptic(path: Path, folder: Path, *, require_annotations: bool = True) -> PanopticJson:
    """Read a panoptic JSON. `folder`: of the images.

    Raises:
        UserError: the file is missing, is no JSON or no COCO panoptic format, contradicts itself, or has no images.
    """
    content = load(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such image folder; set dataset.root or dataset.*.images")
    categories = categories_of(path, content)
    images = items_of(path, content, "images")
    if not images:
        raise UserError(f"{path}: no images; a data set needs at least one")
    image_ids = unique(path, "image", integers(path, "image", images, "id"))
    sizes = np.stack([integers(path, "image", images, key) for key in ("height", "width")], axis=1)
    check_sizes(path, image_ids, sizes)
    files = [str(folder / name) for name in strings(path, "image", images, "file_name")]
    annotated = require_annotations or "annotations" in content
    entries = _entries(path, content, image_ids) if annotated else []
    segments = _Segments(path, image_ids, entries)
    boxes = segments.boxes()
    return PanopticJson(
        annotations=Annotations(
            image_ids=image_ids,
            sizes=sizes,
            files=np.array(files, dtype=np.str_),
            offsets=offsets_of(segments.counts if annotated else np.zeros(len(images), dtype=np.int64)),
            annotation_ids=segments.ids(),
            category_ids=segments.category_ids(categories),
            boxes=boxes,
            areas=segments.areas(),
            crowd=segments.crowd(),
            categories=categories,
            annotated=annotated,
        ),
        pngs=strings(path, "annotation", entries, "file_name"),
        things=_things(path, content) if annotated else {},
    )


def read_things(path: Path) -> dict[int, bool]:
    """Read only which categories are things (category id -> isthing). Raises UserError as `read_panoptic`."""
    content = load(path)
    categories_of(path, content)
    return _things(path, content)


def _things(path: Path, content: Item) -> dict[int, bool]:
    """Category id -> isthing."""
    table = {}
    for category in items_of(path, content, "categories"):
        value = category.get("isthing")
        if value is None or not is_flag(value):
            found = f"got {str(value)[:60]!r}" if "isthing" in category else "but it is missing"
            raise UserError(
                f'{path}: category {category["id"]} ("{category["name"]}"): "isthing": '
                f"expected 1 (a thing) or 0 (stuff), {found}; write it without quotes"
            )
        table[int(category["id"])] = bool(value)
    return table


def _entries(path: Path, content: Item, image_ids: NDArray[np.int64]) -> list[Item]:
    """[I] the annotation of each image."""
    items = items_of(path, content, "annotations")
    if items and all("segments_info" not in item for item in items):
        raise UserError(
            f'{path}: not COCO panoptic format: no annotation has "segments_info"; '
            "use dataset=coco or dataset=custom for boxes and instance masks"
        )
    owners = integers(path, "annotation", items, "image_id").tolist()
    entry_of = dict(zip(owners, items, strict=True))
    if len(entry_of) < len(items):
        unique(path, "annotation of the image", np.array(owners, dtype=np.int64))
    for image_id in image_ids.tolist():
        if image_id not in entry_of:
            raise UserError(f'{path}: image {image_id} has no entry in "annotations"; add it or remove the image')
    if len(entry_of) > len(image_ids):
        stray = next(iter(entry_of.keys() - set(image_ids.tolist())))
        raise UserError(
            f'{path}: an annotation points to image {stray}, which is not in "images"; '
            "add the image or remove the annotation"
        )
    return [entry_of[image_id] for image_id in image_ids.tolist()]


class _Segments:
    """The segments of all images, one after the other."""

    def __init__(self, path: Path, image_ids: NDArray[np.int64], entries: list[Item]) -> None:
        self.path = path
        self.items: list[Item] = []
        self.counts = np.zeros(len(entries), dtype=np.int64)
        for index, (image_id, entry) in enumerate(zip(image_ids.tolist(), entries, strict=False)):
            found = entry.get("segments_info")
            if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
                raise UserError(f'{path}: image {image_id}: "segments_info": expected a list of objects')
            self.items += found
            self.counts[index] = len(found)
        self.owners = np.repeat(image_ids[: len(entries)], self.counts)

    def ids(self) -> NDArray[np.int64]:
        """[A] from 1 to 2²⁴ - 1, each once in its image."""
        values = self._values("id", _is_segment_id, f"a whole number from 1 (0 is void) to {MAX_ID}")
        ids = np.array(values, dtype=np.int64)
        both = self.owners * (MAX_ID + 1) + ids
        unique, first = np.unique(both, return_index=True)
        if len(unique) < len(both):
            position = int(np.setdiff1d(np.arange(len(both)), first)[0])
            raise UserError(
                f"{self._where(position)} is listed more than once; give every segment of an image its own id"
            )
        return ids

    def category_ids(self, categories: Mapping[int, str]) -> NDArray[np.int64]:
        """[A] each in the table of categories."""
        ids = [int(value) for value in self._values("category_id", is_whole, "a whole number")]
        for position, category_id in enumerate(ids):
            if category_id not in categories:
                raise UserError(
                    f'{self._where(position)} has category {category_id}, which is not in "categories"; '
                    "add the category or correct the segment"
                )
        return np.array(ids, dtype=np.int64)

    def boxes(self) -> NDArray[np.float64]:
        """[A, 4] xywh in pixels."""
        expected = "four finite numbers (x, y, width, height in pixels)"
        return np.array(self._values("bbox", _is_box, expected), dtype=np.float64).reshape(-1, 4)

    def areas(self) -> NDArray[np.float64]:
        """[A] in square pixels."""
        expected = "the segment's number of pixels, at least 1 (remove a segment without pixels)"
        return np.array(self._values("area", _is_area, expected), dtype=np.float64)

    def crowd(self) -> NDArray[np.bool_]:
        """[A]; none where nothing is said."""
        for position, item in enumerate(self.items):
            if not is_flag(item.get("iscrowd")):
                raise UserError(f"{self._where(position)}: {flag_expected('iscrowd', item['iscrowd'])}")
        return np.array([bool(item.get("iscrowd")) for item in self.items], dtype=np.bool_)

    def _values(self, key: str, valid: Callable[[Any], bool], expected: str) -> list[Any]:
        for position, item in enumerate(self.items):
            if not valid(item.get(key)):
                found = f"got {str(item[key])[:60]}" if key in item else "but it is missing"
                raise UserError(f'{self._where(position)}: "{key}": expected {expected}, {found}')
        return [item[key] for item in self.items]

    def _where(self, position: int) -> str:
        name = self.items[position].get("id", f"number {position}")
        return f"{self.path}: segment {name} of image {self.owners[position]}"


def _is_segment_id(value: Any) -> bool:
    return is_whole(value) and 1 <= value <= MAX_ID


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_coordinate, value))


def _is_area(value: Any) -> bool:
    return not isinstance(value, bool) and is_coordinate(value) and value > 0
