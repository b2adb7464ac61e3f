"""`fix=true`: a corrected copy of COCO JSON, and a line for every change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detr.checking.check import Report
from detr.checking.coco import read_coco
from detr.checking.files import NearMatches
from detr.checking.finding import Faults
from detr.checking.images import DARK, same_objects
from detr.checking.mending import (
    Item,
    mend_areas,
    mend_boxes,
    mend_categories,
    mend_convention,
    mend_entries,
    mend_references,
)
from detr.checking.pixels import BROKEN_IMAGE, EMPTY, FINE, NO_IMAGE
from detr.checking.records import Records
from detr.data.coco import CocoSplits
from detr.data.coco_json import load
from detr.data.dataset import DataSet
from detr.data.panoptic.dataset import CocoPanoptic
from detr.errors import UserError
from detr.files import write_json, write_with
from detr.texts import in_hydra

SAME_SHAPE = 0.01  # relative difference of the scales of width and height up to which boxes are scaled
CONVERSIONS = 3  # fractions, then centres; no box is in more conventions at once


@dataclass
class Copy:
    """Holds the copy of one annotation file, and what was changed in it."""

    split: str
    source: Path
    folder: str
    target: Path
    content: Item
    lines: list[str] = field(default_factory=list)

    def note(self, lines: Iterator[str]) -> None:
        self.lines += [f"{self.source}: {line}" for line in lines]

    def path(self, image: Item) -> str:
        return str(Path(self.folder) / str(image.get("file_name")))

    def records(self) -> Records:
        """Write it, and read it as the checks do."""
        write_json(self.target, self.content)
        return read_coco(self.split, [self.folder], [str(self.target)], Faults(self.split), masks=False)

    def remove(self, ids: set[Any]) -> None:
        """Drop images with all that is in them."""
        self.content["images"] = [each for each in self.content["images"] if each["id"] not in ids]
        self.content["annotations"] = [each for each in self.content["annotations"] if each["image_id"] not in ids]


def write_copy(report: Report, data: DataSet, output: Path) -> tuple[list[str], list[str]]:
    """Write output/annotations/*.json, and images only where they had to change.

    Args:
        report: what was found.
        data: the data set that was checked.
        output: the folder.

    Returns:
        A line for every change, and the overrides with which to use the copy.

    Raises:
        UserError: the data set is not in COCO JSON, or the copy cannot be written.
    """
    if not isinstance(data, CocoSplits) or isinstance(data, CocoPanoptic):
        raise UserError("fix=true mends COCO JSON of boxes and masks only; convert the data set first")
    copies = list(_copies(report, data, output))
    for copy in copies:
        copy.note(mend_entries(copy.content))
        copy.note(_mend_images(copy, report, output / "images"))
        copy.note(mend_references(copy.content))
        for _ in range(CONVERSIONS):
            copy.note(mend_convention(copy.content, copy.records()))
        copy.note(mend_boxes(copy.content, copy.records()))
        copy.note(mend_areas(copy.content, copy.records()))
    _mend_splits(copies, report)
    for copy in copies:
        write_json(copy.target, copy.content)
    overrides = []
    for name in report.records:
        targets = [str(copy.target) for copy in copies if copy.split == name]
        if targets:
            value = in_hydra(targets[0] if len(targets) == 1 else targets)
            overrides.append(f"dataset.{name}.annotations={value}")
    return [line for copy in copies for line in copy.lines], overrides


def _copies(report: Report, data: CocoSplits, output: Path) -> Iterator[Copy]:
    """Of every file that can be read at all."""
    for name in report.records:
        folders, files = data.places(name)  # type: ignore[arg-type]
        every_folder = folders * len(files) if len(folders) == 1 else folders
        for number, (file, folder) in enumerate(zip(files, every_folder, strict=False)):
            try:
                content = load(Path(file))
            except UserError:
                continue  # which the findings have
            lists = {key: content.get(key) for key in ("images", "annotations", "categories")}
            content |= {
                key: [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []
                for key, items in lists.items()
            }
            suffix = "" if len(files) == 1 else f"_{number}"
            yield Copy(name, Path(file), folder, output / "annotations" / f"{name}{suffix}.json", content)


def _mend_images(copy: Copy, report: Report, output: Path) -> Iterator[str]:
    records, looks = report.records[copy.split], report.looked[copy.split]
    look_of = dict(zip(records.files.tolist(), looks, strict=True))
    near: NearMatches | None = None
    first: dict[str, Any] = {}
    merged: dict[Any, Any] = {}
    gone = set()
    for image in copy.content["images"]:
        path, name = copy.path(image), f"image {image.get('id')}"
        if not Path(path).exists():
            near = near or NearMatches([copy.folder])
            found = near.find(path)
            if found is None:
                gone.add(image["id"])
                yield f"{name} removed: {path} is not there"
                continue
            yield f"{name}: file_name {image['file_name']!r} → {found}"
            image["file_name"] = str(Path(found).absolute())
            path = copy.path(image)
        if path in first:
            merged[image["id"]] = first[path]
            yield f"{name} merged into image {first[path]}, which is the same file"
        first.setdefault(path, image["id"])
        look = look_of.get(path)
        if look is not None and look["status"] in (EMPTY, NO_IMAGE, BROKEN_IMAGE):
            gone.add(image["id"])
            yield f"{name} removed: {path} cannot be read"
        elif look is not None and look["status"] == FINE:
            yield from _mend_size(copy, image, look)
            if look["brightest"] < DARK:
                yield f"{name}: {path} scaled to the full range of 16 bits, as {_brighten(path, image, output)}"
    for annotation in copy.content["annotations"]:
        annotation["image_id"] = merged.get(annotation.get("image_id"), annotation.get("image_id"))
    copy.content["annotations"] = [each for each in copy.content["annotations"] if each.get("image_id") not in gone]
    copy.content["images"] = [each for each in copy.content["images"] if each.get("id") not in gone | merged.keys()]


def _mend_size(copy: Copy, image: Item, look: Any) -> Iterator[str]:
    """Exchange width and height, or scale the boxes, where the file says so."""
    stored = (int(look["size"][1]), int(look["size"][0]))
    upright = stored[::-1] if look["orientation"] >= 5 else stored
    said = (image.get("width"), image.get("height"))
    if said in (stored, upright) or not all(isinstance(side, int | float) and side > 0 for side in said):
        return
    width, height = upright
    if said == (height, width):
        yield f"image {image['id']}: width and height exchanged: {said[0]} × {said[1]} → {width} × {height}"
    else:
        scales = width / said[0], height / said[1]  # type: ignore[operator]
        if abs(scales[0] / scales[1] - 1) > SAME_SHAPE:
            return
        for annotation in copy.content["annotations"]:
            if annotation.get("image_id") == image["id"] and isinstance(annotation.get("bbox"), list):
                annotation["bbox"] = [value * scales[place % 2] for place, value in enumerate(annotation["bbox"])]
                annotation.pop("area", None)
                polygons = annotation.pop("segmentation", None)
                if isinstance(polygons, list):
                    annotation["segmentation"] = [
                        [value * scales[place % 2] for place, value in enumerate(polygon)] for polygon in polygons
                    ]
        yield f"image {image['id']}: its boxes scaled from {said[0]} × {said[1]} to {width} × {height}"
    image["width"], image["height"] = width, height


def _brighten(path: str, image: Item, output: Path) -> Path:
    """Write a 16-bit image that uses the full range; the entry names it by its whole path."""
    with Image.open(path) as stored:
        samples = np.asarray(stored).astype(np.float64)
    scaled = Image.fromarray(np.round(samples * 65535 / max(samples.max(), 1)).astype(np.uint16))
    target = output / f"{image['id']}_{Path(path).stem}.png"
    write_with(target, lambda stream: scaled.save(stream, "PNG"))
    image["file_name"] = str(target.absolute())
    return target


def _mend_splits(copies: Sequence[Copy], report: Report) -> None:
    """Across files: train's category ids everywhere, and no image twice."""
    ids = {
        category["name"]: category["id"]
        for copy in copies
        if copy.split == "train"
        for category in copy.content["categories"]
    }
    for copy in copies:
        if copy.split != "train":
            copy.note(mend_categories(copy.content, ids))
    digests = {
        file: look["digest"].tobytes()
        for name, records in report.records.items()
        for file, look in zip(records.files.tolist(), report.looked[name], strict=True)
        if look["status"] == FINE
    }
    elsewhere = {
        digests[path]: path
        for copy in copies
        if copy.split != "train"
        for path in map(copy.path, copy.content["images"])
        if path in digests
    }
    for copy in copies:
        copy.note(_without_repeats(copy, digests, elsewhere if copy.split == "train" else {}))


def _without_repeats(copy: Copy, digests: dict[str, bytes], elsewhere: dict[bytes, str]) -> Iterator[str]:
    records = copy.records()
    first: dict[bytes, int] = {}
    gone = set()
    for index, image in enumerate(copy.content["images"]):
        digest = digests.get(copy.path(image))
        if digest is None:
            continue
        if digest in elsewhere:
            gone.add(image["id"])
            yield f"image {image['id']} removed: {copy.path(image)} is evaluated on, as {elsewhere[digest]}"
        elif digest in first and same_objects(records, first[digest], index):
            gone.add(image["id"])
            yield f"image {image['id']} removed: it has the content of {records.files[first[digest]]}"
        first.setdefault(digest, index)
    copy.remove(gone)
