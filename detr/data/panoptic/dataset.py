"""COCO-format panoptic data sets: things and stuff, one PNG of segment ids for each image.

What the JSON alone can tell is checked when it is read (`panoptic_json.py`); whether a PNG agrees with it, whenever
that PNG is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask
from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.data.annotations import Annotations, check_images_exist
from detr.data.cache import Cache
from detr.data.coco import CocoSplits, SplitFiles
from detr.data.coco_reader import read_annotations
from detr.data.dataset import AnnotatedImages, Split, Target, Transform
from detr.data.panoptic.reader import PanopticJson, read_panoptic, read_things
from detr.data.panoptic.segment_ids import VOID, read_segment_ids
from detr.data.segmentations import Rows, Segmentations, Size
from detr.data.splits import Holdout
from detr.errors import UserError
from detr.structures import Classes


class PanopticFiles(TypedDict):
    """Holds where one split lies."""

    images: str  # folder
    annotations: str  # panoptic JSON, or for a test split JSON that lists images only
    segments: NotRequired[str | None]  # folder of the PNGs
    instances: NotRequired[str | None]  # COCO instances JSON of the same images, to evaluate boxes and masks with


@dataclass(frozen=True)
class PanopticSegmentations(Segmentations):
    """Reads masks of segments from the PNGs. `take` keeps all segments' ids: a PNG is checked against all of them."""

    files: NDArray[np.str_]  # [I] the PNGs
    offsets: NDArray[np.int64]  # [I + 1] PNG i has segments offsets[i] … offsets[i + 1] - 1
    ids: NDArray[np.int64]  # [S] of all segments
    rows: NDArray[np.int64]  # [A] which of them each annotation is

    def take(self, rows: Rows) -> Self:
        return replace(self, rows=self.rows[rows])

    def masks(self, rows: Rows, size: Size) -> NDArray[np.bool_]:
        """Return [n, height, width]; the PNG is read once. Without rows, no PNG is known, and none is read.

        Raises:
            UserError: the PNG is missing, broken, or of another size, has an id that the JSON does not, or has no
                pixel of a segment that the JSON has.
        """
        chosen = self.rows[rows]
        if not len(chosen):
            return np.zeros((0, *size), dtype=np.bool_)
        image = int(np.searchsorted(self.offsets, chosen[0], side="right")) - 1
        return self._all_masks(image, size)[chosen - self.offsets[image]]

    def _all_masks(self, image: int, size: Size) -> NDArray[np.bool_]:
        file = str(self.files[image])
        pixels = read_segment_ids(file, size)
        ids = self.ids[self.offsets[image] : self.offsets[image + 1]].astype(np.int32)
        masks: NDArray[np.bool_] = np.equal(pixels, ids[:, None, None])
        strays = pixels[~masks.any(axis=0)]
        strays = strays[strays != VOID]
        if len(strays):
            raise UserError(
                f"{file}: {len(strays)} pixels have the segment id {strays[0]}, which the JSON does not list for this "
                "image; add the segment to segments_info or make the pixels void (0)"
            )
        empty = np.flatnonzero(~masks.any(axis=(1, 2)))
        if len(empty):
            raise UserError(
                f"{file}: no pixel has the segment id {ids[empty[0]]}, which the JSON lists for this image; "
                "remove the segment from segments_info or restore the PNG"
            )
        return masks


@dataclass(frozen=True)
class PanopticTable:
    """Holds one split: I images with a PNG each."""

    segments: Annotations  # a row a segment, with `PanopticSegmentations`
    instances: Annotations  # what boxes and masks are evaluated against; the same images in the same order
    pngs: NDArray[np.str_]  # [I]
    things: dict[int, bool]  # category id -> whether it is a thing; else it is stuff

    def subset(self, indices: Sequence[int]) -> PanopticTable:
        """Return only these images, in this order."""
        return replace(
            self,
            segments=self.segments.subset(indices),
            instances=self.instances.subset(indices),
            pngs=self.pngs[np.asarray(indices, dtype=np.int64)],
        )


