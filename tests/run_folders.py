"""Run folders as training leaves them, without the training; and a small data set to have been validated on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from detr.comparison.reading import Run, read_run

CATEGORIES = {3: "cat", 9: "dog"}
HIGHER = {"optimizer": {"lr": 0.002}}  # the config of another setting


def write_data(root: Path, images: int = 12) -> Path:
    """A COCO folder: one cat in every image, a dog in every other one."""
    (root / "images").mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for index in range(images):
        Image.new("RGB", (80, 60), (20 * index % 256, 120, 90)).save(root / "images" / f"{index:02d}.jpg")
        for category in CATEGORIES if index % 2 else (3,):
            box = [5 + 2 * index, 8, 20, 18] if category == 3 else [40, 20, 25, 30]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": category, "bbox": box}
            )
    content = {
        "images": [
            {"id": 100 + index, "file_name": f"{index:02d}.jpg", "width": 80, "height": 60} for index in range(images)
        ],
        "categories": [{"id": category, "name": name} for category, name in CATEGORIES.items()],
        "annotations": annotations,
    }
    (root / "val.json").write_text(json.dumps(content))
    return root


def predictions(root: Path, right: int) -> list[dict[str, Any]]:
    """Every object is found in the first `right` images; in the others the boxes are elsewhere."""
    results = []
    for annotation in json.loads((root / "val.json").read_text())["annotations"]:
        x, y, width, height = annotation["bbox"]
        moved = 0 if annotation["image_id"] - 100 < right else 30
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [x + moved, y, width, height],
                "score": 0.9 - 0.001 * annotation["id"],
            }
        )
    return results


def expected_ap(right: int) -> float:
    """Of `predictions` on 12 images, whose right boxes have the highest scores: precision 1 up to a recall, then none.

    There are 12 cats, and 6 dogs in the odd images; precision is read off at 101 recalls.
    """
    recalls = [(found * 100 // objects + 1 if found else 0) / 101 for found, objects in ((right, 12), (right // 2, 6))]
    return sum(recalls) / 2


def write_run(
    folder: Path,
    aps: Sequence[float],
    *,
    data: Path | str = "data",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    overrides: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    right: int | None = None,
) -> Path:
    """A run with an AP for each epoch, ten steps an epoch.

    Args:
        folder: of the run.
        aps: from 0 to 1.
        data: root of the data set.
        seed, config, trainer: of the recorded config.
        metrics: further validation metrics, the same in each epoch.
        overrides: of the command line.
        facts: run.json.
        right: see `predictions`; None: no predictions.json.
    """
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    recorded = {
        "paths": {"output_root": str(folder.parent)},
        "dataset": {
            "_target_": "detr.data.coco.CocoSplits",
            "root": str(data),
            "categories": "contiguous",
            "train": {"images": "${dataset.root}/images", "annotations": "${dataset.root}/val.json"},
            "val": {"images": "${dataset.root}/images", "annotations": "${dataset.root}/val.json"},
        },
        "optimizer": {"lr": 0.001, "lr_by_pattern": {"backbone": 0.0003}},
        "trainer": {"max_epochs": len(aps), "max_steps": None, "monitor": "AP", "patience": None} | dict(trainer or {}),
        "name": "${hydra:runtime.choices.experiment}",
        "logger": {"group": folder.name},
        "seed": seed,
    } | dict(config or {})
    (hydra / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    (hydra / "overrides.yaml").write_text(yaml.safe_dump([f"seed={seed}", *overrides]))
    (hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"cwd": "/started/here"}}}))
    rows = [_row(epoch, ap, metrics or {}) for epoch, ap in enumerate(aps, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if facts is not None:
        (folder / "run.json").write_text(json.dumps(facts))
    if right is not None:
        (folder / "predictions.json").write_text(json.dumps(predictions(Path(data), right)))
    return folder


def _row(epoch: int, ap: float, metrics: Mapping[str, float]) -> dict[str, float]:
    """Of an epoch, in metrics.jsonl."""
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train/loss": 9.0 / epoch,
        "train/seconds": 30.0 * epoch,
        "val/AP": ap,
        "val/AP50": ap,
        "val/APl": -1.0,
        "val/loss": 8.0 / epoch,
        **{f"val/{name}": value for name, value in metrics.items()},
    }


def write_evaluation(run: Path, ap: float, *, data: Path | None = None, right: int = 0, **changed: Any) -> Path:
    """What evaluate.py leaves of an evaluation on the test split: in a folder of its own, and in the run's."""
    folder = run.parent / f"{run.name}_evaluated"
    (folder / ".hydra").mkdir(parents=True)
    if data is not None:
        dataset = {
            "_target_": "detr.data.coco.CocoSplits",
            "root": str(data),
            "categories": "contiguous",
            "train": {"images": f"{data}/images", "annotations": f"{data}/val.json"},
            "val": {"images": f"{data}/images", "annotations": f"{data}/gone.json"},
            "test": {"images": f"{data}/images", "annotations": f"{data}/val.json"},
        }
        (folder / ".hydra" / "evaluated.yaml").write_text(yaml.safe_dump({"dataset": dataset}))
        (folder / "predictions.json").write_text(json.dumps(predictions(data, right)))
    facts = {
        "folder": str(folder),
        "checkpoint": {"path": str(run / "checkpoints" / "best.pt")},
        "overrides": [],
        "data": None,
        "metrics": {"AP": ap, "AP50": ap, "AP/cat": ap / 2},
    } | changed
    (run / "evaluations").mkdir()
    (run / "evaluations" / "test.json").write_text(json.dumps(facts))
    return run


def make_run(folder: Path, aps: Sequence[float], **options: Any) -> Run:
    return read_run(write_run(folder, aps, **options))
