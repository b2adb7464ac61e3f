"""COCO-format JSON read into annotations, and validated once.

Format: https://cocodataset.org/#format-data (object detection, and image info without annotations).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detr.data.annotations import Annotations, as_objects, offsets_of
from detr.data.coco_json import (
    MAX_COORDINATE,
    Item,
    categories_of,
    check_sizes,
    flags,
    integers,
    is_coordinate,
    items_of,
    load,
    name_of,
    strings,
    unique,
)
from detr.data.segmentations import CocoSegmentations, read_segmentations
from detr.errors import UserError
from detr.files import uncollected

logger = logging.getLogger(__name__)

Masks = bool | Literal["where given"]
OF_IMAGES, OF_CATEGORIES = ("id", "file_name", "width", "height"), ("id", "name")
READ = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")  # of an annotation


def read_annotations(
    folders: Sequence[str],
    files: Sequence[str],
    *,
    require_annotations: bool = True,
    masks: Masks = False,
    extras: bool = False,
) -> Annotations:
    """Read and merge COCO files, boxes without area included.

    Args:
        folders: one image folder for all files, or one each.
        files: the annotations.
        require_annotations: whether a file must have annotations, not images only.
        masks: whether every annotation needs a valid "segmentation", or which it may have.
        extras: whether all other keys of annotations are kept.

    Raises:
        UserError: a file is missing, is no JSON or no COCO, contradicts itself or the others, or has no images.
    """
    if len(folders) not in (1, len(files)) or not files:
        raise UserError(
            f"{len(folders)} image folders for {len(files)} annotation files; "
            "give one folder for all of dataset.*.annotations, or one for each"
        )
    every_folder = list(folders) * len(files) if len(folders) == 1 else list(folders)
    tables = [
        _read_file(Path(file), Path(folder), require_annotations, masks, extras)
        for file, folder in zip(files, every_folder, strict=True)
    ]
    merged = tables[0] if len(tables) == 1 else _merge(tables, files)
    if not len(merged):
        raise UserError(f"{', '.join(files)}: no images; a data set needs at least one")
    return merged


def read_categories(files: Sequence[str]) -> dict[int, str]:
    """Read only the category table (id -> name) of COCO files. Raises UserError as `read_annotations`."""
    return _merge_categories([categories_of(Path(file), load(Path(file))) for file in files], files)


def _read_file(path: Path, folder: Path, require_annotations: bool, masks: Masks, extras: bool) -> Annotations:
    content = load(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such image folder; set dataset.root or dataset.*.images")
    with uncollected():
        return _table(path, folder, content, require_annotations, masks, extras)


def _table(
    path: Path, folder: Path, content: Item, require_annotations: bool, masks: Masks, extras: bool
) -> Annotations:
    categories = categories_of(path, content)
    images = items_of(path, content, "images")
    annotated = require_annotations or "annotations" in content
    items = items_of(path, content, "annotations") if annotated else []

    image_ids = unique(path, "image", integers(path, "image", images, "id"))
    sizes = np.stack([integers(path, "image", images, key) for key in ("height", "width")], axis=1)
    check_sizes(path, image_ids, sizes)
    files = _paths(folder, strings(path, "image", images, "file_name"))
    annotation_ids = unique(path, "annotation", integers(path, "annotation", items, "id"))
    owners = _owners(path, items, annotation_ids, image_ids)
    order = np.argsort(owners, kind="stable")
    boxes = _boxes(path, items)
    segmentations = None
    if masks:
        optional = masks == "where given"
        segmentations = read_segmentations(path, items, annotation_ids, sizes[owners], optional=optional).take(order)
    return Annotations(
        image_ids=image_ids,
        sizes=sizes,
        files=np.array(files, dtype=np.str_),
        offsets=offsets_of(np.bincount(owners, minlength=len(images))),
        annotation_ids=annotation_ids[order],
        category_ids=_category_ids(path, items, annotation_ids, categories)[order],
        boxes=boxes[order],
        areas=_areas(path, items, boxes)[order],
        crowd=flags(path, "annotation", items, "iscrowd")[order],
        categories=categories,
        annotated=annotated,
        segmentations=segmentations,
        extras=as_objects([_further(item) for item in items])[order] if extras else None,
    )


def unread(path: Path) -> Counter[str]:
    """Return which keys of images and categories are not read, and how often each is there."""
    content = load(path)
    counts: Counter[str] = Counter()
    for key, known in (("images", OF_IMAGES), ("categories", OF_CATEGORIES)):
        for item in items_of(path, content, key):
            counts.update(f'"{name}" of {key}' for name, value in item.items() if name not in known and value)
    return counts


def _further(item: Item) -> Item:
    return {key: value for key, value in item.items() if key not in READ}


def _paths(folder: Path, names: list[str]) -> list[str]:
    """The paths of images, as pathlib writes them."""
    start = str(folder / "x")[:-1]
    return [str(folder / name) if "/" in name or name.startswith(".") else start + name for name in names]


def _owners(
    path: Path, items: list[Item], annotation_ids: NDArray[np.int64], image_ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    references = integers(path, "annotation", items, "image_id")
    unknown = np.flatnonzero(~np.isin(references, image_ids))
    if len(unknown):
        row = unknown[0]
        raise UserError(
            f'{path}: annotation {annotation_ids[row]} points to image {references[row]}, which is not in "images"; '
            "add the image or remove the annotation"
        )
    order = np.argsort(image_ids)
    return order[np.searchsorted(image_ids, references, sorter=order)]


def _category_ids(
    path: Path, items: list[Item], annotation_ids: NDArray[np.int64], categories: Mapping[int, str]
) -> NDArray[np.int64]:
    ids = integers(path, "annotation", items, "category_id")
    unknown = np.flatnonzero(~np.isin(ids, np.array(list(categories), dtype=np.int64)))
    if len(unknown):
        row = unknown[0]
        raise UserError(
            f'{path}: annotation {annotation_ids[row]} has category {ids[row]}, which is not in "categories"; '
            "add the category or remove the annotation"
        )
    return ids


def _boxes(path: Path, items: list[Item]) -> NDArray[np.float64]:
    given: list[Any] = [item.get("bbox") for item in items]
    if set(map(type, given)) <= {list} and set(map(len, given)) <= {4}:
        boxes = _numbers(list(itertools.chain.from_iterable(given)))
        if boxes is not None and bool((np.abs(boxes) < MAX_COORDINATE).all()):
            return boxes.reshape(-1, 4)
    for position, item in enumerate(items):
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_coordinate, box)):
            found = f"got {str(box)[:60]}" if "bbox" in item else "but it is missing"
            raise UserError(
                f'{path}: annotation {name_of(item, position)}: "bbox": '
                f"expected four finite numbers (x, y, width, height in pixels), {found}"
            )
    return np.array(given, dtype=np.float64).reshape(-1, 4)


def _numbers(values: list[Any]) -> NDArray[np.float64] | None:
    """Numbers as they are given nearly always, without a look at each; None: one may be none."""
    if set(map(type, values)) <= {int, float}:
        with contextlib.suppress(OverflowError):
            return np.array(values, dtype=np.float64)
    return None


def _areas(path: Path, items: list[Item], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area evaluators sort objects by size with: as given, or of the box where it is not."""
    given = _numbers([item.get("area") for item in items])
    if given is not None and bool(((given >= 0) & (given < MAX_COORDINATE**2)).all()):
        return given
    areas = boxes[:, 2] * boxes[:, 3]
    for position, item in enumerate(items):
        area = item.get("area")
        if area is None:
            continue
        if not isinstance(area, (int, float)) or not 0 <= area < MAX_COORDINATE**2:
            raise UserError(
                f'{path}: annotation {name_of(item, position)}: "area": '
                f"expected a number of square pixels, or none (then it is that of the box), got {str(area)[:60]}"
            )
        areas[position] = area
    return areas