class PanopticImages(AnnotatedImages):
    """Offers images with segments of things and stuff.

    Training targets are those of datasets/coco_panoptic.py of facebookresearch/detr: all segments, crowds included,
    each with its category and with the box that `masks_to_boxes` finds in the PNG. Every sample opens its PNG, also
    where nobody asked for masks.
    """

    def __init__(
        self, table: PanopticTable, classes: Classes, *, transform: Transform, seed: int = 0, masks: bool = False
    ) -> None:
        """
        Args:
            table: the images and their segments.
            masks: whether samples have masks.

        Raises:
            UserError: a segment's category is none of `classes`.
        """
        super().__init__(table.segments, classes, transform=transform, seed=seed, keep_crowds=True)
        self.masks = masks
        self._table = table

    @property
    def things(self) -> dict[int, bool]:
        """Return category id -> whether it is a thing; else it is stuff."""
        return self._table.things

    def ground_truth(self) -> dict[str, Any]:
        """Return what evaluators need: the instances file, or the segments of things; under "panoptic", all."""
        return self._table.instances.to_coco() | {"panoptic": self.panoptic_ground_truth()}

    def panoptic_ground_truth(self) -> dict[str, Any]:
        """Return COCO's panoptic format; the "file_name" of an annotation is its PNG's whole path."""
        table = self._table.segments
        images = zip(self.image_ids, self.files, table.sizes.tolist(), strict=True)
        pngs = zip(self.image_ids, self._table.pngs.tolist(), strict=self.annotated)
        return {
            "images": [
                {"id": image_id, "file_name": Path(file).name, "height": height, "width": width}
                for image_id, file, (height, width) in images
            ],
            "annotations": [
                {"image_id": image_id, "file_name": png, "segments_info": self._segments_info(index)}
                for index, (image_id, png) in enumerate(pngs)
            ],
            "categories": self._categories(),
        }

    def subset(self, indices: Sequence[int]) -> PanopticImages:
        chosen = self._table.subset(indices)
        return PanopticImages(chosen, self.classes, transform=self.transform, seed=self.seed, masks=self.masks)

    def _categories(self) -> list[dict[str, Any]]:
        """Those of the file; where it lists images only, those that the model knows."""
        if self.annotated:
            categories = sorted(self._table.segments.categories.items())
            return [{"id": i, "name": name, "isthing": int(self.things[i])} for i, name in categories]
        things = self.classes.things or (True,) * self.classes.num_classes
        return [
            {"id": i, "name": name, "isthing": int(thing)}
            for i, name, thing in zip(self.classes.category_ids, self.classes.names, things, strict=True)
            if name != Classes.HOLE
        ]

    def _segments_info(self, index: int) -> list[dict[str, int]]:
        table = self._table.segments
        rows = table.objects(index)
        columns = (table.annotation_ids[rows], table.category_ids[rows], table.areas[rows], table.crowd[rows])
        return [
            {"id": segment_id, "category_id": category_id, "area": int(area), "iscrowd": int(crowd)}
            for segment_id, category_id, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _target(self, index: int, size: Size) -> Target:
        rows = self._targets.objects(index)
        segmentations = self._targets.segmentations
        masks = np.zeros((0, *size), dtype=np.bool_) if segmentations is None else segmentations.masks(rows, size)
        boxes = torch.from_numpy(masks_to_boxes(masks))
        target: Target = {
            "boxes": BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=size),
            "labels": torch.from_numpy(self._labels[rows]),
        }
        if self.masks:
            target["masks"] = Mask(torch.from_numpy(masks.view(np.uint8)))  # bool cannot be resized
        return target


