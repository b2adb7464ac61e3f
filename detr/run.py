"""One run from a checked config: train or evaluate, say where everything lies."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from detr import distributed
from detr.assembly import assemble, assemble_evaluation, check_model
from detr.config import Config, build, check
from detr.config.blame import own_parts_blamed
from detr.config.build import MissingModuleError
from detr.data.dataset import ImageSet
from detr.environment import hardware, revision
from detr.errors import Interrupted, UserError, in_words
from detr.evaluation.metrics import Evaluation
from detr.evaluation.resampling import intervals
from detr.inference.recipes import config_of
from detr.texts import pasted
from detr.tracking.code import code_of
from detr.tracking.console import Console
from detr.tracking.failure import failed_run_on_error
from detr.tracking.record import RunRecord
from detr.tracking.run_folder import RUN, RunFolder
from detr.tracking.status import State, update_status
from detr.tracking.summary import count_parameters, log_start, show_training, write_evaluation
from detr.training.interruption import requeueing
from detr.training.resuming import find_checkpoint
from detr.training.trainer import Trainer
from detr.weights.checkpoint import identity
from detr.weights.sources import load

log = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Train as the config says, in the run folder that Hydra made."""
    own = distributed.is_main()  # the folder, and whatever is said
    folder = RunFolder(config.directory)
    with (
        folder.held() if own else contextlib.nullcontext(),
        failed_run_on_error(config),
        own_parts_blamed(config.values),
    ):
        check_model(config.values)
        checkpoint, source = find_checkpoint(config.values["resume"], folder)
        if own:
            folder.prepare(config.values["resume"], fresh=checkpoint is None)
        parts = assemble(config, checkpoint, source)
        trainer = Trainer(parts, folder=folder)
        if checkpoint is not None:
            trainer.resume(checkpoint, source)
        if trainer.done:
            log.info("%s is finished: %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)
            return
        trainer.plan()
        val_set = None if parts.validation is None else parts.validation.loader.dataset
        record = RunRecord.of(
            config,
            git=revision(),
            code=parts.code.to_dict(),
            hardware=hardware(),
            parameters=count_parameters(parts.model),
            processes=distributed.world_size(),
            data={"train": parts.recipe.data} | ({} if val_set is None else {"val": val_set.fingerprint()}),
            classes=list(parts.recipe.classes.names),
            steps=trainer.steps,
            init_from=parts.recipe.origin.get("init_from"),
        )
        if own:
            folder.keep_config(config.hydra)
            parts.code.keep(folder.path)
            folder.describe(record)
            if parts.recipe.held_out is not None:
                folder.keep_held_out(parts.recipe.held_out)
        with requeueing(parts.options.requeue and own), parts.logger as logger:
            logger.start(
                directory=folder.path,
                config=config.stored,
                run_name=config.values["name"],
                record=record,
                run_id=None if checkpoint is None else checkpoint.wandb_id,
            )
            if checkpoint is not None:
                take_up(folder, source, trainer)
            log_start(parts.model, parts.loader.dataset, val_set, trainer.steps, folder.path)
            logger.log_samples(parts.loader)
            fit(trainer, record)
            if own:
                show_training(trainer.console, trainer.progress.best, folder, logger, briefly=config.sweep is not None)


def fit(trainer: Trainer, record: RunRecord) -> None:
    """Train to the end; run.json, status.json and the logger's summary say how the run ended.

    Raises:
        Interrupted: a signal asked for the end; how to go on is said.
    """
    keep_end(trainer, record, status="running")
    try:
        trainer.fit()
    except Interrupted as interruption:
        ended = f"{interruption} in step {trainer.progress.step} of {trainer.steps}"
        again = "" if record.sweep else f"; continue with {pasted(hydra__run__dir=trainer.folder.path, resume='auto')}"
        log.warning("%s%s", ended, again)
        keep_end(trainer, replace(record, ended=ended), status="running")
        raise
    except Exception as error:
        keep_end(trainer, record, status="failed", error=f"{type(error).__name__}: {in_words(error)}")
        raise
    log.info(trainer.ended)
    keep_end(trainer, replace(record, ended=trainer.ended, intervals=over_images(trainer)), status="finished")


def keep_end(trainer: Trainer, record: RunRecord, *, status: State, error: str | None = None) -> None:
    """Write how far a run is and, where it is over, how it ended; the first process does."""
    if not distributed.is_main():
        return
    progress, folder = trainer.progress, trainer.folder
    best_step = None if progress.best is None else int(progress.best["step"])
    update_status(folder.path, status=status, error=error, ended=record.ended)
    folder.describe(replace(record, minutes=progress.seconds / 60, best_step=best_step))
    trainer.logger.log_summary({"minutes": progress.seconds / 60, "ended": record.ended or status})


def over_images(trainer: Trainer) -> dict[str, tuple[float, float]] | None:
    """Return the intervals of the best epoch's metrics over images, for the first process to keep."""
    if trainer.validation is None or trainer.progress.best is None or not distributed.is_main():
        return None
    try:
        found = json.loads((trainer.folder.path / "predictions.json").read_bytes())  # of the best epoch
    except (OSError, ValueError) as error:
        log.warning("there are no intervals over images: %s", in_words(error))
        return None
    return resampled(trainer.validation.loader.dataset, found)


def resampled(images: ImageSet, found: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]] | None:
    """Return the intervals over images of the metrics of what was found; None, and a warning, where there are none."""
    try:
        return intervals(images.ground_truth(), found)
    except Exception as error:  # a data set of the user's may have a ground truth of its own kind
        log.warning("there are no intervals over images: %s", in_words(error))
        return None


