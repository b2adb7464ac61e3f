"""What is exported or measured: a detector from a checkpoint, or of an experiment with weights drawn at random."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detr.assembly import build_model
from detr.config import build, check, override
from detr.config.blame import own_parts_blamed
from detr.config.build import MissingModuleError
from detr.config.containers import Section
from detr.data.coco_categories import PANOPTIC_CLASSES, THINGS, coco_classes
from detr.environment import seed_torch
from detr.errors import UserError
from detr.inference.detector import classes_of
from detr.inference.recipes import config_of
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.sources import Weights, load, load_strictly

log = logging.getLogger(__name__)

SPREAD = 0.02  # of what is drawn for parameters that start at zero


@dataclass(frozen=True)
class Source:
    """Holds a detector and what belongs to it."""

    name: str  # as the user gave it
    model: DETR  # on the CPU, in evaluation mode
    classes: Classes
    values: Section  # the checked config
    weights: Weights | None = None  # None: drawn at random

    @functools.cached_property
    def transform(self) -> Any:
        """Return what an evaluation makes of an image before the detector sees it."""
        return build(self.values["augmentation"]["eval"])

    @property
    def max_detections(self) -> int:
        """Return how many detections of an image an evaluation keeps, where class logits are sigmoids."""
        return self.values["evaluator"].get("detections_per_image", 100)


def find(checkpoint: str | None, overrides: Sequence[str], folders: Sequence[str] = ()) -> Source:
    """Build the detector of a checkpoint, else of `detector=NAME` or `experiment=NAME` among the overrides.

    Raises:
        UserError: neither is given, or weights and config do not fit.
    """
    if checkpoint is None:
        return _drawn(overrides, folders)
    weights = load(checkpoint)
    try:
        values, _ = check(config_of(weights, overrides, folders))
    except MissingModuleError as error:
        raise error.lay_in({} if weights.checkpoint is None else weights.checkpoint.recipe.modules) from error
    classes = classes_of(weights)
    with own_parts_blamed(values):
        model = build_model(values, classes, pretrained=False)
    load_strictly(model, weights)
    return Source(checkpoint, model.eval(), classes, values, weights)


def _drawn(overrides: Sequence[str], folders: Sequence[str]) -> Source:
    """A detector with random weights and COCO's classes."""
    name = next((each for each in overrides if each.startswith(("detector=", "experiment="))), None)
    if name is None:
        raise UserError("say which detector: checkpoint=PATH, or detector=NAME or experiment=NAME for random weights")
    values, _ = check(override({}, list(overrides), folders))
    panoptic = "min_score" in values["evaluator"]
    classes = coco_classes(PANOPTIC_CLASSES if panoptic else max(THINGS) + 1)
    assert classes is not None
    log.info("%s has no weights: they are drawn at random, for as many classes as COCO has", name)
    seed_torch(values["seed"])
    with own_parts_blamed(values):
        model = build_model(values, classes, pretrained=False)
    _fill(model)
    return Source(name, model.eval(), classes, values)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """Draw parameters that are zero: heads that start so would answer the same for every image."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=SPREAD)
