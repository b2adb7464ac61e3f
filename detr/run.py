"""One run from a composed config: build the parts, train or evaluate, say where everything lies."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from detr import distributed
from detr.assembly import (
    build_model,
    build_validation,
    check_masks,
    check_model,
    check_monitor,
    eval_batch_size,
    training_data,
    warn_from_scratch,
)
from detr.config import build, check, override, resolved, unresolved
from detr.data.coco import CocoDetection, CocoSplits, check_capacity
from detr.data.loader import train_loader
from detr.entry import run_directory, run_facts
from detr.environment import git_sha, hardware, seed_everything, seed_torch
from detr.errors import Interrupted, UserError
from detr.models.detr import DETR
from detr.structures import Classes
from detr.tracking.console import Console
from detr.tracking.logger import NullLogger
from detr.tracking.recording import record_evaluation, recorded
from detr.tracking.report import count_parameters, log_start, show_results, write_report
from detr.tracking.run_folder import RunFolder
from detr.training.interruption import requeueing
from detr.training.options import Options
from detr.training.resuming import check_unchanged, describe_data, find_checkpoint
from detr.training.trainer import Trainer
from detr.weights.sources import Weights, load, load_strictly
from detr.weights.transfer import start_from

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]


@recorded
def train(config: DictConfig) -> None:
    """Train as the checked config says, in the run folder that Hydra made."""
    plain = resolved(config)
    check_model(plain)
    folder = RunFolder(run_directory())
    options: Options = build(plain["trainer"], "trainer")
    device = distributed.own_device(options.device)
    checkpoint, source = find_checkpoint(plain["resume"], folder)
    if distributed.is_main():
        prepare(folder, plain["resume"], fresh=checkpoint is None)
    seed_everything(plain["seed"])
    with distributed.main_first():
        train_set, val_set = training_data(plain, options.overfit_batches)
        facts = {
            "config": unresolved(config),
            "classes": train_set.classes.to_dict(),
            "data": describe_data(train_set),
        }
        if checkpoint is not None and not plain["resume_changed"]:
            check_unchanged(checkpoint, facts, source)
        model = build_model(plain, train_set.classes, pretrained=checkpoint is None and plain["init_from"] is None)
        check_capacity(train_set, model.queries.num_queries)
        facts["origin"] = (
            initialize(model, plain["init_from"], train_set, options)
            if checkpoint is None
            else checkpoint.get("origin", {})
        )
    if distributed.rank():
        seed_torch(plain["seed"], distributed.rank())  # dropout of its own
    trainer = build_trainer(plain, options, model.to(device), train_set, val_set, folder, facts)
    info = run_facts() | {"git": git_sha(ROOT), "hardware": hardware(), "parameters": count_parameters(model)}
    info |= facts["origin"] | {"processes": distributed.world_size()}
    with requeueing(options.requeue and distributed.is_main()), trainer.logger as logger:
        if checkpoint is not None:
            trainer.resume(checkpoint, source)
            if trainer.done:
                log.info("%s is finished: %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)
                return
        if distributed.is_main():
            folder.describe(info)
        logger.start(
            directory=folder.path,
            config=plain,
            run_name=plain["name"],
            info=info,
            run_id=None if checkpoint is None else checkpoint["wandb_id"],
        )
        if checkpoint is not None:
            take_up(folder, source, trainer)
        log_start(info, train_set, val_set, device, folder)
        best = fit(trainer)
        if not distributed.is_main():
            return
        if folder.best.exists():  # not where the validation split has no annotations
            logger.log_checkpoint(folder.best)
        show_results(trainer.console, best, folder, logger.directory)


def build_trainer(
    plain: dict[str, Any],
    options: Options,
    model: DETR,
    train_set: CocoDetection,
    val_set: CocoDetection,
    folder: RunFolder,
    facts: dict[str, Any],
) -> Trainer:
    """What trains a model that is on its device already.

    Raises:
        UserError: a part refuses its arguments, or the validation has no such metric or no masks.
    """
    device = next(model.parameters()).device
    optimizer = build(plain["optimizer"], "optimizer", model=model)
    criterion = build(plain["loss"], "loss").to(device)
    batch_size = eval_batch_size(plain["dataloader"], model)
    validation = build_validation(plain, val_set, options, device, criterion, batch_size)
    check_monitor(options.monitor, validation.metric_names)
    check_masks(model, validation)
    return Trainer(
        options=options,
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        schedule=build(plain["scheduler"], "scheduler"),
        loader=train_loader(
            train_set,
            batch_size=plain["dataloader"]["batch_size"],
            num_workers=plain["dataloader"]["num_workers"],
            seed=plain["seed"],
            share=(distributed.rank(), distributed.world_size()),
        ),
        validation=validation,
        logger=build(plain["logger"], "logger") if distributed.is_main() else NullLogger(),
        folder=folder,
        facts=facts,
    )


def prepare(folder: RunFolder, resume: str | None, *, fresh: bool) -> None:
    """Make sure that the rows in the folder will be those of one run."""
    if resume is None:
        folder.claim()
    elif fresh:
        folder.keep_rows(0)


def fit(trainer: Trainer) -> dict[str, float] | None:
    """Train to the end. Returns the best epoch's metrics.

    Raises:
        Interrupted: a signal asked for the end; how to go on is said.
    """
    try:
        return trainer.fit().best
    except Interrupted:
        folder = trainer.folder.path
        log.warning("stopped in step %d; go on with hydra.run.dir=%s resume=auto", trainer.progress.step, folder)
        raise


def evaluate(config: DictConfig, overrides: list[str]) -> None:
    """Evaluate weights on a split. A checkpoint's own config is the base; overrides come on top.

    Weights from elsewhere have no config: the base is their experiment, of a zoo name or among the overrides.
    """
    with distributed.main_first():
        weights = load(config.checkpoint)
    own = (
        override({}, with_experiment(weights, overrides))
        if weights.checkpoint is None
        else override(weights.checkpoint["config"], overrides)
    )
    check(own)
    plain = resolved(own)
    options: Options = build(plain["trainer"], "trainer")
    device = distributed.own_device(options.device)
    with distributed.main_first():
        data = build(plain["dataset"], "dataset")
        classes = classes_to_evaluate(weights, data)
        dataset = data.split(
            config.split, transform=build(plain["augmentation"]["eval"], "augmentation.eval"), classes=classes
        )
    model = build_model(plain, dataset.classes, pretrained=False)
    load_strictly(model, weights)
    batch_size = eval_batch_size(plain["dataloader"], model, overrides)
    validation = build_validation(plain, dataset, options, device, None, batch_size)
    check_masks(model, validation)
    console = Console(quiet=not distributed.is_main())
    started = time.monotonic()
    with console.evaluation(len(dataset)) as bar:
        report = validation(model.to(device), bar.advance)
    if report is None:
        return
    log.info("%d images in %.1f s", len(dataset), time.monotonic() - started)
    write_report(report, Path(run_directory()), console, checkpoint=config.checkpoint, split=config.split)
    if report.evaluation is not None:
        record_evaluation(plain, report.evaluation.named(), overrides, checkpoint=config.checkpoint, split=config.split)


def with_experiment(weights: Weights, overrides: list[str]) -> list[str]:
    """Overrides that say what config the weights were trained with."""
    if any(each.startswith("experiment=") for each in overrides):
        return overrides
    if weights.experiment is None:
        raise UserError(
            f"{weights.source} has no config of its own; give the experiment that it is of, such as "
            f"{' or '.join(f'experiment={name}' for name in weights.likely_experiments())}"
        )
    return [f"experiment={weights.experiment}", *overrides]


def classes_to_evaluate(weights: Weights, data: CocoSplits) -> Classes:
    """What the rows of the class head stand for, in category ids of the data set.

    Raises:
        UserError: the data set's classes are not those of the weights.
    """
    if weights.checkpoint is not None and weights.classes is not None:
        return weights.classes
    if weights.classes is not None and data.categories == "identity":
        return weights.classes
    if weights.classes is not None and weights.classes.names != data.classes.names:
        raise UserError(
            f"the classes of {weights.source} ({shortened(weights.classes.names)}) are not those of the data set "
            f"({shortened(data.classes.names)}); for COCO's classes give dataset.categories=identity, for others train "
            f"with init_from={weights.source}"
        )
    return data.classes


def shortened(names: Sequence[str], count: int = 3) -> str:
    """The first names, and how many there are."""
    shown = ", ".join([name for name in names if name != Classes.HOLE][:count])
    return f"{len(names)}: {shown}, …" if len(names) > count else shown


def initialize(model: DETR, source: str | None, train_set: CocoDetection, options: Options) -> dict[str, Any]:
    """Start from other weights, or warn where they are missed; what became of them, for the run's record."""
    if source is None:
        if options.overfit_batches is None:
            warn_from_scratch(model, len(train_set))
        return {}
    transfer = start_from(model, load(source), train_set.classes)
    for line in transfer.lines():
        log.info(line)
    return {"init_from": transfer.to_dict()}


def take_up(folder: RunFolder, source: str, trainer: Trainer) -> None:
    """Make the folder's rows and best results those of the run so far."""
    other = None if source.startswith("http") else RunFolder(Path(source).resolve().parents[1])
    if other is None or other.path != folder.path.resolve():
        trainer.save_step()  # first, or the other run's best.pt would be the newest checkpoint here
    if distributed.is_main():
        if other is not None:
            folder.adopt(other, trainer.progress.best)
        folder.keep_rows(trainer.progress.reported)
    log.info("resuming from %s after %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)
