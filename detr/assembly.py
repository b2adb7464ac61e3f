"""All parts of a run, built from its config and from each other, and what is checked of them together."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detr import distributed
from detr.checking.check import startup_findings
from detr.checking.settings import settings_of
from detr.config import Config, build, build_a
from detr.config.blame import check_first_output, own_parts
from detr.config.build import locate
from detr.config.containers import Section
from detr.config.kinds import expect
from detr.config.suggest import did_you_mean
from detr.data.dataset import DataSet, ImageSet, Split, check_capacity, check_objects
from detr.data.loader import TrainLoader, eval_loader, train_loader
from detr.data.variations import Mixing, MultiScale, Variations
from detr.environment import autocast, keep_freed_memory, seed_everything, seed_torch
from detr.errors import UserError, own_file
from detr.evaluation.evaluator import Evaluator
from detr.evaluation.validation import Validation
from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.models.outputs import check_output
from detr.structures import Classes
from detr.texts import pasted
from detr.tracking.code import code_of
from detr.tracking.logger import Logger, NullLogger
from detr.training.callbacks import Callback
from detr.training.optim import grouped
from detr.training.options import TrainerOptions
from detr.training.parts import Parts
from detr.training.resuming import check_unchanged
from detr.training.schedule import Schedule
from detr.weights.checkpoint import Checkpoint, Recipe
from detr.weights.sources import Weights, load, load_strictly
from detr.weights.transfer import start_from

log = logging.getLogger(__name__)

Values = Mapping[str, Any]  # a config with every interpolation resolved

ENOUGH_FROM_SCRATCH = 10_000  # images: with fewer, queries without anchors hardly learn where to look


def assemble(config: Config, checkpoint: Checkpoint | None = None, source: str = "") -> Parts:
    """Build the parts of a training, in the order in which data flows through them.

    Args:
        config: checked.
        checkpoint, source: what the training will go on from, and where that is; the caller loads its weights.

    Raises:
        UserError: data, weights or parts are not what they should be, or do not fit each other.
    """
    values = config.values
    options = build_a(TrainerOptions, values["trainer"])
    device = distributed.own_device(options.device)
    seed_everything(values["seed"])
    keep_freed_memory()
    with distributed.main_first():
        weights = None if checkpoint is not None or values["init_from"] is None else load(values["init_from"])
        data = build_data(values, checkpoint)
        train_set, val_set = training_data(values, options.overfit_batches, data)
        place, held_out = str(Path.cwd()), getattr(data, "held_out", None)
        recipe = Recipe(config.stored, train_set.classes, train_set.fingerprint(), cwd=place, held_out=held_out)
        if checkpoint is not None and not values["resume_changed"]:
            check_unchanged(checkpoint.recipe, recipe, source)
        fresh = checkpoint is None and weights is None
        model = build_model(values, train_set.classes, pretrained=fresh)
        check_capacity(train_set, model.queries.num_queries)
        origin = {} if checkpoint is None else checkpoint.recipe.origin
        if weights is not None:
            origin = initialize(model, weights, train_set.classes)
        elif fresh and options.overfit_batches is None:
            warn_from_scratch(model, len(train_set))
    if distributed.rank():
        seed_torch(values["seed"], distributed.rank())  # dropout of its own
    model = model.to(device)
    criterion = build_a(SetCriterion, values["loss"]).to(device)
    check_first_output(criterion, own_parts(values))
    loader = build_loader(values, train_set, model)
    validation = None if val_set is None else build_validation(values, val_set, model, options, criterion)
    check_monitor(options.monitor, [] if validation is None else validation.metric_names)
    code = code_of(values)
    return Parts(
        options=options,
        recipe=replace(recipe, origin=origin, folders=config.folders, modules=code.places),
        loader=loader,
        model=model,
        criterion=criterion,
        optimizer=build_optimizer(values["optimizer"], model),
        schedule=build_a(Schedule, values["scheduler"]),
        validation=validation,
        logger=build_a(Logger, values["logger"]) if distributed.is_main() else NullLogger(),
        callbacks=[build_a(Callback, node) for node in values["callbacks"].values()],
        code=code,
    )


def assemble_evaluation(values: Values, weights: Weights, split: Split) -> tuple[DETR, Validation]:
    """Build a detector with these weights, on its device, and the evaluation of a split.

    Raises:
        UserError: weights, data or parts are not what they should be, or do not fit each other.
    """
    options = build_a(TrainerOptions, values["trainer"])
    device = distributed.own_device(options.device)
    keep_freed_memory()
    with distributed.main_first():
        data = build_data(values, weights.checkpoint)
        classes = classes_to_evaluate(weights, data, split)
        dataset = split_of(data, split, transform=build(values["augmentation"]["eval"]), classes=classes)
    model = build_model(values, dataset.classes, pretrained=False)
    load_strictly(model, weights)
    model = model.to(device)
    return model, build_validation(values, dataset, model, options, None)


def build_data(values: Values, checkpoint: Checkpoint | None = None) -> DataSet:
    """Build the data set. What a checkpoint's training kept for validation stays so, whatever has been added since."""
    node = values["dataset"]
    if checkpoint is not None and checkpoint.recipe.held_out is not None and node.get("holdout") is not None:
        node = node.changed(holdout=checkpoint.recipe.held_out)
    return build_a(DataSet, node)