def _merge_categories(tables: Sequence[Mapping[int, str]], files: Sequence[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    ids: dict[str, int] = {}
    for table, file in zip(tables, files, strict=True):
        for category_id, name in table.items():
            if names.setdefault(category_id, name) != name or ids.setdefault(name, category_id) != category_id:
                known = f'{category_id} is "{names[category_id]}"' if names[category_id] != name else f"is {ids[name]}"
                raise UserError(
                    f'{file}: category {category_id} "{name}" contradicts an earlier file, where it {known}; '
                    "files of one split must share their categories"
                )
    return names


def _merge(tables: Sequence[Annotations], files: Sequence[str]) -> Annotations:
    categories = _merge_categories([table.categories for table in tables], files)
    segmentations = [table.segmentations for table in tables if isinstance(table.segmentations, CocoSegmentations)]
    extras = [table.extras for table in tables if table.extras is not None]
    return Annotations(
        image_ids=_distinct_image_ids(tables, files),
        sizes=np.concatenate([table.sizes for table in tables]),
        files=np.concatenate([table.files for table in tables]),
        offsets=offsets_of(np.concatenate([np.diff(table.offsets) for table in tables])),
        annotation_ids=np.concatenate([table.annotation_ids for table in tables]),
        category_ids=np.concatenate([table.category_ids for table in tables]),
        boxes=np.concatenate([table.boxes for table in tables]),
        areas=np.concatenate([table.areas for table in tables]),
        crowd=np.concatenate([table.crowd for table in tables]),
        categories=categories,
        annotated=any(table.annotated for table in tables),
        segmentations=CocoSegmentations.join(segmentations) if len(segmentations) == len(tables) else None,
        extras=None if len(extras) < len(tables) else np.concatenate(extras),
    )


def _distinct_image_ids(tables: Sequence[Annotations], files: Sequence[str]) -> NDArray[np.int64]:
    """The image ids of all files; one that an earlier file has already gets a fresh number."""
    fresh = max((int(table.image_ids.max()) for table in tables if len(table)), default=0) + 1
    seen: set[int] = set()
    result: list[NDArray[np.int64]] = []
    for table, file in zip(tables, files, strict=True):
        ids = table.image_ids.copy()
        clashing = np.flatnonzero([image_id in seen for image_id in ids.tolist()])
        if len(clashing):
            ids[clashing] = np.arange(fresh, fresh + len(clashing))
            logger.info("%s: %d image ids clash with an earlier file; renumbered from %d", file, len(clashing), fresh)
            fresh += len(clashing)
        seen.update(ids.tolist())
        result.append(ids)
    return np.concatenate(result)
