"""The parts of a training, built and fitting each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from detr.data.loader import TrainLoader
from detr.evaluation.validation import Validation
from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.tracking.code import Code
from detr.tracking.logger import Logger
from detr.training.callbacks import Callback
from detr.training.options import TrainerOptions
from detr.training.schedule import Schedule
from detr.weights.checkpoint import Recipe


@dataclass(frozen=True)
class Parts:
    """Holds everything that `assembly` builds from a config, in the order in which the README tells it."""

    options: TrainerOptions
    recipe: Recipe  # what goes into every checkpoint beside weights and state
    loader: TrainLoader  # of the training split
    model: DETR  # on its device
    criterion: SetCriterion
    optimizer: torch.optim.Optimizer  # over the model's trainable parameters, with the full learning rates
    schedule: Schedule
    validation: Validation | None  # of the validation split, if there is one
    logger: Logger  # not yet started
    callbacks: Sequence[Callback] = ()
    code: Code = field(default_factory=Code)  # of the parts that are not detr's
