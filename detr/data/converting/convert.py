"""From any format that is read to any that is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from detr.data.annotations import Annotations
from detr.data.converting.coco import write_coco
from detr.data.converting.folder import distinct_names, place_image, write_folder
from detr.data.converting.losses import Losses
from detr.data.converting.voc import write_label_map, write_voc
from detr.data.converting.yolo import write_yaml, write_yolo
from detr.data.dataset import Split
from detr.data.image_files import SUFFIXES
from detr.data.splits import Splits
from detr.errors import UserError

log = logging.getLogger(__name__)

Format = Literal["coco", "yolo", "voc"]
FORMATS: tuple[Format, ...] = ("coco", "yolo", "voc")
SPLITS: tuple[Split, ...] = ("train", "val", "test")
WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def convert(data: Splits, layout: Format, output: Path) -> Iterator[str]:
    """Write a data set in another format, and yield a line each on what was written, and on what is not the same in it.

    Args:
        data: of any format; what `dataset.holdout` keeps for validation becomes the validation split.
        layout: the format.
        output: the folder, which is not there yet or empty.

    Raises:
        UserError: the data set cannot be read, or the folder not be written.
    """
    losses = Losses()
    parts = {name: data.part(name) for name in SPLITS if data.has(name)}
    if not parts:
        raise UserError(f"{data.root}: neither of the splits {', '.join(SPLITS)} is there")
    _check(parts, layout)
    for name in parts:
        for what, count in data.unread("train" if data.holdout is not None and name == "val" else name).items():
            losses.add(f"{what} is left out, {{}} times", count)

    def write(folder: Path) -> None:
        every = distinct_names(file for part in parts.values() for file in part.files.tolist())
        for name, part in parts.items():
            names = every if layout == "voc" else distinct_names(part.files.tolist())
            renamed = sum(names[file] != Path(file).name for file in part.files.tolist())
            losses.add("{} images get another name, since theirs is that of another image, too", renamed)
            if layout != "coco" and part.image_ids.tolist() != list(range(1, len(part) + 1)):
                losses.add("{} image ids are not kept: this format has none", len(part))
            for file, place in WRITERS[layout](folder, name, part, names, losses).items():
                if not (folder / place).exists():
                    place_image(Path(file), folder / place)
        categories = _categories(parts)
        if layout == "yolo":
            write_yaml(folder, list(parts), categories)
        elif layout == "voc":
            write_label_map(folder, categories)

    write_folder(output, write)
    for name in SPLITS:
        part = parts.get(name)
        yield f"{name}: {len(part):,} images, {len(part.boxes):,} objects" if part else f"{name}: there is none"
    yield from losses.lines()


def _categories(parts: dict[Split, Annotations]) -> dict[int, str]:
    return next(iter(parts.values())).categories


def _check(parts: dict[Split, Annotations], layout: Format) -> None:
    categories = _categories(parts)
    for name, part in parts.items():
        if part.annotated and part.categories != categories:
            first = next(iter(parts))
            raise UserError(f"the categories of {name} are not those of {first}; make them the same first")
        for file in part.files.tolist() if layout != "coco" else ():
            if not file.lower().endswith(SUFFIXES):
                raise UserError(
                    f"{file}: in this format images are found by their suffix, one of {', '.join(SUFFIXES)}"
                )
