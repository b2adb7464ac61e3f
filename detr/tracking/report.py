"""What a run says of itself before the first step and after the last one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from detr.data.coco import CocoDetection
from detr.evaluation.validation import Report
from detr.files import write_json, write_json_list
from detr.tracking.console import Console
from detr.tracking.run_folder import RunFolder

log = logging.getLogger(__name__)


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Of the whole model and of what learns."""
    return {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def log_start(
    info: dict[str, Any], train_set: CocoDetection, val_set: CocoDetection, device: torch.device, folder: RunFolder
) -> None:
    """What is trained on what, before the first step."""
    parameters = info["parameters"]
    log.info(
        "%.1f million parameters, %.1f million trainable; %d training and %d validation images, %d classes; %s; %s",
        parameters["total"] / 1e6,
        parameters["trainable"] / 1e6,
        len(train_set),
        len(val_set),
        train_set.classes.num_classes,
        device,
        folder.path,
    )


def show_results(console: Console, best: dict[str, float] | None, folder: RunFolder, wandb_folder: Path | None) -> None:
    """The table at the end of a training."""
    if best is not None:
        metrics = {name.removeprefix("val/"): value for name, value in best.items()}
        per_class = {name.removeprefix("AP/"): value for name, value in metrics.items() if name.startswith("AP/")}
        console.results("Validation", rows_of(f"best (epoch {best['epoch']})", metrics), per_class)
        console.panoptic(metrics)
    places: dict[str, Path | str] = {"metrics": folder.metrics, "best checkpoint": folder.best}
    places |= {"predictions": folder.path / "predictions", "evaluate": f"python evaluate.py checkpoint={folder.best}"}
    if wandb_folder is not None:
        places["W&B"] = f"wandb sync {wandb_folder}"
    console.places(places)


def write_report(report: Report, folder: Path, console: Console, *, checkpoint: str, split: str) -> None:
    """predictions.json, metrics.json, precision-recall arrays and, of a panoptic evaluation, the submission."""
    write_json_list(folder / "predictions.json", report.results)
    places: dict[str, Path | str] = {"predictions": folder / "predictions.json"}
    if report.submission is not None:
        report.submission.save(folder)
        places["segments"] = folder / "panoptic.json"
    if report.evaluation is None:
        log.info("the %s split has no annotations: predictions only", split)
    else:
        evaluation = report.evaluation
        write_json(folder / "metrics.json", evaluation.to_dict(), indent=2)
        evaluation.save_precision_recall(folder / "precision_recall.npz")
        console.results(checkpoint, rows_of(split, evaluation.named()), evaluation.per_class)
        console.panoptic(evaluation.named())
        places["metrics"] = folder / "metrics.json"
    console.places(places)


def rows_of(name: str, metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Boxes and, where they were evaluated, masks as two rows of a table."""
    segm = {key.removeprefix("segm/"): value for key, value in metrics.items() if key.startswith("segm/")}
    return {name: metrics} | ({f"{name}, masks": segm} if segm else {})
