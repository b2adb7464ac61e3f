"""Small data sets in YOLO's and Pascal VOC's format, as the tests of their readers write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from detr.data.voc import VocFiles, VocSplits
from detr.data.yolo import YoloFiles, YoloSplits

WIDTH, HEIGHT = 40, 20


def image(path: Path, seed: int = 0) -> Path:
    """Noise of 40 × 20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def yolo(root: Path, **options: object) -> YoloSplits:
    """Whatever the folder has."""
    where = YoloFiles(images=None, annotations=None)
    return YoloSplits(**{"root": str(root), "train": where, "val": where, "test": where} | options)  # type: ignore[arg-type]


def voc(root: Path, **options: object) -> VocSplits:
    """Whatever the folder has."""
    where = VocFiles(images=None, annotations=None, list=None)
    return VocSplits(**{"root": str(root), "train": where, "val": where, "test": where} | options)  # type: ignore[arg-type]


def xml(*objects: tuple[str, tuple[float, float, float, float]], more: str = "", size: bool = True) -> str:
    """An XML file: name and corners of each object; `more`: what else each object has."""
    sides = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>" if size else ""
    boxes = "".join(
        f"<object>\n<name>{name}</name>{more}\n<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n</object>\n"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation>\n{sides}\n{boxes}</annotation>\n"
