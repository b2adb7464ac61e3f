"""What a run says of itself before the first step and after the last one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from detr.data.dataset import ImageSet
from detr.drawing.segments import comparison
from detr.errors import in_words
from detr.evaluation.validation import Outcome
from detr.files import write_json
from detr.texts import pasted
from detr.tracking.console import SUMMARY, Console
from detr.tracking.logger import Logger
from detr.tracking.run_folder import RunFolder
from detr.tracking.words import count

log = logging.getLogger(__name__)


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Count the parameters of the whole model and of what learns."""
    return {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def log_start(model: torch.nn.Module, train_set: ImageSet, val_set: ImageSet | None, steps: int, folder: Path) -> None:
    """Say what is trained on what, before the first step."""
    parameters = count_parameters(model)
    log.info(
        "%.1f million parameters, %.1f million trainable; %s for training, %s for validation; %d classes; at most %d "
        "steps; %s; %s",
        parameters["total"] / 1e6,
        parameters["trainable"] / 1e6,
        _size(train_set),
        "none" if val_set is None else _size(val_set),
        train_set.classes.num_classes,
        steps,
        next(model.parameters()).device,
        folder,
    )


def _size(images: ImageSet) -> str:
    """How many images there are, and how many objects in them."""
    return f"{count(len(images), 'image')} with {count(int(images.objects_per_image.sum()), 'object')}"


def show_training(
    console: Console, best: dict[str, float] | None, folder: RunFolder, logger: Logger, *, briefly: bool
) -> None:
    """Keep the best checkpoint as an artifact, print the table at the end of a training, and where everything lies.

    `briefly`: one line, since the sweep that the training is a job of has a table of all.
    Whatever goes wrong here, the training is done: it is a warning.
    """
    try:
        if folder.best.exists():  # not where the validation split has no annotations
            logger.log_checkpoint(folder.best)
        if briefly:
            log.info("%s  %s", "no evaluation" if best is None else in_short(best), folder.path)
        else:
            _show_training(console, best, folder, logger.place)
    except Exception as error:
        log.warning("the training is finished, but its results could not all be shown: %s", in_words(error))


def in_short(metrics: Mapping[str, float]) -> str:
    """Return the metrics that an epoch's line has, and the epoch, of the best one."""
    shown = [f"{name} {metrics[f'val/{name}']:.3f}" for name in SUMMARY if f"val/{name}" in metrics]
    return "  ".join([*shown, f"(best: epoch {metrics['epoch']:.0f})"])


def _show_training(console: Console, best: dict[str, float] | None, folder: RunFolder, wandb_place: str | None) -> None:
    if best is not None:
        metrics = {name.removeprefix("val/"): value for name, value in best.items()}
        per_class = {name.removeprefix("AP/"): value for name, value in metrics.items() if name.startswith("AP/")}
        console.results("Validation", rows_of(f"best (epoch {best['epoch']})", metrics), per_class)
        console.panoptic(metrics)
    places: dict[str, Path | str] = {"metrics": folder.metrics}
    if folder.best.exists():
        places |= {"best checkpoint": folder.best, "predictions": folder.path / "predictions"}
        places["evaluate"] = pasted("detr", "evaluate", checkpoint=folder.best)
    else:  # there is no validation, or its split has no annotations
        places["checkpoint"] = folder.last
    if wandb_place is not None:
        places["W&B"] = wandb_place
    console.places(places)


def write_evaluation(outcome: Outcome, folder: RunFolder, console: Console, checkpoint: str, split: str) -> None:
    """Write predictions, as JSON and as pictures, metrics.json and precision-recall arrays.

    Then print them, and where they lie.
    """
    folder.save_predictions(outcome.results, map(comparison, outcome.examples), outcome.submission)
    places: dict[str, Path | str] = {
        "predictions": folder.path / "predictions.json",
        "pictures": folder.path / "predictions",
    }
    if outcome.submission is not None:
        places["segments"] = folder.path / "panoptic.json"
    if outcome.evaluation is None:
        log.info("the %s split has no annotations: predictions only", split)
    else:
        evaluation = outcome.evaluation
        write_json(folder.path / "metrics.json", evaluation.to_dict(), indent=2)
        evaluation.save_precision_recall(folder.path / "precision_recall.npz")
        console.results(checkpoint, rows_of(split, evaluation.named()), evaluation.per_class)
        console.panoptic(evaluation.named())
        places["metrics"] = folder.path / "metrics.json"
    console.places(places)


def rows_of(name: str, metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return boxes and, where they were evaluated, masks as two rows of a table."""
    segm = {key.removeprefix("segm/"): value for key, value in metrics.items() if key.startswith("segm/")}
    return {name: metrics} | ({f"{name}, masks": segm} if segm else {})
