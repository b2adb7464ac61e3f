"""A split as COCO's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detr.data.annotations import Annotations
from detr.data.converting.losses import Losses
from detr.data.segmentations import NOTHING, POLYGONS, CocoSegmentations
from detr.files import write_json


def write_coco(
    folder: Path, name: str, annotations: Annotations, names: Mapping[str, str], losses: Losses
) -> dict[str, str]:
    """Write annotations/NAME.json, and return where in `folder` each image belongs: file → path.

    Args:
        folder: of the data set.
        name: of the split.
        annotations: of it.
        names: file → distinct name of the image.
        losses: what changes on the way.
    """
    ids = category_ids(annotations, losses)
    owners = annotations.image_ids[annotations.image_index].tolist()
    unique = len(np.unique(annotations.annotation_ids)) == len(annotations.annotation_ids)
    if not unique:
        losses.add("{} annotations are numbered anew, since their ids are not unique", len(annotations.annotation_ids))
    numbers = annotations.annotation_ids.tolist() if unique else range(1, len(owners) + 1)
    items = [
        {
            "id": number,
            "image_id": owners[row],
            "category_id": ids[int(annotations.category_ids[row])],
            "bbox": [_plain(value) for value in annotations.boxes[row].tolist()],
            "area": _plain(float(annotations.areas[row])),
            "iscrowd": int(annotations.crowd[row]),
            "segmentation": _segmentation(annotations, row, owner),
            **({} if annotations.extras is None else annotations.extras[row]),
        }
        for row, (number, owner) in enumerate(zip(numbers, annotations.image_index.tolist(), strict=True))
    ]
    content: dict[str, Any] = {
        "info": {},
        "images": [
            {"id": image_id, "file_name": f"{name}/{names[file]}", "width": width, "height": height}
            for image_id, file, (height, width) in zip(
                annotations.image_ids.tolist(), annotations.files.tolist(), annotations.sizes.tolist(), strict=True
            )
        ],
        "categories": [{"id": ids[each], "name": label} for each, label in sorted(annotations.categories.items())],
    }
    if annotations.annotated:
        content["annotations"] = items
    write_json(folder / "annotations" / f"{name}.json", content)
    return {file: f"images/{name}/{names[file]}" for file in annotations.files.tolist()}


def category_ids(annotations: Annotations, losses: Losses) -> dict[int, int]:
    """Return the ids of the data set → those in the JSON: the same, but from 1 where YOLO's begin with 0."""
    shift = int(0 in annotations.categories)
    if shift:
        losses.once("{} categories are counted from 1, as in COCO, instead of 0", len(annotations.categories))
    return {each: each + shift for each in annotations.categories}


def _segmentation(annotations: Annotations, row: int, owner: int) -> Any:
    masks = annotations.segmentations
    if not isinstance(masks, CocoSegmentations) or masks.kinds[row] == NOTHING:
        return []
    if masks.kinds[row] == POLYGONS:
        return [[_plain(value) for value in polygon] for polygon in masks.polygons(row)]
    height, width = annotations.sizes[owner].tolist()
    return masks.rles(slice(row, row + 1), (height, width))[0]


def _plain(value: float) -> float | int:
    """A number as people write it: 12 for 12.0."""
    return int(value) if value.is_integer() else value
