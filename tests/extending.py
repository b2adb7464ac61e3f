"""docs/extending.md as files in a folder of their own, and the commands that it shows."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from command import ROOT, TINY

from detr.assembly import build_model
from detr.config import check, compose
from detr.config.containers import Section
from detr.data.shapes.dataset import generate
from detr.models.detr import DETR
from detr.structures import Classes

DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n```\w+\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]

(COUNTED,) = (word for word in TINY if "dataset.counts" in word)
COUNTS = yaml.safe_load(COUNTED.partition("=")[2])
SMALL = [word for word in TINY if word not in (COUNTED, "logger=none")]
PARTS = [word for word in TINY if word.startswith(("transformer.", "queries."))]
QUERIES = 20


def write_files(home: Path) -> None:
    """What a reader has who copied the document: code, configs, tests."""
    for name, content in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content, encoding="utf-8")


def write_data(home: Path) -> None:
    """The embedded data set, and its boxes as lines, too."""
    shapes, lines = home / "data" / "shapes", home / "data" / "lines"
    generate(shapes, COUNTS)
    lines.mkdir()
    (lines / "images").symlink_to(shapes / "images")
    for split in COUNTS:
        write_lines(shapes / "annotations" / f"{split}.json", lines / f"{split}.csv")


def write_lines(source: Path, table: Path) -> None:
    """The boxes of a COCO file, a line each; an image without any has a line of its name."""
    coco = json.loads(source.read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "x", "y", "w", "h", "class"])
        for image in reversed(coco["images"]):
            found = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
            writer.writerows([image["file_name"], *each["bbox"], names[each["category_id"]]] for each in found)
            if not found:
                writer.writerow([image["file_name"]])


@contextlib.contextmanager
def importable(home: Path) -> Iterator[Path]:
    """The folder as that of a program that was started in it."""
    sys.path.insert(0, str(home))
    try:
        yield home
    finally:
        sys.path.remove(str(home))
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            del sys.modules[name]


def composed(folder: Path, *overrides: str) -> Section:
    """The checked config of `detr train -cd conf OVERRIDES`."""
    values, _ = check(compose([*PARTS, f"hydra.searchpath=[file://{folder / 'conf'}]", *overrides]))
    return values


def detector(values: Section) -> DETR:
    """The model of a config for three classes, in training mode."""
    torch.manual_seed(0)
    classes = Classes.contiguous({1: "a", 2: "b", 3: "c"})
    return build_model(values, classes, pretrained=False).train()