class CocoPanoptic(CocoSplits):
    """Builds the splits of one data set in COCO's panoptic format.

    Args:
        root, categories: as for `CocoSplits`.
        panoptic_root: the folder of JSON and PNGs; the paths of the splits usually refer to it.
        train, val, test: image folder, JSON, folder of the PNGs ("segments"), and maybe an instances JSON; null: there
            is no such split.
        masks: whether samples have masks.
        holdout, holdout_seed, cache: as in `Splits`.
        num_classes: with categories=identity, how many classes there are, if not max id + 1; COCO's 200 ids have
            had 250 classes since models/detr.py of facebookresearch/detr.
    """

    def __init__(
        self,
        *,
        root: str,
        categories: Literal["contiguous", "identity"],
        train: PanopticFiles,
        val: PanopticFiles | None,
        test: PanopticFiles | None = None,
        masks: bool = False,
        holdout: Holdout = None,
        holdout_seed: int = 0,
        cache: Cache = False,
        panoptic_root: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        plain = [
            None if files is None else SplitFiles(images=files["images"], annotations=files["annotations"])
            for files in (train, val, test)
        ]
        assert plain[0] is not None
        super().__init__(
            root=root,
            categories=categories,
            train=plain[0],
            val=plain[1],
            test=plain[2],
            masks=masks,
            holdout=holdout,
            holdout_seed=holdout_seed,
            cache=cache,
        )
        if num_classes is not None and categories != "identity":
            raise UserError("dataset.num_classes is for dataset.categories=identity; contiguous classes are counted")
        self.panoptic_root = panoptic_root
        self.num_classes = num_classes
        self._things: dict[int, bool] | None = None  # of the training split
        self._panoptic: dict[str, PanopticFiles | None] = {"train": train, "val": val, "test": test}

    def read(self, name: Split, *, everything: bool = False) -> Annotations:
        """Raises UserError: the annotations are in PNGs, too."""
        raise UserError("panoptic annotations are not converted; choose the instances of the same images, if there are")

    def images(self, name: Split, *, transform: Transform, seed: int, classes: Classes | None) -> PanopticImages:
        """Return the images of a split, validated by its JSON; see `read_panoptic`."""
        self._files(name)
        files = self._panoptic[name]
        assert files is not None
        table = read_table(files, require_annotations=name != "test", masks=self.masks)
        if classes is None:
            self._things = table.things if name == "train" else self._things
            classes = self.learned_classes(name, table.segments.categories)
        return PanopticImages(table, classes, transform=transform, seed=seed, masks=self.masks)

    def classes_from(self, categories: dict[int, str]) -> Classes:
        classes = super().classes_from(categories)
        file = self._files("train")["annotations"]
        assert isinstance(file, str)
        count = classes.num_classes if self.num_classes is None else self.num_classes
        if count < classes.num_classes:
            raise UserError(
                f"{file}: dataset.num_classes: expected at least {classes.num_classes} for category id "
                f"{max(categories)}, got {count}"
            )
        holes = range(classes.num_classes, count)
        ids = (*classes.category_ids, *holes)
        things = read_things(Path(file)) if self._things is None else self._things
        return Classes((*classes.names, *(Classes.HOLE for _ in holes)), ids, tuple(things.get(i, True) for i in ids))


def read_table(files: PanopticFiles, *, require_annotations: bool = True, masks: bool = False) -> PanopticTable:
    """Read the JSON of a split, and check that images and PNGs are there.

    Args:
        files: of the split.
        masks: whether instance masks will be evaluated.

    Raises:
        UserError: see `read_panoptic`; an image or a PNG is missing; the instances file lacks an image.
    """
    path = files["annotations"]
    found = read_panoptic(Path(path), Path(files["images"]), require_annotations=require_annotations)
    check_images_exist(found.annotations.files.tolist(), path)
    pngs = _png_paths(found, files)
    segments = replace(
        found.annotations,
        segmentations=PanopticSegmentations(
            files=pngs,
            offsets=found.annotations.offsets,
            ids=found.annotations.annotation_ids,
            rows=np.arange(len(found.annotations.annotation_ids)),
        ),
    )
    instances = files.get("instances")
    if instances is None:
        return PanopticTable(segments, _things_of(segments, found.things, masks), pngs, found.things)
    return PanopticTable(segments, _read_instances(instances, files, segments, masks), pngs, found.things)


def masks_to_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Convert [n, H, W] → [n, 4] xyxy of the first and last pixels; no mask may be empty.

    As in util/box_ops.py of facebookresearch/detr, right and bottom are the last pixel's own coordinates, not one
    more: boxes are a pixel smaller than those of COCO's JSON. The published weights were trained so.
    """
    if not len(masks):
        return np.zeros((0, 4), dtype=np.float32)
    rows: NDArray[np.bool_] = np.logical_or.reduce(masks, axis=2)
    columns: NDArray[np.bool_] = np.logical_or.reduce(masks, axis=1)
    right = columns.shape[1] - 1 - columns[:, ::-1].argmax(axis=1)
    bottom = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    return np.stack([columns.argmax(axis=1), rows.argmax(axis=1), right, bottom], axis=1).astype(np.float32)


def _png_paths(found: PanopticJson, files: PanopticFiles) -> NDArray[np.str_]:
    """[I] paths that exist; none where the JSON lists images only."""
    folder = files.get("segments")
    if found.annotations.annotated and folder is None:
        raise UserError(f"{files['annotations']}: dataset.*.segments, the folder of its PNGs, is not set")
    paths = [str(Path(folder or "") / name) for name in found.pngs]
    check_images_exist(paths, files["annotations"], key="dataset.*.segments")
    return np.array(paths, dtype=np.str_)


def _things_of(segments: Annotations, things: dict[int, bool], masks: bool) -> Annotations:
    """The segments that instance evaluation is about; of a split without annotations, everything."""
    if not segments.annotated:
        return replace(segments, segmentations=None)
    is_thing = np.array([things[category_id] for category_id in segments.category_ids.tolist()], dtype=np.bool_)
    kept = segments.keep(is_thing)
    categories = {category_id: name for category_id, name in kept.categories.items() if things.get(category_id)}
    return replace(kept, categories=categories, segmentations=kept.segmentations if masks else None)


def _read_instances(file: str, files: PanopticFiles, segments: Annotations, masks: bool) -> Annotations:
    """The instances of the images that have segments."""
    instances = read_annotations([files["images"]], [file], masks=masks).without_empty_boxes()
    index_of = {image_id: index for index, image_id in enumerate(instances.image_ids.tolist())}
    for image_id in segments.image_ids.tolist():
        if image_id not in index_of:
            raise UserError(
                f"{file}: image {image_id} of {files['annotations']} is missing; "
                "give the instances of the same images, or set dataset.*.instances=null"
            )
    return instances.subset([index_of[image_id] for image_id in segments.image_ids.tolist()])
