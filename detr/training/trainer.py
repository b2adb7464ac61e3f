"""The training loop, readable from top to bottom."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import time
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from detr import distributed
from detr.data.loader import grouped
from detr.drawing.segments import comparison
from detr.environment import autocast
from detr.errors import Interrupted, UserError
from detr.evaluation.names import LOSS
from detr.evaluation.validation import Outcome, Validation
from detr.losses.matcher import NonFiniteError
from detr.structures import Batch, Losses, Normalizer
from detr.tracking.console import Bar, Console
from detr.tracking.logger import NullLogger
from detr.tracking.rows import Row
from detr.tracking.run_folder import RunFolder
from detr.training.average import averaged
from detr.training.budget import random_states_kept, seconds_per_step
from detr.training.compilation import compile_regions
from detr.training.interruption import Requests
from detr.training.limits import Limits
from detr.training.meter import Meter, memory
from detr.training.optim import train_mode
from detr.training.options import Progress
from detr.training.parts import Parts
from detr.training.schedule import Moment
from detr.training.state import capture, own_state, restore
from detr.weights.checkpoint import NON_FINITE, Checkpoint

log = logging.getLogger(__name__)


class Trainer:
    """Trains a model, evaluates it each epoch, keeps the best.

    With several processes each has a trainer, and all do the same steps on different images. What is decided by a
    clock, a signal or a metric is decided by the first, which alone writes to the folder.

    Args:
        parts: what trains, on what, and who is told; `fit` wants the logger started.
        folder: of the run.
    """

    def __init__(self, parts: Parts, *, folder: RunFolder) -> None:
        self.parts = parts
        self.options = options = parts.options
        self.model = parts.model
        self.criterion = parts.criterion
        self.optimizer, self.schedule = parts.optimizer, parts.schedule
        self.loader, self.validation = parts.loader, parts.validation
        self.limits = Limits(parts.options, parts.loader)
        self.logger, self.recipe = parts.logger, parts.recipe
        self.folder = folder
        self.progress, self.meter = Progress(), Meter()
        self.requests = Requests()
        self.started: float | None = None  # on the monotonic clock, as if the training had never paused
        self.saved = 0.0  # seconds of training at the last checkpoint
        self.console = Console(quiet=not distributed.is_main())
        self.parameters = list(self.model.parameters())
        self.device = self.parameters[0].device
        self.ema = averaged(self.model, options.ema_decay, options.ema_tau) if options.ema_decay else None
        if options.compile:
            compile_regions(self.model)
        self.parallel = distributed.parallel(self.model)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "fp16")

    def plan(self) -> None:
        """Fix how many steps the run has, if that is what fits into `max_minutes`; called before `fit`.

        The steps of a run that is resumed are those that it had, unless it has been given other minutes. Where
        `max_steps` is given it decides, which repeats a run of so many steps exactly.
        """
        minutes, progress = self.options.max_minutes, self.progress
        if minutes is None or self.options.max_steps is not None:
            progress.planned = progress.budget = None
        elif progress.budget != minutes:
            pace = progress.seconds / progress.step if progress.step else self.rehearse(60 * minutes)
            progress.planned, progress.budget = max(1, int(60 * minutes / pace)), minutes
            log.info(
                "%d steps fit into %g minutes, %.3g s each; trainer.max_steps=%d repeats this run exactly",
                *(progress.planned, minutes, pace, progress.planned),
            )

    def rehearse(self, budget: float) -> float:
        """Return the seconds of a step, timed on a copy: this model, its optimizer and every random state stay."""
        with random_states_kept(self.device):
            model, optimizer = copy.deepcopy((self.model, self.optimizer))
            parts = replace(self.parts, model=model, optimizer=optimizer, logger=NullLogger())
            understudy = Trainer(parts, folder=self.folder)
            train_mode(model)
            batches = grouped(self.loader.epochs(), self.options.accumulate)
            return seconds_per_step(understudy.train_step, batches, budget, self.device)

    def fit(self) -> Progress:
        """Train until a limit is reached.

        Raises:
            Interrupted: a signal asked for the end; a checkpoint is written.
        """
        for callback in self.parts.callbacks:
            callback.on_fit_start(self)
        with self.requests:
            try:
                while not self.done:
                    means = self.train_epoch()
                    outcome = self.evaluate(self.validation) if self.validation and self.evaluation_due else None
                    self.end_epoch(means, outcome)
            except Interrupted:
                self.save_step()
                raise
        for callback in self.parts.callbacks:
            callback.on_fit_end(self)
        return self.progress

    @property
    def steps(self) -> int:
        """Return the optimizer steps of the whole run, by whichever limit is nearest."""
        return self.limits.steps(self.progress)

    @property
    def ended(self) -> str:
        """Return what ended the run, and in which step."""
        return self.limits.ended(self.progress)

    @property
    def finished(self) -> bool:
        """Return whether any limit is reached, or `monitor` was no better for too long."""
        return self.limits.reached(self.progress) or self.limits.no_better(self.progress)

    @property
    def done(self) -> bool:
        """Return whether the run is finished, evaluated and written down."""
        progress = self.progress
        return self.finished and progress.reported == progress.evaluated == progress.step

    @property
    def evaluation_due(self) -> bool:
        return self.finished or (self.progress.epoch + 1) % self.options.evaluate_every == 0

    @property
    def checkpoint_due(self) -> bool:
        """Return whether it is time for a checkpoint within the epoch."""
        steps, minutes = self.options.checkpoint_every_steps, self.options.checkpoint_every_minutes
        return (steps is not None and self.progress.step % steps == 0) or (
            minutes is not None and self.progress.seconds - self.saved >= 60 * minutes
        )

    def moment(self) -> Moment:
        """Return where the run is, for the schedule."""
        return self.limits.moment(self.progress)

    def stop(self, reason: str) -> None:
        """End the run after this step or epoch, with an evaluation; `reason` follows "ended by"."""
        self.progress.stopped = reason

    def train_epoch(self) -> dict[str, float]:
        """Train the rest of the current epoch, as far as the limits allow. Returns means over its steps."""
        train_mode(self.model)
        self.loader.set_epoch(self.progress.epoch, self.progress.batches, self.limits.parts(self.progress))
        if not self.progress.batches:
            self.meter = Meter(since=self.progress.seconds)
        self.started = time.monotonic() - self.progress.seconds
        with self.console.epoch(self.progress.epoch + 1, len(self.loader), self.moment().progress) as bar:
            unfinished = not self.finished or self.progress.reported == self.progress.step
            asked = time.monotonic()
            for micro_batches in grouped(self.loader, self.options.accumulate) if unfinished else ():
                self.meter.waited += time.monotonic() - asked
                losses = self.train_step(micro_batches)
                self.progress.step += 1
                self.progress.batches += len(micro_batches)
                self.meter.add(losses, images=len(micro_batches) * self.loader.images_per_batch)
                if self.progress.step % self.options.log_every == 0:
                    self.log_step(bar)
                bar.advance(len(micro_batches))
                for callback in self.parts.callbacks:
                    callback.on_step_end(self)
                if self.checkpoint_due:
                    self.save_step()
                if self.limits.reached(self.progress):
                    break
                asked = time.monotonic()
        self.progress.seconds = distributed.from_main(self.seconds())
        self.started = None
        if self.limits.overtime(self.progress) and self.moment().progress < 1:
            log.warning(
                "stopping in step %d of %d at %.2f times trainer.max_minutes: steps take longer than those that were "
                "timed at the start, so the schedule of the learning rate is cut short",
                *(self.progress.step, self.steps, self.progress.seconds / 60 / (self.progress.budget or 1)),
            )
        means = self.finite(distributed.mean(self.meter.means()))
        return means | self.learning_rates() | self.meter.pace(self.progress.seconds) | memory(self.device)

    def train_step(self, micro_batches: list[Batch]) -> Losses:
        """Take one optimizer step. Objects are counted over all micro-batches first. Returns the summed losses.

        Raises:
            Interrupted: a signal asked for the end, and nothing of the step was done.
        """
        normalizer = self.agree(micro_batches)
        factor = self.schedule.factor(self.moment())
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        losses = [
            self.forward_backward(batch.to(self.device, non_blocking=True), normalizer, last=batch is micro_batches[-1])
            for batch in micro_batches
        ]
        self.scaler.unscale_(self.optimizer)
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.options.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        total = functools.reduce(Losses.__add__, losses)
        # A step whose gradient overflows in fp16 is skipped, and counts as 0.
        return replace(total, metrics=total.metrics | {"grad_norm": norm.nan_to_num(0.0, 0.0)})

    def agree(self, micro_batches: list[Batch]) -> Normalizer:
        """Return all that processes tell each other in a step beside gradients: a few numbers, summed on the host."""
        counts = [sum(len(batch.targets) for batch in micro_batches), sum(len(batch) for batch in micro_batches)]
        clock = self.seconds() if distributed.is_main() else 0.0
        objects, images, self.progress.seconds, *signals = distributed.total([*counts, clock, *self.requests.received])
        self.requests.check(signals)
        return self.criterion.normalizer(
            objects=objects, images=images, micro_batches=len(micro_batches), processes=distributed.world_size()
        )

    def seconds(self) -> float:
        """Return the seconds of training, up to now."""
        return self.progress.seconds if self.started is None else time.monotonic() - self.started

    def forward_backward(self, batch: Batch, normalizer: Normalizer, *, last: bool = True) -> Losses:
        """Return losses of one micro-batch, their gradients added to the parameters'.

        Args:
            last: of its step: gradients are averaged over processes now.

        Raises:
            UserError: a cost or a class logit is not finite; what is needed to reproduce it has been saved.
        """
        random_state = torch.get_rng_state()
        model = self.model if self.parallel is None else self.parallel
        with contextlib.nullcontext() if last or self.parallel is None else self.parallel.no_sync():
            try:
                with autocast(self.device, self.options.precision):
                    predictions = model(batch.images, batch.padding, batch.targets)
                losses = self.criterion(predictions, batch.targets, normalizer)
            except NonFiniteError as error:
                raise self.failed(error, batch, normalizer, random_state) from error
            self.scaler.scale(losses.total).backward()
        return replace(losses, total=losses.total.detach(), terms={k: v.detach() for k, v in losses.terms.items()})

    def log_step(self, bar: Bar) -> None:
        """Log losses of the last step, as means over the processes."""
        latest = self.finite(distributed.mean(self.meter.latest())) | self.learning_rates()
        self.logger.log_step({f"train/{name}": value for name, value in latest.items()}, self.progress.step)
        bar.show(latest)

    def learning_rates(self) -> dict[str, float]:
        """Return the rate of the first group of parameters as `lr` and, where there are others, of each one by name."""
        groups = self.optimizer.param_groups
        named = {f"lr/{group.get('name', index)}": group["lr"] for index, group in enumerate(groups)}
        return {"lr": groups[0]["lr"]} | (named if len(groups) > 1 else {})

    def finite(self, means: dict[str, float]) -> dict[str, float]:
        """Return the same means. The loss of masks is checked here: in each step that would wait for the device.

        Raises:
            UserError: the loss is not finite.
        """
        if not math.isfinite(means["loss"]):
            wrong = ", ".join(name for name, value in means.items() if not math.isfinite(value))
            raise UserError(
                f"the loss is not finite ({wrong}) in step {self.progress.step} or a few before; continue from the "
                "last checkpoint with resume=auto and a lower optimizer.lr, or trainer.precision=fp32"
            )
        return means

    def failed(self, error: NonFiniteError, batch: Batch, normalizer: Normalizer, random_state: Tensor) -> UserError:
        """Save the step that went wrong, and return the error that says so."""
        step = {"batch": asdict(batch), "normalizer": asdict(normalizer), "random_state": random_state}
        path = self.folder.save(NON_FINITE, capture(self, [own_state(self)], self.logger.run_id), step=step)
        images = batch.files if error.images is None else [batch.files[index] for index in error.images]
        return UserError(
            f"{error} in step {self.progress.step + 1}, images {', '.join(images)}; batch, weights and random state "
            f"are in {path}; try a lower optimizer.lr, or trainer.precision=fp32"
        )

    def evaluate(self, validation: Validation) -> Outcome | None:
        """Evaluate the model, or its moving average, on the validation split; the first process gets the outcome.

        Raises:
            Interrupted: a signal asked for the end; the evaluation will be repeated.
        """
        model = self.model if self.ema is None else self.ema.module
        distributed.share_statistics(model)
        with self.console.evaluation(len(validation.loader.dataset)) as bar:

            def advance(images: int) -> None:
                bar.advance(images)
                self.requests.check(distributed.total(self.requests.received))

            return validation(model, advance)

    def end_epoch(self, means: dict[str, float], outcome: Outcome | None) -> None:
        """Write the row, the checkpoints and, of the best epoch, the predictions."""
        epoch = self.progress.epoch + 1  # one that a limit cut short counts
        if self.evaluation_due:
            self.progress.evaluated = self.progress.step
        row, better = self.write_row(epoch, means, outcome) if distributed.is_main() else ({}, False)
        self.progress, row = distributed.from_main((self.progress, row))
        for callback in self.parts.callbacks:
            callback.on_epoch_end(self, row)
        progress = self.progress
        progress.stopped = distributed.from_main(progress.stopped)
        if progress.batches == self.loader.batches_per_epoch:
            progress.epoch, progress.batches = epoch, 0
        progress.reported = progress.step
        self.save(epoch, better)

    def write_row(self, epoch: int, means: dict[str, float], outcome: Outcome | None) -> tuple[Row, bool]:
        """Write everything that is kept of an epoch beside its weights. Returns the row, and whether it is the best."""
        progress = self.progress
        row = {f"train/{name}": value for name, value in means.items()}
        row["train/seconds"] = progress.seconds
        better = False
        if outcome is not None and outcome.evaluation is not None:
            row |= {f"val/{name}": value for name, value in outcome.metrics.items()}
            self.folder.save_evaluation(epoch, outcome.evaluation)
            better = self.is_better(row)
            self.logger.log_outcome(outcome, epoch, best=better)
            progress.poor = 0 if better else progress.poor + 1
            if better:
                progress.best = {name: value for name, value in row.items() if name.startswith("val/")}
                progress.best |= {"epoch": epoch, "step": progress.step}
                self.folder.save_predictions(outcome.results, map(comparison, outcome.examples), outcome.submission)
                self.logger.log_best(progress.best)
        self.logger.log_epoch(row, epoch, progress.step)
        row = {"epoch": epoch, "step": progress.step, **row}
        self.folder.append(row)
        log.info(self.console.summary(epoch, row, better))
        return row, better

    def is_better(self, row: dict[str, float]) -> bool:
        """Return whether an evaluation is the best so far, by the metric that is monitored."""
        key = f"val/{self.options.monitor}"
        best = self.progress.best
        # The split may have nothing of the kind that it measures: the later one counts. A run that was resumed may
        # have monitored something else.
        if best is None or key not in row or key not in best:
            return True
        return row[key] < best[key] if self.options.monitor == LOSS else row[key] > best[key]

    def save(self, epoch: int, better: bool) -> None:
        """Save last.pt, best.pt, and those kept. last.pt comes last: a resumed run starts from a whole epoch."""
        checkpoint = self.checkpoint()
        if not distributed.is_main():
            return
        if better:
            self.folder.save("best", checkpoint)
        drops = self.schedule.drops(*self.limits.epoch_ends(self.progress))
        if drops or epoch % (self.options.keep_every or epoch + 1) == 0:
            self.folder.save(f"epoch_{epoch:04d}", checkpoint)
        self.folder.save("last", checkpoint)

    def save_step(self) -> None:
        """Save a checkpoint within an epoch, of which the last few are kept."""
        checkpoint = self.checkpoint()
        if distributed.is_main():
            self.folder.save_step(self.progress.step, checkpoint, keep=self.options.keep_last)

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to continue as before, and to rebuild the detector; for the first process."""
        self.saved = self.progress.seconds
        return capture(self, distributed.gather(own_state(self)), self.logger.run_id)

    def resume(self, checkpoint: Checkpoint, source: str) -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: it is of another model or another optimizer.
        """
        restore(self, checkpoint, source)
        self.saved = self.progress.seconds
