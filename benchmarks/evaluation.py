"""The three evaluation backends on the same boxes, in one run: seconds, ratio, and whether they agree.

    python benchmarks/evaluation.py [--images 2000] [--boxes 200000] [--repeats 3]

Each repeat runs all backends in turn, so that whatever else the machine does falls on all of them; the fastest
repeat of each counts. Loading the ground truth, once a training run, is timed apart from an evaluation.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from alternating import alternate
from figure import Figure, peak_memory

from detr.evaluation.backends import Backend
from detr.evaluation.coco import CocoEvaluator, Evaluation
from detr.structures import Classes, Detections

CATEGORIES = 80
OBJECTS_PER_IMAGE = 7  # as in COCO


def synthesise(images: int, boxes: int, seed: int = 0) -> tuple[dict[str, Any], dict[int, Detections]]:
    """Ground truth and detections: for each object one box near it, the others anywhere."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    found: dict[int, Detections] = {}
    per_image = boxes // images
    for image in range(1, images + 1):
        size = rng.uniform(8, 300, (OBJECTS_PER_IMAGE, 2))
        corner = rng.uniform(0, 640 - size)
        labels = rng.integers(0, CATEGORIES, OBJECTS_PER_IMAGE)
        for start, extent, label in zip(corner, size, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [*start.tolist(), *extent.tolist()],
                    "area": float(extent.prod()),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        found[image] = _detections(rng, corner, size, labels, per_image)
    truth = {
        "images": [{"id": image} for image in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CATEGORIES + 1)],
        "annotations": annotations,
    }
    return truth, found


def _detections(
    rng: np.random.Generator, corner: np.ndarray, size: np.ndarray, labels: np.ndarray, count: int
) -> Detections:
    near = np.concatenate([corner, corner + size], axis=1) + rng.normal(0, 0.05, (len(size), 4)) * size[:, [0, 1, 0, 1]]
    others = max(0, count - len(near))
    start = rng.uniform(0, 500, (others, 2))
    anywhere = np.concatenate([start, start + rng.uniform(8, 140, (others, 2))], axis=1)
    scores = np.concatenate([rng.uniform(0.2, 1, len(near)), rng.uniform(0, 0.5, others)])[:count]
    order = np.argsort(-scores, kind="stable")
    return Detections(
        scores=torch.tensor(scores[order], dtype=torch.float32),
        labels=torch.tensor(np.concatenate([labels, rng.integers(0, CATEGORIES, others)])[:count][order]),
        boxes=torch.tensor(np.concatenate([near, anywhere])[:count][order], dtype=torch.float32),
    )


def measure(backend: Backend, truth: dict[str, Any], found: dict[int, Detections]) -> tuple[float, float, Evaluation]:
    """Seconds to load the ground truth, seconds to evaluate, outcome."""
    classes = Classes.contiguous({category["id"]: category["name"] for category in truth["categories"]})
    begin = time.perf_counter()
    evaluator = CocoEvaluator(backend=backend, ground_truth=truth, classes=classes)
    loaded = time.perf_counter()
    evaluator.update(list(found), list(found.values()))
    evaluation = evaluator.compute()
    return loaded - begin, time.perf_counter() - loaded, evaluation


def difference(one: Evaluation, other: Evaluation) -> float:
    """The largest between any two of the 12 numbers, the APs of the classes, and the precisions."""
    numbers = [abs(one.metrics[name] - other.metrics[name]) for name in one.metrics]
    classes = [abs(one.per_class[name] - other.per_class[name]) for name in one.per_class]
    return max(*numbers, *classes, float(np.abs(one.precision - other.precision).max()))


def evaluate(backend: Backend, images: int, boxes: int) -> None:
    """Evaluate synthetic boxes, from the beginning."""
    measure(backend, *synthesise(images, boxes))


def figures(quick: bool = False) -> Iterator[Figure]:
    images, boxes = (50, 2000) if quick else (2000, 200_000)
    truth, found = synthesise(images, boxes)
    ours, theirs = partial(evaluate, "hotcoco", images, boxes), partial(evaluate, "pycocotools", images, boxes)
    yield Figure(
        name="evaluation",
        comparison=alternate(
            partial(measure, "hotcoco", truth, found),
            partial(measure, "pycocotools", truth, found),
            turns=1 if quick else 3,
            warmup=0,
        ),
        what=f"hotcoco, the default, with pycocotools: {images} images, {boxes} boxes, ground truth and all numbers",
        target=0.02,
        memory=None if quick else peak_memory(ours, theirs, imports=("hotcoco", "pycocotools.cocoeval")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--boxes", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    truth, found = synthesise(arguments.images, arguments.boxes)
    backends = [backend for backend in get_args(Backend) if importlib.util.find_spec(backend)]
    runs: dict[str, list[tuple[float, float, Evaluation]]] = {backend: [] for backend in backends}
    for _ in range(arguments.repeats):
        for backend in backends:
            runs[backend].append(measure(backend, truth, found))
    report(runs, arguments)


def report(runs: dict[str, list[tuple[float, float, Evaluation]]], arguments: argparse.Namespace) -> None:
    print(
        f"{arguments.images} images, {arguments.boxes} boxes, {CATEGORIES} classes, {os.cpu_count()} cores, "
        f"best of {arguments.repeats}"
    )
    print(f"{'backend':18}{'load s':>9}{'evaluate s':>12}{'× fastest':>11}{'AP':>9}   difference to pycocotools")
    reference = runs["pycocotools"][0][2]
    fastest = min(seconds for measured in runs.values() for _, seconds, _ in measured)
    for backend, measured in runs.items():
        load, seconds = (min(run[index] for run in measured) for index in (0, 1))
        evaluation = measured[0][2]
        print(
            f"{backend:18}{load:9.2f}{seconds:12.2f}{seconds / fastest:11.1f}{evaluation.metrics['AP']:9.4f}"
            f"   {difference(evaluation, reference):.1e}"
        )


if __name__ == "__main__":
    main()
