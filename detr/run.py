"""One run from a composed config: build the parts, train or evaluate, say where everything lies."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from detr.checkpoint import newest_intact
from detr.config import build, check, override, resolved, run_directory, run_facts, unresolved
from detr.config.suggest import did_you_mean
from detr.console import Console
from detr.data.coco import CocoDetection, CocoSplits, check_capacity
from detr.data.loader import eval_loader, train_loader
from detr.engine import Options, Trainer, autocast
from detr.environment import git_sha, hardware, resolve_device, seed_everything
from detr.errors import UserError
from detr.evaluation.validation import Report, Validation
from detr.files import write_json, write_json_list
from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.run_folder import RunFolder
from detr.structures import Classes
from detr.transfer import start_from
from detr.weights import Weights, load, load_strictly

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]

ENOUGH_FROM_SCRATCH = 10_000  # images: with fewer, queries without anchors hardly learn where to look


def train(config: DictConfig) -> None:
    """Train as the checked config says, in the run folder that Hydra made."""
    plain = resolved(config)
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
    write_report(report, Path(run_directory()), console, config)


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


def training_data(plain: dict[str, Any], overfit_batches: int | None) -> tuple[CocoDetection, CocoDetection]:
    """Training and validation split; both are the same unaugmented images with `trainer.overfit_batches`."""
    data = build(plain["dataset"], "dataset")
    transforms = {when: build(plain["augmentation"][when], f"augmentation.{when}") for when in ("train", "eval")}
    if overfit_batches is None:
        train_set = data.split("train", transform=transforms["train"], seed=plain["seed"])
        return train_set, data.split("val", transform=transforms["eval"])
    images = overfit_batches * plain["dataloader"]["batch_size"]
    train_set = data.split("train", transform=transforms["eval"])
    subset = train_set.subset(range(min(images, len(train_set))))
    return subset, subset


def build_model(plain: dict[str, Any], classes: Classes, *, pretrained: bool) -> DETR:
    """The detector. Without `pretrained` no backbone weights are fetched: a checkpoint brings them."""
    node = plain["model"]
    if not pretrained:
        node = node | {"backbone": node["backbone"] | {"weights": None}}
    return build(node, "model", num_classes=classes.num_classes)


def check_masks(model: DETR, validation: Validation) -> None:
    """UserError if masks are to be evaluated that the model will not find."""
    key = validation.evaluator.needs_masks
    if key is not None and model.mask_head is None:
        raise UserError(
            f"{key}, but the detector finds no masks; choose mask_head=fpn, or evaluator=coco without masks"
        )


def build_validation(
    plain: dict[str, Any],
    dataset: CocoDetection,
    options: Options,
    device: torch.device,
    criterion: SetCriterion | None,
    batch_size: int,
) -> Validation:
    """Everything that evaluates one split."""
    evaluator = build(plain["evaluator"], "evaluator", ground_truth=dataset.ground_truth(), classes=dataset.classes)
    return Validation(
        loader=eval_loader(dataset, batch_size=batch_size, num_workers=plain["dataloader"]["num_workers"]),
        evaluator=evaluator,
        device=device,
        autocast=functools.partial(autocast, device, options.precision),
        classification=plain["loss"]["classification"],
        criterion=criterion,
    )


def check_monitor(monitor: str, names: list[str]) -> None:
    """UserError if no evaluation will have this metric. `names` is empty where nothing is evaluated."""
    if names and monitor not in names:
        advice = did_you_mean(monitor, names) or f"; it may be {', '.join(each for each in names if '/' not in each)}"
        raise UserError(f"trainer.monitor: the validation has no metric {monitor}{advice}")


def warn_from_scratch(model: DETR, images: int) -> None:
    """The paper's queries need many images to learn where to look; queries with anchors are told, and need few."""
    if images < ENOUGH_FROM_SCRATCH and not model.queries.has_reference:
        log.warning(
            "training the paper's queries from scratch on %d images, which rarely succeeds on fewer than about %d: "
            "start from published weights (experiment=finetune_custom, or init_from=detr_r50), or train the detector "
            "that is made for few images (experiment=quickstart)",
            *(images, ENOUGH_FROM_SCRATCH),
        )


def eval_batch_size(dataloader: dict[str, Any], model: DETR, overrides: Sequence[str] = ()) -> int:
    """Images of a batch in evaluations; 1 for DC5 unless told otherwise.

    Where nothing but an evaluation is asked for, an override of dataloader.batch_size tells otherwise, too.

    The official DC5 models were trained with one image a process, that is without padding, and their authors
    evaluate them so (README of facebookresearch/detr): features at an image's edge depend on the padding behind it.
    """
    keys = {each.lstrip("+").partition("=")[0] for each in overrides}
    if "dataloader.batch_size" in keys and "dataloader.eval_batch_size" not in keys:
        return dataloader["batch_size"]
    if dataloader.get("eval_batch_size") is not None:
        return dataloader["eval_batch_size"]
    if model.backbone.dilated and dataloader["batch_size"] > 1:
        log.info("a DC5 model is evaluated one image at a time; dataloader.eval_batch_size=N changes that")
        return 1
    return dataloader["batch_size"]


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


def rows_of(name: str, metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Boxes and, where they were evaluated, masks as two rows of a table."""
    segm = {key.removeprefix("segm/"): value for key, value in metrics.items() if key.startswith("segm/")}
    return {name: metrics} | ({f"{name}, masks": segm} if segm else {})


def write_report(report: Report, folder: Path, console: Console, config: DictConfig) -> None:
    """predictions.json, metrics.json, precision-recall arrays and, of a panoptic evaluation, the submission."""
    write_json_list(folder / "predictions.json", report.results)
    places: dict[str, Path | str] = {"predictions": folder / "predictions.json"}
    if report.submission is not None:
        report.submission.save(folder)
        places["segments"] = folder / "panoptic.json"
    if report.evaluation is None:
        log.info("the %s split has no annotations: predictions only", config.split)
    else:
        evaluation = report.evaluation
        write_json(folder / "metrics.json", evaluation.to_dict(), indent=2)
        evaluation.save_precision_recall(folder / "precision_recall.npz")
        console.results(str(config.checkpoint), rows_of(config.split, evaluation.named()), evaluation.per_class)
        console.panoptic(evaluation.named())
        places["metrics"] = folder / "metrics.json"
    console.places(places)
