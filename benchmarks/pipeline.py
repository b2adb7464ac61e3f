"""How many images one worker prepares in a second, against the official transforms in PIL, both on one thread.

python benchmarks/pipeline.py                       # BCCD in ../shared/data/bccd
python benchmarks/pipeline.py --root mydata --images 100

The peer is written after datasets/coco.py and datasets/transforms.py of facebookresearch/detr: it opens a file, makes
it RGB, flips it, resizes it (half of the time: resizes, crops and resizes it), makes a float tensor, normalises it, and
does the same to the boxes; four images are padded to one batch. Ours hands on bytes, which the device normalises.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alternating import alternate
from figure import Figure
from PIL import Image
from torchvision.transforms import functional as F

from detr.data.coco_reader import read_annotations
from detr.data.dataset import AnnotatedImages, Transform
from detr.data.loader import collate
from detr.data.transforms import detr_train, light_train
from detr.structures import Classes, Sample

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
SCALES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
MAX_SIZE = 1333
BATCH = 4


class Official:
    """Gives the images of a split as the official training does."""

    def __init__(self, images: AnnotatedImages) -> None:
        self.files, self.annotations = images.files, images.annotations

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        index %= len(self.files)
        image = Image.open(self.files[index]).convert("RGB")
        rows = self.annotations.objects(index)
        boxes = torch.as_tensor(self.annotations.boxes[rows], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=image.width)
        boxes[:, 1::2].clamp_(min=0, max=image.height)
        labels = torch.as_tensor(self.annotations.category_ids[rows])
        keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        boxes, labels = boxes[keep], labels[keep]
        if random.random() < 0.5:
            width = image.width
            image = F.hflip(image)
            boxes = boxes[:, [2, 1, 0, 3]] * torch.as_tensor([-1, 1, -1, 1]) + torch.as_tensor([width, 0, width, 0])
        if random.random() < 0.5:
            image, boxes = resize(image, boxes, random.choice(SCALES), MAX_SIZE)
        else:
            image, boxes = resize(image, boxes, random.choice([400, 500, 600]))
            image, boxes, labels = crop(image, boxes, labels)
            image, boxes = resize(image, boxes, random.choice(SCALES), MAX_SIZE)
        tensor = F.normalize(F.to_tensor(image), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        height, width = tensor.shape[-2:]
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        boxes = torch.cat([centres, sides], dim=1) / torch.tensor([width, height, width, height])
        return tensor, {"boxes": boxes, "labels": labels}


def resize(
    image: Image.Image, boxes: torch.Tensor, short: int, limit: int | None = None
) -> tuple[Image.Image, torch.Tensor]:
    """Return an image of that shorter side, and its boxes."""
    width, height = image.size
    low, high = min(width, height), max(width, height)
    if limit is not None and high / low * short > limit:
        short = round(limit * low / high)
    size = (int(short * height / width), short) if width < height else (short, int(short * width / height))
    resized = image if low == short else F.resize(image, list(size))
    scale = torch.as_tensor([resized.width / width, resized.height / height])
    return resized, boxes * scale.repeat(2)


def crop(
    image: Image.Image, boxes: torch.Tensor, labels: torch.Tensor
) -> tuple[Image.Image, torch.Tensor, torch.Tensor]:
    """Return a random part of an image, and what of its objects is in it."""
    width, height = (random.randint(384, min(side, 600)) if side > 384 else side for side in image.size)
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    moved = boxes - torch.as_tensor([left, top, left, top])
    limits = torch.as_tensor([width, height], dtype=torch.float32)
    corners = torch.min(moved.reshape(-1, 2, 2), limits).clamp(min=0)
    keep = torch.all(corners[:, 1] > corners[:, 0], dim=1)
    return F.crop(image, top, left, height, width), corners.reshape(-1, 4)[keep], labels[keep]


def split(root: Path, transform: Transform) -> AnnotatedImages:
    """Return the training images of a data set in COCO format."""
    annotations = read_annotations([str(root / "images")], [str(root / "annotations" / "train.json")])
    return AnnotatedImages(annotations, Classes.contiguous(annotations.categories), transform=transform)


def batches_of(read: Callable[[int], Any], join: Callable[[list[Any]], Any], count: int) -> None:
    """Read so many images, and make batches of them."""
    for start in range(0, count, BATCH):
        join([read(index) for index in range(start, min(start + BATCH, count))])


def read(images: AnnotatedImages, index: int) -> Sample:
    """Return an image as the first epoch has it."""
    return images[0, index % len(images)]


def padded(samples: list[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of several sizes as one tensor, and where there is none; `nested_tensor_from_tensor_list`."""
    height, width = (max(image.shape[axis] for image, _ in samples) for axis in (1, 2))
    batch = torch.zeros(len(samples), 3, height, width)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for image, into, covered in zip((image for image, _ in samples), batch, mask, strict=True):
        into[:, : image.shape[1], : image.shape[2]].copy_(image)
        covered[: image.shape[1], : image.shape[2]] = False
    return batch, mask


def figures(quick: bool = False, root: Path = BCCD, count: int = 100, turns: int = 7) -> Iterator[Figure]:
    """Yield how long one thread takes for images of BCCD, by the augmentation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    count, turns = (8, 2) if quick else (count, turns)
    what = f"{count} images of BCCD, one thread: ours against the official transforms in PIL, 480 … 800"
    try:
        for name, transform, target in (
            ("the paper's", detr_train(SCALES, MAX_SIZE, exact=False), 0.5),
            ("the paper's to the bit", detr_train(SCALES, MAX_SIZE), None),
            ("light", light_train(416), None),
        ):
            images = split(root, transform)
            official = Official(images)
            found = alternate(
                partial(batches_of, partial(read, images), collate, count),
                partial(batches_of, official.__getitem__, padded, count),
                turns=turns,
            )
            yield Figure(f"training pipeline, {name}", found, what, target)
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=BCCD)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    for each in figures(root=given.root, count=given.images, turns=given.turns):
        ours, theirs = (given.images / seconds for seconds in (each.comparison.ours, each.comparison.theirs))
        print(f"{each.name:<42} {ours:5.0f} images/s, theirs {theirs:5.0f}; {each.comparison}", flush=True)


if __name__ == "__main__":
    main()
