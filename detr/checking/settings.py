"""A data set against the config that it is to be trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms import v2

from detr.checking.boxes import convention_of
from detr.checking.finding import Finding, Kind, Place
from detr.checking.records import Records
from detr.config import build
from detr.data.transforms import ResizeShortSide, ResizeSquare, ShrinkLongSide, long_side_size, short_side_size

TOO_SMALL = Kind(
    "objects-too-small",
    "hint",
    "objects that are smaller than 8 pixels at the size that the detector sees, which it hardly finds",
    "scale the images down less",
)
SMALL = Kind(
    "objects-small",
    "hint",
    "objects that are smaller than 16 pixels at the size that the detector sees, which it finds badly",
    "scale the images down less",
)
TOO_MANY = Kind(
    "more-objects-than-queries",
    "error",
    "images with more objects than the detector has queries",
    "set queries.num_queries",
)
CUT_OFF = Kind(
    "more-objects-than-detections",
    "damage",
    "images with more objects than evaluator.detections_per_image: the others count as missed",
    "set evaluator.detections_per_image",
)
LARGE_BATCH = Kind("batch-larger-than-split", "hint", "a batch is larger than the split", "set dataloader.batch_size")
SIDES = Kind(
    "classes-of-sides",
    "damage",
    "classes that tell left from right, but the augmentation flips images without exchanging them",
    "set augmentation=none, or merge the classes",
)

# Pixels (geometric mean of a box's sides; the finest level of most detectors has a stride of 8), and which share of the
# objects may be smaller: some are in every data set.
LIMITS = {TOO_SMALL: (8, 0.1), SMALL: (16, 0.25)}
LEFT_RIGHT = r"(?i)(?<![a-z])(left|right)(?![a-z])"


@dataclass(frozen=True)
class Settings:
    """Holds what the checks ask of a config."""

    augmentation: Mapping[str, Any]  # built transforms: "train" and "eval"
    num_queries: int | None
    detections_per_image: int | None
    batch_size: int


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Build what the checks ask of a config."""
    return Settings(
        augmentation={name: build(values["augmentation"][name]) for name in ("train", "eval")},
        num_queries=values.get("queries", {}).get("num_queries"),
        detections_per_image=values.get("evaluator", {}).get("detections_per_image"),
        batch_size=values["dataloader"]["batch_size"],
    )


def setting_findings(records: Records, settings: Settings) -> Iterator[Finding]:
    """Yield what does not fit between a split and the settings."""
    rows = np.flatnonzero(records.usable)
    if records.split == "train" and convention_of(records) is None:
        yield from _small(records, rows, settings.augmentation["eval"])
    counts = np.bincount(records.owners[rows], minlength=len(records))
    for kind, limit in ((TOO_MANY, settings.num_queries), (CUT_OFF, settings.detections_per_image)):
        if limit is None or (kind is TOO_MANY and records.split != "train"):
            continue
        full = np.flatnonzero(counts > limit)
        full = full[np.argsort(-counts[full])]
        yield from records.find_images(kind, full, [f"{counts[index]} objects, the limit is {limit}" for index in full])
    if records.split == "train" and 0 < len(records) < settings.batch_size:
        words = f"dataloader.batch_size={settings.batch_size}, {len(records)} images"
        yield from LARGE_BATCH.found("train", [Place(detail=words)])
    names = [name for name in records.categories.values() if re.search(LEFT_RIGHT, name)]
    if records.split == "train" and names and _flips(settings.augmentation["train"]):
        yield from SIDES.found("train", [Place(detail=", ".join(f'"{name}"' for name in names))], count=len(names))


def output_size(transform: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return (height, width) of what a transform makes of an image of `size`; None: only the transform knows."""
    if isinstance(transform, ShrinkLongSide):
        return long_side_size(size, transform.max_size)
    if isinstance(transform, ResizeShortSide):
        return short_side_size(size, transform.sizes[-1], transform.max_size)
    if isinstance(transform, ResizeSquare):
        return transform.sizes[-1], transform.sizes[-1]
    return None


def _small(records: Records, rows: NDArray[np.int64], transform: Any) -> Iterator[Finding]:
    known: NDArray[np.bool_] = np.all(records.sizes > 0, axis=1)
    sizes, inverse = np.unique(records.sizes, axis=0, return_inverse=True)
    scales = np.ones(len(sizes))
    for index, size in enumerate(sizes.tolist()):
        if min(size) > 0:
            seen = output_size(transform, (size[0], size[1]))
            if seen is None:
                return
            scales[index] = np.sqrt(np.prod(seen) / np.prod(size))
    rows = rows[known[records.owners[rows]]]
    scale = scales[inverse.reshape(-1)[records.owners[rows]]]
    sides = np.sqrt(records.boxes[rows, 2:].prod(axis=1)) * scale
    for kind, (limit, share) in LIMITS.items():
        small = np.flatnonzero(sides < limit)
        if len(small) > share * len(rows):
            small = small[np.argsort(sides[small])]
            words = f"{len(small) / len(rows):.0%} of the objects; {_advice(records, sides, scale, limit, transform)}"
            yield from kind.found(records.split, [records.annotation(int(rows[small[0]]), words)], count=len(small))
            return


def _advice(
    records: Records, sides: NDArray[np.float64], scale: NDArray[np.float64], limit: int, transform: Any
) -> str:
    """Which size leaves only a tenth of the objects below the limit, if any does."""
    needed = float(np.quantile(limit / sides * scale, 0.9))  # of the original size
    longest = float(np.quantile(records.sizes.max(axis=1), 0.9))
    if needed > 1:
        return "they are as small in the files: larger images are needed"
    key = "size" if isinstance(transform, ResizeSquare) else "max_size"
    return f"augmentation.{key}={-(-int(needed * longest) // 32) * 32} would do"


def _flips(transform: Any) -> bool:
    if isinstance(transform, v2.RandomHorizontalFlip):
        return True
    return any(map(_flips, getattr(transform, "transforms", [])))
