"""How long a run is: its limits in epochs, steps and minutes, and which of them ends it."""

from __future__ import annotations

import math
from collections.abc import Callable

from detr.data.loader import TrainLoader
from detr.training.budget import OVERTIME
from detr.training.options import Progress, TrainerOptions
from detr.training.schedule import Moment


class Limits:
    """Says where a run is between its first and its last step, by whichever limit is nearest.

    Args:
        options: that have the limits.
        loader: of the training split; it says how long an epoch is.
    """

    def __init__(self, options: TrainerOptions, loader: TrainLoader) -> None:
        self.options = options
        self.loader = loader

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.loader.batches_per_epoch // self.options.accumulate)

    def max_steps(self, progress: Progress) -> int | None:
        """Return the limit in steps, given or planned."""
        return self.options.max_steps or progress.planned

    def steps(self, progress: Progress) -> int:
        """Return the optimizer steps of the whole run."""
        epochs = self.options.max_epochs
        limits = [self.max_steps(progress), None if epochs is None else epochs * self.steps_per_epoch]
        return min(limit for limit in limits if limit is not None)

    def moment(self, progress: Progress) -> Moment:
        """Return where the run is, for the schedule."""
        return self._moment(progress, progress.epoch + progress.batches / self.loader.batches_per_epoch, progress.step)

    def parts(self, progress: Progress) -> Callable[[int], float]:
        """Return a function: a batch of the current epoch → the part of the run that is over before its step."""
        epoch, first, step = progress.epoch, progress.batches, progress.step
        accumulate, whole = self.options.accumulate, self.loader.batches_per_epoch

        def part(batch: int) -> float:
            steps = (batch - first) // accumulate
            return self._moment(progress, epoch + (first + steps * accumulate) / whole, step + steps).progress

        return part

    def epoch_ends(self, progress: Progress) -> tuple[Moment, Moment]:
        """Return the last steps of the epoch that is just over and of the next one."""
        steps = self.steps_per_epoch
        last, following = (
            self._moment(progress, progress.epoch + epochs - 1 / steps, progress.step + epochs * steps - 1)
            for epochs in (0, 1)
        )
        return last, following

    def _moment(self, progress: Progress, epochs: float, step: int) -> Moment:
        """After so many epochs, the last one maybe in part, and steps."""
        limits = [(epochs, self.options.max_epochs), (step, self.max_steps(progress))]
        part = max((done / limit for done, limit in limits if limit is not None), default=0.0)
        return Moment(int(epochs), step, min(1.0, part))

    def overtime(self, progress: Progress) -> bool:
        """Return whether the run takes much longer than the minutes that its steps were to fit into."""
        return progress.budget is not None and progress.seconds >= OVERTIME * 60 * progress.budget

    def no_better(self, progress: Progress) -> bool:
        """Return whether `monitor` was no better for too long."""
        return progress.poor >= (self.options.patience or math.inf)

    def reached(self, progress: Progress) -> bool:
        """Return whether no further step is to be done."""
        return self.moment(progress).progress >= 1 or self.overtime(progress) or progress.stopped is not None

    def ended(self, progress: Progress) -> str:
        """Return what ended the run, and where: "ended by trainer.max_steps=40 in step 40 of 40"."""
        return f"ended by {self._reason(progress)} in step {progress.step} of {self.steps(progress)}"

    def _reason(self, progress: Progress) -> str:
        options = self.options
        if progress.stopped is not None:
            return progress.stopped
        if self.overtime(progress) or (progress.planned is not None and progress.step >= progress.planned):
            return f"trainer.max_minutes={progress.budget:g}"
        if self.no_better(progress):
            return f"trainer.patience={options.patience}"
        if options.max_steps is not None and progress.step >= options.max_steps:
            return f"trainer.max_steps={options.max_steps}"
        return f"trainer.max_epochs={options.max_epochs}"
