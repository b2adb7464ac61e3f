"""One run from a checked config: train or evaluate, say where everything lies."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from detr import distributed
from detr.assembly import assemble, assemble_evaluation, check_model
from detr.config import Config, build, check, override
from detr.environment import hardware, revision
from detr.errors import Interrupted, UserError
from detr.tracking.console import Console
from detr.tracking.failure import failed_run_on_error
from detr.tracking.record import RunRecord
from detr.tracking.run_folder import RunFolder
from detr.tracking.summary import count_parameters, log_start, show_training, write_evaluation
from detr.training.interruption import requeueing
from detr.training.resuming import find_checkpoint
from detr.training.trainer import Trainer
from detr.weights.sources import Weights, load

log = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Train as the config says, in the run folder that Hydra made."""
    own = distributed.is_main()  # the folder, and whatever is said
    folder = RunFolder(config.directory)
    with folder.held() if own else contextlib.nullcontext(), failed_run_on_error(config):
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
        val_set = parts.validation.loader.dataset
        record = RunRecord.of(
            config,
            git=revision(),
            hardware=hardware(),
            parameters=count_parameters(parts.model),
            processes=distributed.world_size(),
            data={"train": parts.recipe.data, "val": val_set.fingerprint()},
            steps=trainer.steps,
            init_from=parts.recipe.origin.get("init_from"),
        )
        if own:
            folder.keep_config(config.hydra)
            folder.describe(record)
        with requeueing(parts.options.requeue and own), parts.logger as logger:
            logger.start(
                directory=folder.path,
                config=config.values,
                run_name=config.values["name"],
                record=record,
                run_id=None if checkpoint is None else checkpoint.wandb_id,
            )
            if checkpoint is not None:
                take_up(folder, source, trainer)
            log_start(parts.model, parts.loader.dataset, val_set, trainer.steps, folder.path)
            fit(trainer)
            if own:
                show_training(trainer.console, trainer.progress.best, folder, logger)


def fit(trainer: Trainer) -> None:
    """Train to the end.

    Raises:
        Interrupted: a signal asked for the end; how to go on is said.
    """
    try:
        trainer.fit()
    except Interrupted:
        folder = trainer.folder.path
        log.warning("stopped in step %d; continue with hydra.run.dir=%s resume=auto", trainer.progress.step, folder)
        raise


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
    checkpoint, split = config.values["checkpoint"], config.values["split"]
    folder = RunFolder(config.directory)
    if distributed.is_main():
        folder.claim()
    with distributed.main_first():
        weights = load(checkpoint)
    values, _ = check(config_of(weights, config.aside))
    model, validation = assemble_evaluation(values, weights, split)
    console = Console(quiet=not distributed.is_main())
    images = len(validation.loader.dataset)
    started = time.monotonic()
    with console.evaluation(images) as bar:
        outcome = validation(model, bar.advance)
    if outcome is None:
        return
    log.info("%d images in %.1f s", images, time.monotonic() - started)
    folder.keep_config(config.hydra)
    write_evaluation(outcome, folder.path, console, checkpoint=checkpoint, split=split)
    if outcome.evaluation is not None:
        with build(config.values["logger"]) as logger:
            logger.start(
                directory=folder.path,
                config=values,
                run_name=f"{values['name']} {split}",
                record=RunRecord.of(config, checkpoint=checkpoint, split=split),
                job_type="eval",
            )
            logger.log_evaluation(outcome.evaluation.named(), split)


def config_of(weights: Weights, overrides: Sequence[str]) -> DictConfig:
    """Return the config of weights with overrides: a checkpoint's own, else that of the experiment they are of.

    Raises:
        UserError: neither the weights nor the overrides say which experiment that is.
    """
    if weights.checkpoint is not None:
        return override(weights.checkpoint.recipe.config, overrides)
    if any(each.startswith("experiment=") for each in overrides):
        return override({}, overrides)
    if weights.experiment is None:
        raise UserError(
            f"{weights.source} has no config of its own; give the experiment it belongs to, such as "
            f"{' or '.join(f'experiment={name}' for name in weights.likely_experiments())}"
        )
    return override({}, [f"experiment={weights.experiment}", *overrides])