def take_up(folder: RunFolder, source: str, trainer: Trainer) -> None:
    """Make the folder's rows and best results those of the run so far."""
    place = Path(source).resolve().parent
    other = RunFolder(place.parent) if place.name == "checkpoints" and not source.startswith("http") else None
    if other is None or other.path != folder.path.resolve():
        trainer.save_step()  # first, or the other run's best.pt would be the newest checkpoint here
    if distributed.is_main():
        if other is not None:
            folder.adopt(other, trainer.progress.best)
        folder.keep_rows(trainer.progress.reported)
    log.info("resuming from %s after %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)


def evaluate(config: Config) -> None:
    """Evaluate weights on a split. A checkpoint's own config is the base; the overrides set aside come on top."""
    checkpoint, split, iou = (config.values[key] for key in ("checkpoint", "split", "iou"))
    folder = RunFolder(config.directory)
    if distributed.is_main():
        folder.claim()
    with distributed.main_first():
        weights = load(checkpoint)
    try:
        values, stored = check(config_of(weights, config.aside, config.folders))
    except MissingModuleError as error:
        raise error.lay_in({} if weights.checkpoint is None else weights.checkpoint.recipe.modules) from error
    console = Console(quiet=not distributed.is_main())
    with own_parts_blamed(values):
        model, validation = assemble_evaluation(values, weights, split)
        dataset = validation.loader.dataset
        if config.values["tiles"] is not None:
            from detr.inference.tiled_evaluation import tiled  # here, as a training needs nothing of it

            size, overlap = config.values["tiles"], config.values["overlap"]
            validation.evaluator = tiled(validation.evaluator, model, dataset.classes, values, size, overlap)
        if config.values["report"]:
            check_report(dataset, split, masks=validation.evaluator.needs_masks is not None, iou=iou)
        started = time.monotonic()
        with console.evaluation(len(dataset)) as bar:
            outcome = validation(model, bar.advance)
    if outcome is None:
        return
    log.info("%d images in %.1f s", len(dataset), time.monotonic() - started)
    code = code_of(values)
    record = RunRecord.of(
        config,
        git=revision(),
        code=code.to_dict(),
        hardware=hardware(),
        data={split: dataset.fingerprint()},
        classes=list(dataset.classes.names),
        images=len(dataset),
        checkpoint=identity(checkpoint, weights.checkpoint),
        split=split,
    )
    folder.keep_config(config.hydra | {"evaluated.yaml": yaml.safe_dump(stored, sort_keys=False)})
    code.keep(folder.path)
    shown = console if config.sweep is None else Console(quiet=True)  # a sweep has a table of all
    write_evaluation(outcome, folder, shown, checkpoint, split)
    if config.values["report"]:
        from detr.analysing.report import report  # here, as a training needs nothing of it

        report(dataset.ground_truth(), outcome.results, dataset.files, folder.path, shown, checkpoint, split, iou)
    if outcome.evaluation is not None:
        record = replace(record, intervals=resampled(dataset, outcome.results))
    folder.describe(record)
    if outcome.evaluation is not None:
        tell_training(outcome.evaluation, folder, record)
        with build(config.values["logger"]) as logger:
            logger.start(directory=folder.path, config=stored, run_name=values["name"], record=record, job_type="eval")
            logger.log_outcome(outcome, (record.checkpoint or {}).get("epoch", 0), best=True)
            logger.log_evaluation(outcome.evaluation.named(), split)
        if logger.place is not None:
            console.places({"W&B": logger.place})


def check_report(dataset: ImageSet, split: str, *, masks: bool, iou: str) -> None:
    """Raise UserError if there is nothing to make an error report of: no annotations, or no masks to compare."""
    if not dataset.annotated:
        raise UserError(f"report=true, but the {split} split has no annotations to compare with; leave it out")
    if iou == "masks" and not masks:
        raise UserError("iou=masks, but only boxes are evaluated; evaluator.masks=true evaluates masks, too")


def tell_training(evaluation: Evaluation, folder: RunFolder, record: RunRecord) -> None:
    """Note an evaluation in the folder of the training that its checkpoint is of, if there is one."""
    assert record.checkpoint is not None
    assert record.split is not None
    training = RunFolder(record.checkpoint["run"] or "")
    if record.checkpoint["run"] is None or not (training.path / RUN).exists():
        return
    facts = {
        "folder": str(folder.path.resolve()),
        "checkpoint": record.checkpoint,
        "overrides": [each for each in record.overrides if each.partition("=")[0] not in ("checkpoint", "split")],
        "data": asdict(record.data[record.split]) if record.data else None,
        "metrics": evaluation.named(),
    }
    try:
        training.note_evaluation(record.split, facts)
    except UserError as error:  # a training that may be read only
        log.warning("%s does not know of this evaluation: %s", training.path, error)