def training_data(
    values: Values, overfit_batches: int | None, data: DataSet | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """Build the training and validation splits; both are the same unaugmented images with `trainer.overfit_batches`.

    With `dataset.val=null`, and nothing held out, there is no validation split.

    Raises:
        UserError: a split is not what it must be, or there is no object to learn from.
    """
    data = data or build_data(values)
    augmented, plain = build(values["augmentation"]["train"]), build(values["augmentation"]["eval"])
    if overfit_batches is None:
        train_set = split_of(data, "train", transform=augmented, seed=values["seed"])
        check_objects(train_set, "training images")
        node = values["dataset"]
        if node.get("val", node) is None and node.get("holdout") is None:
            log.info("dataset.val is null: no validation, no best checkpoint; last.pt is the result")
            warn_of_findings(train_set, None, values)
            return train_set, None
        val_set = split_of(data, "val", transform=plain)
        warn_shared(train_set, val_set)
        warn_without_objects(val_set)
        warn_of_findings(train_set, val_set, values)
        return train_set, val_set
    images = overfit_batches * values["dataloader"]["batch_size"] * distributed.world_size()
    train_set = split_of(data, "train", transform=plain)
    subset = train_set.subset(range(min(images, len(train_set))))
    check_objects(subset, "training images that trainer.overfit_batches takes, the first ones,")
    return subset, subset


def build_variations(values: Values, num_queries: int | None = None) -> Variations:
    """Return how training images vary beside `augmentation.train`: not at all with `trainer.overfit_batches`.

    Args:
        values: of the config.
        num_queries: of the detector, for which there may not be too many objects in an image.

    Raises:
        UserError: a part is not what it must be, or refuses its arguments.
    """
    if values["trainer"]["overfit_batches"] is not None:
        return Variations()
    mixing, multi_scale = (values["augmentation"].get(name) for name in ("mixing", "multi_scale"))
    return Variations(
        mixing=None if mixing is None else build_a(Mixing, mixing),
        multi_scale=None if multi_scale is None else build_a(MultiScale, multi_scale),
        seed=values["seed"],
        max_objects=num_queries,
    )


def build_loader(values: Values, dataset: ImageSet, model: DETR, *, num_workers: int | None = None) -> TrainLoader:
    """Build the loader of a training's batches; `num_workers`: other than the config's."""
    node = values["dataloader"]
    return train_loader(
        dataset,
        batch_size=node["batch_size"],
        num_workers=node["num_workers"] if num_workers is None else num_workers,
        seed=values["seed"],
        share=(distributed.rank(), distributed.world_size()),
        size_divisor=model.backbone.size_divisor,
        variations=build_variations(values, model.queries.num_queries),
        group_by_shape=node.get("group_by_shape", False),
    )


def split_of(data: DataSet, name: Split, **facts: Any) -> ImageSet:
    """Return a split of a data set. Raises UserError if it is not what a split must be."""
    images = data.split(name, **facts)
    expect(images, ImageSet, f"dataset, split {name}")
    expect(images.classes, Classes, f"dataset, classes of split {name}")
    return images


def warn_shared(train_set: ImageSet, val_set: ImageSet) -> None:
    """Warn of images that are in both splits: they make the validation look better than it is."""
    shared = len(set(train_set.files) & set(val_set.files))
    if shared:
        log.warning(
            "%d of %d validation images are trained on, too: the metrics say little about new images",
            *(shared, len(val_set)),
        )


def warn_without_objects(val_set: ImageSet) -> None:
    """Warn of a validation split that nothing can be measured with."""
    if val_set.annotated and not val_set.objects_per_image.any():
        log.warning(
            "none of %d validation images has an annotation: there will be no AP, and the last checkpoint counts as "
            "the best; dataset.holdout=0.2 keeps a fifth of the training images for validation",
            len(val_set),
        )


def warn_of_findings(train_set: ImageSet, val_set: ImageSet | None, values: Values) -> None:
    """Say in one line each what looks wrong with the data, as far as it costs nothing to find."""
    findings = startup_findings(train_set, val_set, settings_of(values)) if distributed.is_main() else []
    for each in findings:
        log.warning("%s: %s", each.split, each.message)
    if findings:
        log.warning("`detr check` shows more, with the same words as this training")


def build_model(values: Values, classes: Classes, *, pretrained: bool) -> DETR:
    """Build the detector. Without `pretrained` no backbone weights are fetched: a checkpoint brings them."""
    node = values["model"]
    if not pretrained:
        node = node.changed(backbone=without_weights(node["backbone"]))
    model = build_a(DETR, node, num_classes=classes.num_classes)
    check_first_output(model, own_parts(values), check_output)
    return model


def without_weights(node: Section) -> Section:
    """Return a backbone's node that fetches no weights, nor do backbones inside of it."""
    inside = {name: without_weights(value) for name, value in node.items() if isinstance(value, Section)}
    return node.changed(**inside, **({"weights": None} if "weights" in node else {}))


def build_optimizer(node: Section, model: DETR) -> torch.optim.Optimizer:
    """Build the optimizer over groups of the model's parameters; what takes `model` only makes its own.

    Raises:
        UserError: it refuses its arguments, or nothing is left to train.
    """
    algorithm = locate(str(node["_target_"]), node.path)
    if "params" not in inspect.signature(algorithm).parameters:
        return build_a(torch.optim.Optimizer, node, model=model)
    node = node.changed(_target_=f"{grouped.__module__}.{grouped.__name__}")
    return build_a(torch.optim.Optimizer, node, algorithm=algorithm, model=model)


def check_model(values: Values) -> None:
    """Raise UserError if detector and loss do not fit each other, before anything is read, fetched or computed."""
    with torch.device("meta"):
        model = build_model(values, Classes.contiguous({0: ""}), pretrained=False)
    criterion = build_a(SetCriterion, values["loss"])
    if own_file(type(model.decoder)) is None:  # what another one says, its answer shows
        criterion.check_extras((*model.decoder.extras, *(() if model.mask_head is None else model.mask_head.extras)))


def build_validation(
    values: Values, dataset: ImageSet, model: DETR, options: TrainerOptions, criterion: SetCriterion | None
) -> Validation:
    """Build the evaluation of a model, which is on its device, on one split.

    Raises:
        UserError: masks are to be evaluated that the model does not find.
    """
    device = next(model.parameters()).device
    validation = Validation(
        loader=eval_loader(
            dataset,
            batch_size=eval_batch_size(values["dataloader"], model),
            num_workers=values["dataloader"]["num_workers"],
            share=(distributed.rank(), distributed.world_size()),
            size_divisor=model.backbone.size_divisor,
        ),
        evaluator=build_a(Evaluator, values["evaluator"], ground_truth=dataset.ground_truth(), classes=dataset.classes),
        device=device,
        autocast=functools.partial(autocast, device, options.precision),
        classification=model.classification,
        criterion=criterion,
    )
    key = validation.evaluator.needs_masks
    if key is not None and model.mask_head is None:
        raise UserError(
            f"{key}, but the detector finds no masks; choose mask_head=fpn, or evaluator=coco without masks"
        )
    return validation


def eval_batch_size(dataloader: Values, model: DETR) -> int:
    """Return the images of a batch in evaluations: as many as in training, but 1 for DC5, unless told otherwise.

    The official DC5 models were trained with one image a process, that is without padding, and their authors
    evaluate them so (README of facebookresearch/detr): features at an image's edge depend on the padding behind it.
    """
    if dataloader["eval_batch_size"] is not None:
        return dataloader["eval_batch_size"]
    if model.backbone.dilated and dataloader["batch_size"] > 1:
        log.info("a DC5 model is evaluated one image at a time; dataloader.eval_batch_size=N changes that")
        return 1
    return dataloader["batch_size"]


def check_monitor(monitor: str, names: list[str]) -> None:
    """Raise UserError if no evaluation will have this metric. `names` is empty where nothing is evaluated."""
    if names and monitor not in names:
        advice = did_you_mean(monitor, names) or f"; it may be {', '.join(each for each in names if '/' not in each)}"
        raise UserError(f"trainer.monitor: the validation has no metric {monitor}{advice}")


def warn_from_scratch(model: DETR, images: int) -> None:
    """Warn where queries without anchors have few images to learn from where to look; anchors say it."""
    if images < ENOUGH_FROM_SCRATCH and model.queries.reference != "anchor":
        log.warning(
            "training queries without anchors from scratch on %d images, which rarely succeeds on fewer than about %d: "
            "start from published weights (experiment=finetune_custom), or train the detector that is made for few "
            "images (experiment=small_data with its own transformer and queries)",
            *(images, ENOUGH_FROM_SCRATCH),
        )


def initialize(model: DETR, weights: Weights, classes: Classes) -> dict[str, Any]:
    """Start from other weights, and return what became of them, for the run's record."""
    transfer = start_from(model, weights, classes)
    for line in transfer.lines():
        log.info(line)
    return transfer.to_dict()


def classes_to_evaluate(weights: Weights, data: DataSet, split: Split) -> Classes:
    """Return what the rows of the class head mean, in category ids of the data set.

    Raises:
        UserError: the data set's classes are not those of the weights.
    """
    ours = weights.classes
    if ours is None:
        return data.classes
    known = dict(zip(ours.category_ids, ours.names, strict=True))
    if weights.checkpoint is not None or data.categories(split).items() <= known.items():
        return ours
    if ours.names != data.classes.names:
        raise UserError(
            f"the classes of {weights.source} ({shortened(ours.names)}) are not those of the data set "
            f"({shortened(data.classes.names)}); train with {pasted(init_from=weights.source)}"
        )
    return data.classes


def shortened(names: Sequence[str], count: int = 3) -> str:
    """Return the first names, and how many there are."""
    shown = ", ".join([name for name in names if name != Classes.HOLE][:count])
    return f"{len(names)}: {shown}, …" if len(names) > count else shown
