"""One run from a composed config: build the parts, train or evaluate, say where everything lies."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

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
from detr.checkpoint import newest_intact
from detr.config import build, check, override, resolved, run_directory, run_facts, unresolved
from detr.console import Console
from detr.data.coco import CocoDetection, CocoSplits, check_capacity
from detr.data.loader import train_loader
from detr.engine import Options, Trainer
from detr.environment import git_sha, hardware, resolve_device, seed_everything
from detr.errors import UserError
from detr.models.detr import DETR
from detr.report import count_parameters, log_start, show_results, write_report
from detr.run_folder import RunFolder
from detr.structures import Classes
from detr.transfer import start_from
from detr.weights import Weights, load, load_strictly

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]


def train(config: DictConfig) -> None:
    """Train as the checked config says, in the run folder that Hydra made."""
    plain = resolved(config)
    check_model(plain)
    folder = RunFolder(run_directory())
    options: Options = build(plain["trainer"], "trainer")
    device = resolve_device(options.device)
    checkpoint, source = find_checkpoint(plain["resume"], folder)
    if plain["resume"] is None:
        folder.claim()
    elif checkpoint is None:
        folder.keep_rows(0)
    seed_everything(plain["seed"])
    train_set, val_set = training_data(plain, options.overfit_batches)
    model = build_model(plain, train_set.classes, pretrained=checkpoint is None and plain["init_from"] is None)
    check_capacity(train_set, model.queries.num_queries)
    origin = {} if checkpoint is not None else initialize(model, plain["init_from"], train_set, options)
    model.to(device)
    optimizer = build(plain["optimizer"], "optimizer", model=model)
    criterion = build(plain["loss"], "loss")
    validation = build_validation(
        plain, val_set, options, device, criterion, eval_batch_size(plain["dataloader"], model)
    )
    check_monitor(options.monitor, validation.metric_names)
    check_masks(model, validation)
    logger = build(plain["logger"], "logger")
    info = run_facts() | {"git": git_sha(ROOT), "hardware": hardware(), "parameters": count_parameters(model)} | origin
    with logger:
        trainer = Trainer(
            options=options,
            model=model,
            criterion=criterion.to(device),
            optimizer=optimizer,
            schedule=build(plain["scheduler"], "scheduler"),
            loader=train_loader(
                train_set,
                batch_size=plain["dataloader"]["batch_size"],
                num_workers=plain["dataloader"]["num_workers"],
                seed=plain["seed"],
            ),
            validation=validation,
            logger=logger,
            folder=folder,
            facts={"config": unresolved(config), "classes": train_set.classes.to_dict()},
        )
        if checkpoint is not None:
            trainer.resume(checkpoint, source)
            if trainer.finished:
                log.info("%s is finished: %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)
                return
            take_up(folder, source, trainer)
        folder.describe(info)
        logger.start(
            directory=folder.path,
            config=plain,
            run_name=plain["name"],
            info=info,
            run_id=None if checkpoint is None else checkpoint["wandb_id"],
        )
        log_start(info, train_set, val_set, device, folder)
        best = trainer.fit().best
        if folder.best.exists():  # not where the validation split has no annotations
            logger.log_checkpoint(folder.best)
        show_results(trainer.console, best, folder, logger.directory)


def evaluate(config: DictConfig, overrides: list[str]) -> None:
    """Evaluate weights on a split. A checkpoint's own config is the base; overrides come on top.

    Weights from elsewhere have no config: the base is their experiment, of a zoo name or among the overrides.
    """
    weights = load(config.checkpoint)
    own = (
        override({}, with_experiment(weights, overrides))
        if weights.checkpoint is None
        else override(weights.checkpoint["config"], overrides)
    )
    check(own)
    plain = resolved(own)
    options: Options = build(plain["trainer"], "trainer")
    device = resolve_device(options.device)
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
    console = Console()
    started = time.monotonic()
    with console.evaluation(len(dataset)) as bar:
        report = validation(model.to(device), bar.advance)
    log.info("%d images in %.1f s", len(dataset), time.monotonic() - started)
    write_report(report, Path(run_directory()), console, checkpoint=config.checkpoint, split=config.split)


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


def find_checkpoint(resume: str | None, folder: RunFolder) -> tuple[dict[str, Any] | None, str]:
    """The checkpoint to resume from, if any, and where it was found."""
    if resume is None:
        return None, ""
    if resume == "auto":
        checkpoint = newest_intact(folder.checkpoints)
        if checkpoint is None:
            log.info("resume=auto: no checkpoint in %s; starting afresh", folder.checkpoints)
        return checkpoint, str(folder.last)
    found = load(resume).checkpoint
    if found is None or "trainer" not in found:
        raise UserError(f"{resume} has weights but no training state; start from them with init_from={resume}")
    return found, resume


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
    """Make the folder's rows those of the run so far."""
    if not source.startswith("http"):
        folder.adopt(RunFolder(Path(source).resolve().parents[1]))
    folder.keep_rows(trainer.progress.step)
    log.info("resuming from %s after %d epochs, %d steps", source, trainer.progress.epoch, trainer.progress.step)
