"""The annotations of a split as compact arrays, whatever format they were read from: cheap to hand to workers."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.data.segmentations import RLE, Segmentations
from detr.errors import UserError

logger = logging.getLogger(__name__)

MAX_WARNINGS = 5  # of one kind; the others are counted


@dataclass(frozen=True)
class Annotations:
    """Holds I images and their A annotations, by image. Arrays, not objects, so that forked workers share them."""

    image_ids: NDArray[np.int64]  # [I]
    sizes: NDArray[np.int64]  # [I, 2] (height, width), as the file says
    files: NDArray[np.str_]  # [I] paths of the images
    offsets: NDArray[np.int64]  # [I + 1] image i owns annotations offsets[i] … offsets[i + 1] - 1
    annotation_ids: NDArray[np.int64]  # [A] as in the file; unique within a file only
    category_ids: NDArray[np.int64]  # [A]
    boxes: NDArray[np.float64]  # [A, 4] xywh in pixels, as in the file
    areas: NDArray[np.float64]  # [A] in square pixels: of the mask where there is one
    crowd: NDArray[np.bool_]  # [A]
    categories: dict[int, str]  # id -> name
    annotated: bool  # False: images only, as COCO's image_info files
    segmentations: Segmentations | None = None  # [A] the masks; None: nobody asked for them
    extras: NDArray[np.object_] | None = None  # [A] a dict each: what else the file says; None: nobody asked for it

    @classmethod
    def of_boxes(
        cls,
        *,
        files: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        image_index: Sequence[int],
        boxes: Sequence[Sequence[float]],
        category_ids: Sequence[int],
        categories: dict[int, str],
        areas: Sequence[float] | None = None,
        crowd: Sequence[bool] | None = None,
        segmentations: Segmentations | None = None,
        extras: Sequence[dict[str, Any]] | None = None,
        annotated: bool = True,
    ) -> Annotations:
        """Return the annotations of a format that lists boxes. Images and boxes are numbered from 1.

        Args:
            files: [I] paths of the images.
            sizes: [I] (height, width) of each in pixels.
            image_index: [A] which image each box is in, from 0; in any order.
            boxes: [A] x, y, width and height of each in pixels.
            category_ids: [A].
            categories: id → name.
            areas: [A] in square pixels; None: those of the boxes.
            crowd: [A] whether it is a region to ignore; None: none of them is.
            segmentations: [A] the masks.
            extras: [A] what else the files say.
            annotated: whether there are annotations, not images only.

        Raises:
            UserError: there are no images.
        """
        if not files:
            raise UserError("no images; a data set needs at least one")
        owners = np.asarray(image_index, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        sorted_boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[order]
        return cls(
            image_ids=np.arange(1, len(files) + 1),
            sizes=np.asarray(sizes, dtype=np.int64).reshape(-1, 2),
            files=np.asarray(files, dtype=np.str_),
            offsets=offsets_of(np.bincount(owners, minlength=len(files))),
            annotation_ids=order + 1,
            category_ids=np.asarray(category_ids, dtype=np.int64)[order],
            boxes=sorted_boxes,
            areas=sorted_boxes[:, 2] * sorted_boxes[:, 3] if areas is None else np.asarray(areas, np.float64)[order],
            crowd=np.zeros(len(order), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)[order],
            categories=categories,
            annotated=annotated,
            segmentations=None if segmentations is None else segmentations.take(order),
            extras=None if extras is None else as_objects(extras)[order],
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_index(self) -> NDArray[np.int64]:
        """Return [A] which image each annotation belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def objects(self, index: int) -> slice:
        """Return the annotations of one image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def keep(self, mask: NDArray[np.bool_]) -> Annotations:
        """Return a copy without the annotations whose entry in `mask` [A] is False."""
        counts = np.bincount(self.image_index[mask], minlength=len(self))
        return replace(
            self,
            offsets=offsets_of(counts),
            annotation_ids=self.annotation_ids[mask],
            category_ids=self.category_ids[mask],
            boxes=self.boxes[mask],
            areas=self.areas[mask],
            crowd=self.crowd[mask],
            segmentations=None if self.segmentations is None else self.segmentations.take(mask),
            extras=None if self.extras is None else self.extras[mask],
        )

    def subset(self, indices: Sequence[int]) -> Annotations:
        """Return only these images, in this order, with their annotations."""
        chosen = np.asarray(indices, dtype=np.int64)
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen]
        order = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        return replace(
            self,
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            files=self.files[chosen],
            offsets=offsets_of(np.array([len(row) for row in rows], dtype=np.int64)),
            annotation_ids=self.annotation_ids[order],
            category_ids=self.category_ids[order],
            boxes=self.boxes[order],
            areas=self.areas[order],
            crowd=self.crowd[order],
            segmentations=None if self.segmentations is None else self.segmentations.take(order),
            extras=None if self.extras is None else self.extras[order],
        )

    def corners(self) -> NDArray[np.float32]:
        """Return [A, 4] xyxy, clipped to the image; float32 sums, as in datasets/coco.py of facebookresearch/detr."""
        corners = self.boxes.astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        height, width = self.sizes[self.image_index].astype(np.float32).T
        corners[:, 0::2] = np.clip(corners[:, 0::2], 0, width[:, None])
        corners[:, 1::2] = np.clip(corners[:, 1::2], 0, height[:, None])
        return corners

    def without_empty_boxes(self) -> Annotations:
        """Return a copy without the boxes that have no area inside the image, each of which is warned of."""
        corners = self.corners()
        has_area = np.all(corners[:, 2:] > corners[:, :2], axis=1)
        owners = self.files[self.image_index]
        messages = []
        for position in np.flatnonzero(~has_area):
            box = ", ".join(f"{value:g}" for value in self.boxes[position])
            messages.append(
                f"annotation {self.annotation_ids[position]} of image {owners[position]} is dropped: "
                f"its box [{box}] has no area inside the image"
            )
        warn_each(messages, "boxes without area are dropped")
        return self.keep(has_area)

    def to_coco(self) -> dict[str, Any]:
        """Return a COCO dictionary for evaluators: boxes as in the file, crowds included, original category ids.

        Where masks were read, each annotation has its "segmentation" as compressed run lengths. Annotations are
        numbered from 1: pycocotools takes the id 0 for "not matched", and ids of merged files may clash.
        """
        names = [Path(file).name for file in self.files]
        images = [
            {"id": int(image_id), "file_name": name, "height": int(height), "width": int(width)}
            for image_id, name, (height, width) in zip(self.image_ids, names, self.sizes, strict=True)
        ]
        owners = self.image_ids[self.image_index]
        annotations = [
            {
                "id": number + 1,
                "image_id": int(owners[number]),
                "category_id": int(self.category_ids[number]),
                "bbox": self.boxes[number].tolist(),
                "area": float(self.areas[number]),
                "iscrowd": int(self.crowd[number]),
            }
            for number in range(len(self.boxes))
        ]
        categories = [{"id": category_id, "name": name} for category_id, name in sorted(self.categories.items())]
        for annotation, rle in zip(annotations, self._rles(), strict=False):
            annotation["segmentation"] = rle
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def digest(self) -> str:
        """Return the SHA-256 of what a training or an evaluation depends on, wherever the images lie."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{os.path.basename(file)}\n".encode())
        for array in (self.image_ids, self.sizes, self.offsets, self.category_ids, self.boxes, self.areas, self.crowd):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _rles(self) -> Iterator[RLE]:
        """[A] all masks, image by image; nothing where nobody asked for them."""
        if self.segmentations is not None:
            for index, (height, width) in enumerate(self.sizes.tolist()):
                yield from self.segmentations.rles(self.objects(index), (height, width))


def as_objects(items: Sequence[dict[str, Any]]) -> NDArray[np.object_]:
    """Return [A] the dictionaries as an array, which can be indexed as all others."""
    found = np.empty(len(items), dtype=np.object_)
    found[:] = items
    return found


def offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert [I] annotations of each image → [I + 1] where they begin and end, as `Annotations.offsets`."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def check_images_exist(files: Iterable[str], source: str, *, key: str = "dataset.*.images") -> None:
    """Raise UserError if a file is missing; `key` names its folder. Lists each folder once."""
    by_folder: dict[str, list[str]] = {}
    for folder, name in map(os.path.split, files):
        by_folder.setdefault(folder, []).append(name)
    missing: list[Path] = []
    for folder, names in by_folder.items():
        present = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        missing += [Path(folder, name) for name in names if name not in present]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}{others}: missing, but listed in {source}; check {key}")


def warn_each(messages: Sequence[str], summary: str) -> None:
    """Log the first warnings one by one, and how many others there are."""
    for message in messages[:MAX_WARNINGS]:
        logger.warning(message)
    if len(messages) > MAX_WARNINGS:
        logger.warning("%d other %s", len(messages) - MAX_WARNINGS, summary)
