"""The embedded data set: generated once, written as an ordinary COCO-format folder."""

from __future__ import annotations

import itertools
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
from PIL import Image

from detr.data.cache import Cache
from detr.data.coco import CocoSplits, SplitFiles
from detr.data.shapes.scenes import CLASSES, SIDE, Scene, compose, render
from detr.data.splits import Holdout
from detr.errors import UserError

logger = logging.getLogger(__name__)

VERSION = 1  # of the pictures; a new one makes folders of the old invalid
COUNTS = {"train": 2000, "val": 200, "test": 200}
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}  # half of a PNG's size and decoding time, no visible loss
RECIPE = "shapes.json"  # what a folder was made from; present only in finished folders


class Shapes(CocoSplits):
    """Generates images of 128 × 128 pixels with up to six shapes of five classes under `root` if absent.

    The folder appears all at once (written beside and renamed), so that it is never half there, and
    processes that start together do not disturb each other.

    Args:
        counts: images of each split, by default 2,000, 200 and 200. Smaller ones are prefixes of larger ones.
        mosaic: each image is so many scenes in each direction, side by side: large, with small objects.
        root, categories, train, val, test, masks, holdout, holdout_seed, cache: as for `CocoSplits`.

    Raises:
        UserError: `root` holds something else, other counts, or cannot be written.
    """

    def __init__(
        self,
        *,
        root: str,
        categories: Literal["contiguous", "identity"],
        train: SplitFiles,
        val: SplitFiles | None,
        test: SplitFiles | None = None,
        masks: bool = False,
        holdout: Holdout = None,
        holdout_seed: int = 0,
        cache: Cache = False,
        counts: Mapping[str, int] | None = None,
        mosaic: int = 1,
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
        if mosaic < 1:
            raise UserError(f"dataset.mosaic: expected at least 1, got {mosaic}")
        generate(Path(root), COUNTS if counts is None else counts, mosaic)


def generate(root: Path, counts: Mapping[str, int], mosaic: int = 1) -> None:
    """Write the data set to `root` unless it is there: images/SPLIT/*.jpg, annotations/SPLIT.json, shapes.json."""
    recipe: dict[str, Any] = {"version": VERSION, "counts": dict(counts)} | ({"mosaic": mosaic} if mosaic > 1 else {})
    if _is_finished(root, recipe):
        return
    logger.info("generating %d images of shapes in %s, once", sum(counts.values()), root)
    # Absolute: a bare name has its temporary folder beside it, too.
    temporary = root.absolute().parent / f".{root.absolute().name}.{uuid.uuid4().hex}"
    try:
        for number, (split, count) in enumerate(counts.items()):
            _write_split(temporary, split, number, count, mosaic)
        (temporary / RECIPE).write_text(json.dumps(recipe) + "\n")
        _publish(temporary, root, recipe)
    except OSError as error:
        raise UserError(
            f"{root}: the shapes data set cannot be written ({error.strerror or error}); "
            "set dataset.root or paths.data_root to a folder with space and write permission"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_finished(root: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether the folder was made from the same recipe; UserError if it is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / RECIPE).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{root}: not empty, but not a finished shapes data set ({RECIPE} is missing or broken); "
            "remove the folder, or set dataset.root to another"
        ) from None
    if found != recipe:
        raise UserError(
            f"{root}: made from {json.dumps(found)}, but {json.dumps(recipe)} is asked for; "
            "remove the folder, or set dataset.root to another"
        )
    return True


def _publish(temporary: Path, root: Path, recipe: Mapping[str, Any]) -> None:
    try:
        os.rename(temporary, root)  # onto nothing or an empty folder, else it fails
    except OSError:
        if not _is_finished(root, recipe):  # else another process was faster
            raise


def _write_split(folder: Path, split: str, number: int, count: int, mosaic: int) -> None:
    images = folder / "images" / split
    images.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        name, side = f"{index:06d}.jpg", mosaic * SIDE
        picture = Image.new("RGB", (side, side))
        for part, (row, column) in enumerate(itertools.product(range(mosaic), repeat=2)):
            key = index * mosaic * mosaic + part
            scene, place = compose(number, key), (row * SIDE, column * SIDE)
            picture.paste(Image.fromarray(render(scene, number, key)), place[::-1])
            annotations += annotate(scene, image_id=index + 1, first_id=len(annotations) + 1, place=place, side=side)
        picture.save(images / name, **JPEG)
        entries.append({"id": index + 1, "file_name": name, "width": side, "height": side})
    categories = [{"id": class_index + 1, "name": name} for class_index, name in enumerate(CLASSES)]
    content = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / f"{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def annotate(
    scene: Scene, *, image_id: int, first_id: int, place: tuple[int, int] = (0, 0), side: int = SIDE
) -> list[dict[str, Any]]:
    """Return COCO annotations of a scene: box, area and run lengths of what is visible of each object.

    Args:
        scene: with objects.
        image_id: of the image that it is in.
        first_id: of the annotations.
        place: (top, left) of the scene in the image.
        side: of the image in pixels.
    """
    result = []
    for number, class_index in enumerate(scene.classes):
        mask = np.zeros((side, side), dtype=np.bool_)
        mask[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE] = scene.mask(number)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        result.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": class_index + 1,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "area": int(mask.sum()),
                "segmentation": {"size": [side, side], "counts": run_lengths(mask)},
                "iscrowd": 0,
            }
        )
    return result


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's uncompressed RLE: lengths of runs in column order, beginning with (maybe zero) pixels outside."""
    pixels = mask.ravel(order="F")
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lengths = np.diff([0, *ends.tolist(), pixels.size]).tolist()
    return [0, *lengths] if pixels[0] else lengths
