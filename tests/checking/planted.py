"""A small data set in which nothing is wrong, and how ways to spoil it are written down: planted_*.py have them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Coco = dict[str, Any]

WIDTH, HEIGHT = 64, 48
COUNTS = {"train": 12, "val": 6}
CLASSES = {3: "cat", 7: "dog"}
SETTINGS = ["dataset=custom", "dataloader.batch_size=4"]


@functools.cache
def picture(seed: int) -> Image.Image:
    """Coarse noise, so that no two look alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@dataclass
class Data:
    """What is written: COCO dictionaries and images; faults change either."""

    root: Path
    splits: dict[str, Coco]
    overrides: list[str] = field(default_factory=list)

    @property
    def train(self) -> Coco:
        return self.splits["train"]

    @property
    def val(self) -> Coco:
        return self.splits["val"]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def first(self) -> dict[str, Any]:
        """Annotation 1, in image 1, train01.png."""
        return self.train["annotations"][0]

    def file(self, name: str = "train01.png") -> Path:
        return self.images / name

    def save(self) -> None:
        (self.root / "annotations").mkdir()
        for name, content in self.splits.items():
            (self.root / "annotations" / f"{name}.json").write_text(json.dumps(content))


def sound(root: Path) -> Data:
    """A data set without a fault; its images are on disk, its annotations are not yet."""
    (root / "images").mkdir(parents=True)
    data = Data(root, {name: split(name, count) for name, count in COUNTS.items()})
    for name, count in COUNTS.items():
        for number in range(1, count + 1):
            picture(1000 * (name == "val") + number).save(data.file(f"{name}{number:02}.png"))
    return data


def split(name: str, count: int) -> Coco:
    drawn = np.random.default_rng(count)
    images = [
        {"id": n, "file_name": f"{name}{n:02}.png", "width": WIDTH, "height": HEIGHT} for n in range(1, count + 1)
    ]
    annotations = []
    for image in images:
        for number, category in enumerate((3, 7, 3)):
            width, height = (int(drawn.integers(17, 20)) for _ in range(2))
            box = [1 + 21 * number, int(drawn.integers(1, HEIGHT - height)), width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": each} for number, each in CLASSES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


@dataclass(frozen=True)
class Fault:
    """How to plant a fault, and how it has to be named."""

    plant: Callable[[Data], None]
    check: str
    file: str | None = "train01.png"  # that the finding names; None: the fault is of no file
    annotation: int | None = None
    words: str = ""  # in the message
    also: frozenset[str] = frozenset()  # what else is true then
    mended: bool = False  # by fix=true

    @property
    def name(self) -> str:
        return self.plant.__name__


FAULTS: list[Fault] = []


def fault(
    check: str,
    *,
    file: str | None = "train01.png",
    annotation: int | None = None,
    words: str = "",
    also: tuple[str, ...] = (),
    mended: bool = False,
) -> Callable[[Callable[[Data], None]], Callable[[Data], None]]:
    def register(plant: Callable[[Data], None]) -> Callable[[Data], None]:
        FAULTS.append(Fault(plant, check, file, annotation, words, frozenset(also), mended))
        return plant

    return register


def boxes(data: Data) -> Iterator[dict[str, Any]]:
    yield from data.train["annotations"]
