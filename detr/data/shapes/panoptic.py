"""Panoptic annotations of the embedded data set: the shapes as things, what lies below them as stuff."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detr.data.cache import Cache
from detr.data.panoptic.dataset import CocoPanoptic, PanopticFiles
from detr.data.panoptic.segment_ids import save_segment_ids
from detr.data.shapes.dataset import COUNTS, generate
from detr.data.shapes.scenes import CLASSES, SIDE, STUFF, Scene, compose
from detr.data.splits import Holdout
from detr.errors import UserError

logger = logging.getLogger(__name__)

CATEGORIES = [
    {"id": index + 1, "name": name, "isthing": int(name in CLASSES)} for index, name in enumerate(CLASSES + STUFF)
]
# Of each category, as R + 256·G + 65536·B; an image's segments count on from it, so that the PNGs can be looked at.
COLOURS = (0x3060E0, 0x30C060, 0xD09020, 0x40C8E8, 0xC050B0, 0x606060, 0x205080)


class ShapesPanoptic(CocoPanoptic):
    """Generates the pictures of `Shapes` and panoptic annotations under `root` if absent.

    Things are the shapes, with the category ids of `Shapes`; stuff is the background and the patches on it. Strokes are
    void: they are narrower than a cell of the masks.

    Args:
        counts: as for `Shapes`.
        root, categories, train, val, test, masks, holdout, holdout_seed, cache: as for `CocoPanoptic`.

    Raises:
        UserError: `root` holds something else, other counts, or cannot be written.
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
        counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(
            root=root,
            categories=categories,
            train=train,
            val=val,
            test=test,
            masks=masks,
            holdout=holdout,
            holdout_seed=holdout_seed,
            cache=cache,
        )
        counts = COUNTS if counts is None else counts
        generate(Path(root), counts)
        generate_panoptic(Path(root), counts)


def generate_panoptic(root: Path, counts: Mapping[str, int]) -> None:
    """Add annotations/panoptic_SPLIT/*.png and annotations/panoptic_SPLIT.json to a folder of shapes.

    The JSON appears last, and both at once, so that a split which has it is complete; processes that start together do
    not disturb each other. Folders of an earlier version, which have none, are completed.

    Raises:
        UserError: the files cannot be written.
    """
    for number, (split, count) in enumerate(counts.items()):
        if not (root / "annotations" / f"panoptic_{split}.json").exists():
            logger.info("generating panoptic annotations of %d images in %s, once", count, root)
            _generate_split(root / "annotations", split, number, count)


def _generate_split(folder: Path, split: str, number: int, count: int) -> None:
    temporary = folder / f".panoptic_{split}.{uuid.uuid4().hex}"
    try:
        pngs = temporary / f"panoptic_{split}"
        pngs.mkdir(parents=True)
        (temporary / "json").write_text(json.dumps(_write_split(pngs, number, count)))
        _publish(pngs, folder / pngs.name)
        os.replace(temporary / "json", folder / f"panoptic_{split}.json")
    except OSError as error:
        raise UserError(
            f"{folder}: the panoptic annotations of shapes cannot be written ({error.strerror or error}); "
            "set dataset.root or paths.data_root to a folder with space and write permission"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)  # onto nothing or an empty folder, else it fails
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same files
            raise


def _write_split(pngs: Path, number: int, count: int) -> dict[str, Any]:
    """Write the PNGs of a split; the JSON beside them."""
    images, annotations = [], []
    for index in range(count):
        name = f"{index:06d}"
        ids, segments = annotate_panoptic(compose(number, index))
        save_segment_ids(ids, pngs / f"{name}.png")
        images.append({"id": index + 1, "file_name": f"{name}.jpg", "width": SIDE, "height": SIDE})
        annotations.append({"image_id": index + 1, "file_name": f"{name}.png", "segments_info": segments})
    return {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}


def annotate_panoptic(scene: Scene) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
    """Return the ids [SIDE, SIDE] of a scene's segments, 0 being void, and "segments_info": objects, then stuff."""
    masks = [(class_index, scene.mask(number)) for number, class_index in enumerate(scene.classes)]
    masks += [(len(CLASSES) + index, scene.stuff_mask(index)) for index in range(len(STUFF))]
    ids = np.zeros((SIDE, SIDE), dtype=np.int32)
    segments = []
    for number, (category, mask) in enumerate(masks):
        if mask.any():
            ids[mask] = COLOURS[category] + number
            segments.append(_segment(int(COLOURS[category] + number), category + 1, mask))
    return ids, segments


def _segment(segment_id: int, category_id: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "id": segment_id,
        "category_id": category_id,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
