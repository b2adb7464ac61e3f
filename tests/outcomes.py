"""What an evaluation of a small data set found, without a detector."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from run_folders import predictions, write_data

from detr.data.coco import CocoSplits
from detr.data.dataset import AnnotatedImages
from detr.evaluation.coco import CocoEvaluator
from detr.evaluation.examples import Boxes, Example
from detr.evaluation.validation import Outcome
from detr.structures import Detections


def images(root: Path, number: int = 12) -> AnnotatedImages:
    """A cat in each image, a dog in every other one; see `run_folders.write_data`."""
    if not root.exists():
        write_data(root, number)
    files = {"images": str(root / "images"), "annotations": str(root / "val.json")}
    data = CocoSplits(root=str(root), categories="contiguous", train=files, val=files)  # type: ignore[arg-type]
    return data.split("val", transform=lambda image, target: (image, target))


def outcome(root: Path, *, right: int, number: int = 12) -> Outcome:
    """In the first `right` images every object is found, in the others each box is elsewhere."""
    dataset = images(root, number)
    evaluator = CocoEvaluator(backend="pycocotools", ground_truth=dataset.ground_truth(), classes=dataset.classes)
    found = predictions(root, right)
    for image_id in dataset.image_ids:
        own = [each for each in found if each["image_id"] == image_id]
        boxes = torch.tensor([each["bbox"] for each in own], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([dataset.classes.index_of[each["category_id"]] for each in own])
        scores = torch.tensor([each["score"] for each in own])
        evaluator.update([image_id], [Detections(scores, labels, boxes)])
    example = Example(
        image=Image.open(dataset.files[0]),
        truth=Boxes([], []),
        predicted=Boxes([], [], []),
        names=dataset.classes.names,
    )
    return Outcome(evaluator.results(), dataset, evaluator.compute(), loss=1.0, examples=[example])


def objects(root: Path) -> int:
    return len(json.loads((root / "val.json").read_text())["annotations"])
