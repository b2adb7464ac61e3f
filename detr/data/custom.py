"""Data sets of the three common formats: which one a folder holds is found by looking."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from detr.data.cache import Cache
from detr.data.coco import CocoSplits, SplitFiles
from detr.data.dataset import Split
from detr.data.image_files import FOLDERS
from detr.data.splits import Holdout, Splits
from detr.data.voc import VocSplits, place_of
from detr.data.yolo import NAMES, YoloSplits, find_yaml, folder_of
from detr.errors import UserError

log = logging.getLogger(__name__)

ROBOFLOW = "_annotations.coco.json"
LOOKED_FOR = (
    "COCO (the files that dataset.*.annotations name, annotations/instances_SPLIT.json or a single JSON there, "
    f"SPLIT/{ROBOFLOW}), YOLO (a data.yaml with names, or images with {', '.join(NAMES)}), "
    "Pascal VOC (Annotations with ImageSets/Main/SPLIT.txt, or SPLIT with XML files)"
)


def detect(
    *,
    root: str,
    categories: Literal["contiguous", "identity"] = "contiguous",
    train: SplitFiles,
    val: SplitFiles | None,
    test: SplitFiles | None = None,
    masks: bool = False,
    holdout: Holdout = None,
    holdout_seed: int = 0,
    cache: Cache = False,
) -> Splits:
    """Return the splits of the data set in a folder, in COCO's, YOLO's or Pascal VOC's format, and log which it is.

    Files that `train`, `val` and `test` name are COCO's wherever one of them is there. Else the folder decides, and
    these keys only count where they are null.

    Args:
        root: the data set's folder.
        categories: for COCO, as in `CocoSplits`.
        train, val, test: image folders and annotation files, for COCO; null: there is no such split.
        masks: whether samples have instance masks.
        holdout, holdout_seed, cache: as in `Splits`.

    Raises:
        UserError: the folder holds none of the three formats, or several.
    """
    given: dict[Split, SplitFiles | None] = {"train": train, "val": val, "test": test}
    common: Any = {"root": root, "masks": masks, "holdout": holdout, "holdout_seed": holdout_seed, "cache": cache}
    files = [file for each in given.values() if each is not None for file in _paths(each["annotations"])]
    if any(os.path.exists(file) or not _is_below(file, root) for file in files) or not os.path.isdir(root):
        return CocoSplits(categories=categories, train=train, val=val, test=test, **common)  # says what is missing
    found = _formats(Path(root))
    if not found:
        raise UserError(f"{root} holds no data set of a known format; looked for {LOOKED_FOR}")
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(found)}; choose one with dataset=coco, yolo or voc")
    log.info("%s is a data set in %s format", root, found[0])
    if found == ["COCO"]:
        places: Any = {split: None if each is None else _exported(Path(root), split) for split, each in given.items()}
        return CocoSplits(categories=categories, **places, **common)
    nowhere = dict.fromkeys(("images", "annotations", *(["list"] if found == ["Pascal VOC"] else [])))
    by_layout: Any = {split: None if each is None else nowhere for split, each in given.items()}
    return (YoloSplits if found == ["YOLO"] else VocSplits)(**by_layout, **common)


def _formats(root: Path) -> list[str]:
    """Which formats a folder has training images in."""
    named = find_yaml(root) is not None or any((root / name).exists() for name in NAMES)
    found = {
        "COCO": _exported(root, "train") is not None,
        "YOLO": named and (find_yaml(root) is not None or folder_of(root, "train") is not None),
        "Pascal VOC": place_of(root, "train") is not None,
    }
    return [name for name, there in found.items() if there]


def _exported(root: Path, name: Split) -> SplitFiles | None:
    """The files of a split as others export COCO: Roboflow a JSON among the images, CVAT and Datumaro instances_SPLIT.

    A JSON that is the only one is train's.
    """
    found = next((root / folder for folder in FOLDERS[name] if (root / folder / ROBOFLOW).exists()), None)
    if found is not None:
        return SplitFiles(images=str(found), annotations=str(found / ROBOFLOW))
    files = sorted((root / "annotations").glob("*.json"))
    wanted = [f"instances_{folder}" for folder in FOLDERS[name]]
    file = next(
        (file for file in files if file.stem in wanted), files[0] if name == "train" and len(files) == 1 else None
    )
    if file is None:
        return None
    own = root / "images" / file.stem.removeprefix("instances_")
    return SplitFiles(images=str(own if own.is_dir() else root / "images"), annotations=str(file))


def _is_below(file: str, root: str) -> bool:
    return Path(os.path.abspath(file)).is_relative_to(Path(os.path.abspath(root)) / "annotations")


def _paths(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
