"""Hooks into the training loop, for what changes while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.optim.swa_utils import AveragedModel

from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.tracking.logger import Logger
from detr.tracking.run_folder import RunFolder
from detr.training.options import Progress
from detr.training.schedule import Moment


class Ongoing(Protocol):
    """Offers what callbacks may use of the trainer."""

    model: DETR
    ema: AveragedModel | None  # the moving average of the model, where there is one
    criterion: SetCriterion
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of fp16's gradients; of others it leaves them alone
    progress: Progress
    folder: RunFolder
    logger: Logger  # says nothing in all processes but the first

    def moment(self) -> Moment:
        """Return where the run is: finished epochs and steps, and `progress`, the part of the whole run in [0, 1]."""

    def stop(self, reason: str) -> None:
        """End the run after this step or epoch, with an evaluation; `reason` follows "ended by"."""


class Callback:
    """Does nothing at any time; derived classes override what they need.

    Every process calls the same hooks at the same places. What a callback changes in the model or the optimizer must
    follow from `trainer.moment()` and its own arguments, as schedules do: then a run that was stopped goes on as if it
    had not been.
    """

    def on_fit_start(self, trainer: Ongoing) -> None:
        """Is called before the first step, and again when a run is resumed."""

    def on_step_end(self, trainer: Ongoing) -> None:
        """Is called after every optimizer step; `trainer.progress.step` counts it."""

    def on_epoch_end(self, trainer: Ongoing, row: Mapping[str, float]) -> None:
        """Is called after every epoch, its evaluation and its row, and before its checkpoint is written.

        Args:
            trainer: `trainer.stop(reason)` ends the run; here it is enough that the first process says so.
            row: as in metrics.jsonl; with `val/…` if the epoch was evaluated.
        """

    def on_fit_end(self, trainer: Ongoing) -> None:
        """Is called when the training is finished, but not when it was interrupted."""
