"""The parts of a run that are built from the config and from each other, and what is checked of them together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch

from detr import distributed
from detr.config import build
from detr.config.suggest import did_you_mean
from detr.data.coco import CocoDetection
from detr.data.loader import eval_loader
from detr.errors import UserError
from detr.evaluation.validation import Validation
from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.structures import Classes
from detr.training.options import Options
from detr.training.trainer import autocast

log = logging.getLogger(__name__)

ENOUGH_FROM_SCRATCH = 10_000  # images: with fewer, queries without anchors hardly learn where to look


def training_data(plain: dict[str, Any], overfit_batches: int | None) -> tuple[CocoDetection, CocoDetection]:
    """Training and validation split; both are the same unaugmented images with `trainer.overfit_batches`."""
    data = build(plain["dataset"], "dataset")
    transforms = {when: build(plain["augmentation"][when], f"augmentation.{when}") for when in ("train", "eval")}
    if overfit_batches is None:
        train_set = data.split("train", transform=transforms["train"], seed=plain["seed"])
        val_set = data.split("val", transform=transforms["eval"])
        warn_shared(train_set, val_set)
        return train_set, val_set
    images = overfit_batches * plain["dataloader"]["batch_size"] * distributed.world_size()
    train_set = data.split("train", transform=transforms["eval"])
    subset = train_set.subset(range(min(images, len(train_set))))
    return subset, subset


def warn_shared(train_set: CocoDetection, val_set: CocoDetection) -> None:
    """Images that are in both splits make the validation look better than it is."""
    shared = len(set(train_set.files) & set(val_set.files))
    if shared:
        log.warning(
            "%d of %d validation images are trained on, too: the metrics say little about new images",
            *(shared, len(val_set)),
        )


def build_model(plain: dict[str, Any], classes: Classes, *, pretrained: bool) -> DETR:
    """The detector. Without `pretrained` no backbone weights are fetched: a checkpoint brings them."""
    node = plain["model"]
    if not pretrained:
        node = node | {"backbone": node["backbone"] | {"weights": None}}
    return build(node, "model", num_classes=classes.num_classes)


def check_model(plain: dict[str, Any]) -> None:
    """UserError if the detector's parts do not fit each other: before anything is read, fetched or computed."""
    with torch.device("meta"):
        build_model(plain, Classes.contiguous({0: ""}), pretrained=False)


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
        loader=eval_loader(
            dataset,
            batch_size=batch_size,
            num_workers=plain["dataloader"]["num_workers"],
            share=(distributed.rank(), distributed.world_size()),
        ),
        evaluator=evaluator,
        device=device,
        autocast=functools.partial(autocast, device, options.precision),
        classification=plain["loss"]["classification"],
        criterion=criterion,
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


def check_masks(model: DETR, validation: Validation) -> None:
    """UserError if masks are to be evaluated that the model will not find."""
    key = validation.evaluator.needs_masks
    if key is not None and model.mask_head is None:
        raise UserError(
            f"{key}, but the detector finds no masks; choose mask_head=fpn, or evaluator=coco without masks"
        )


def check_monitor(monitor: str, names: list[str]) -> None:
    """UserError if no evaluation will have this metric. `names` is empty where nothing is evaluated."""
    if names and monitor not in names:
        advice = did_you_mean(monitor, names) or f"; it may be {', '.join(each for each in names if '/' not in each)}"
        raise UserError(f"trainer.monitor: the validation has no metric {monitor}{advice}")


def warn_from_scratch(model: DETR, images: int) -> None:
    """Queries without anchors need many images to learn where to look; those with anchors are told, and need few."""
    if images < ENOUGH_FROM_SCRATCH and model.queries.reference != "anchor":
        log.warning(
            "training queries without anchors from scratch on %d images, which rarely succeeds on fewer than about %d: "
            "start from published weights (experiment=finetune_custom), or train the detector that is made for few "
            "images (experiment=small_data with its own transformer and queries)",
            *(images, ENOUGH_FROM_SCRATCH),
        )
