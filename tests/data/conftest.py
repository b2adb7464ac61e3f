"""A small COCO-format data set on disk, to be damaged by the tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_example import HEIGHT, WIDTH
from PIL import Image

from detr.data.coco import CocoSplits

Coco = dict[str, Any]


@pytest.fixture
def coco() -> Coco:
    """Three images: two objects, a crowd beside an object, none. Category ids have gaps and are out of order."""
    images = [{"id": 10 * n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)]
    boxes = [(1, 10, 7, [5, 5, 10, 8], 0), (2, 10, 3, [30, 20, 20, 20], 0), (3, 20, 7, [1.5, 2.5, 20, 10], 0)]
    boxes.append((4, 20, 3, [0, 0, 40, 30], 1))
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        for i, image, category, box, crowd in boxes
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 5, "name": "bird"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., CocoSplits]:
    """Writes COCO dictionaries as train.json, … with their images, and opens the data set."""

    def write(
        train: Coco,
        val: Coco | None = None,
        *,
        categories: str = "contiguous",
        images: bool = True,
        masks: bool = False,
    ) -> CocoSplits:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for name, content in (("train", train), ("val", val or train)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            for entry in content.get("images", []) if images else []:
                noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / entry["file_name"])
        files = {
            name: {"images": str(folder), "annotations": str(tmp_path / f"{name}.json")} for name in ("train", "val")
        }
        return CocoSplits(root=str(tmp_path), categories=categories, masks=masks, **files)

    return write
