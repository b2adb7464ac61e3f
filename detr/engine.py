"""The training loop, readable from top to bottom."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detr.checkpoint import load_weights
from detr.console import Console
from detr.data.loader import TrainLoader
from detr.errors import UserError
from detr.evaluation.validation import Report, Validation
from detr.logging import Logger
from detr.losses.criterion import SetCriterion
from detr.matcher import NonFiniteError
from detr.optim import Moment, Schedule
from detr.run_folder import RunFolder
from detr.segment_drawing import comparison
from detr.structures import Batch, Losses, Normalizer

log = logging.getLogger(__name__)

LOSS = "loss"  # the one metric that is better when lower
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Options:
    """How to train; `conf/trainer/default.yaml` says what each means."""

    max_epochs: int | None = 300
    max_steps: int | None = None
    max_minutes: float | None = None
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    clip_norm: float | None = 0.1
    ema_decay: float | None = None
    overfit_batches: int | None = None
    evaluate_every: int = 1
    monitor: str = "AP"
    patience: int | None = None
    keep_every: int | None = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.max_epochs is self.max_steps is self.max_minutes is None:
            raise ValueError("the run has no end; give max_epochs, max_steps or max_minutes")
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.ema_decay is not None and self.ema_decay >= 1:
            raise ValueError(f"ema_decay must be below 1, not {self.ema_decay}")


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0  # finished epochs
    batches: int = 0  # micro-batches of the unfinished epoch that are done
    step: int = 0  # finished optimizer steps
    seconds: float = 0.0  # of training, evaluation not counted
    best: dict[str, float] | None = None  # metrics of the best evaluation, with its epoch
    poor: int = 0  # evaluations since then


class Trainer:
    """Trains a model, evaluates it each epoch, keeps the best.

    Args:
        options: limits, precision, clipping and the like.
        model: on its device.
        criterion: the losses.
        optimizer: over the model's trainable parameters, with the full learning rates.
        schedule: what the learning rates are multiplied with.
        loader: of the training split.
        validation: of the validation split.
        logger: started.
        folder: of the run.
        facts: what else belongs into every checkpoint: config, classes.
    """

    def __init__(
        self,
        *,
        options: Options,
        model: nn.Module,
        criterion: SetCriterion,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: TrainLoader,
        validation: Validation,
        logger: Logger,
        folder: RunFolder,
        facts: dict[str, Any],
    ) -> None:
        self.options = options
        self.model = model
        self.criterion = criterion
        self.optimizer = optimizer
        self.schedule = schedule
        self.loader = loader
        self.validation = validation
        self.logger = logger
        self.folder = folder
        self.facts = facts
        self.progress = Progress()
        self.console = Console()
        self.device = next(model.parameters()).device
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "fp16")
        self.ema = averaged(model, options.ema_decay) if options.ema_decay else None

    def fit(self) -> Progress:
        """Train until a limit is reached."""
        while not self.finished:
            means = self.train_epoch()
            report = self.evaluate() if self.evaluation_due else None
            self.end_epoch(means, report)
        return self.progress

    @property
    def finished(self) -> bool:
        """Whether any limit is reached, or `monitor` was no better for too long."""
        return self.moment().progress >= 1 or self.progress.poor >= (self.options.patience or float("inf"))

    @property
    def evaluation_due(self) -> bool:
        return self.finished or self.progress.epoch % self.options.evaluate_every == 0

    def moment(self) -> Moment:
        """Where the run is, for the schedule."""
        limits = [
            (self.progress.epoch + self.progress.batches / self.loader.batches_per_epoch, self.options.max_epochs),
            (self.progress.step, self.options.max_steps),
            (self.progress.seconds / 60, self.options.max_minutes),
        ]
        part = max(done / limit for done, limit in limits if limit is not None)
        return Moment(self.progress.epoch, self.progress.step, min(1.0, part))

    def train_epoch(self) -> dict[str, float]:
        """The rest of the current epoch, or as much of it as the limits allow. Returns means over its steps."""
        self.model.train()
        self.loader.set_epoch(self.progress.epoch, self.progress.batches)
        meter = Meter()
        before = self.progress.seconds
        started = time.monotonic()
        with self.console.epoch(self.progress.epoch + 1, len(self.loader), self.moment) as bar:
            for micro_batches in grouped(self.loader, self.options.accumulate):
                losses = self.train_step(micro_batches)
                self.progress.step += 1
                self.progress.batches += len(micro_batches)
                self.progress.seconds = before + time.monotonic() - started
                meter.add(losses, images=sum(len(batch) for batch in micro_batches))
                if self.progress.step % self.options.log_every == 0:
                    latest = meter.latest() | {"lr": self.optimizer.param_groups[0]["lr"]}
                    self.logger.log_step({f"train/{name}": value for name, value in latest.items()}, self.progress.step)
                    bar.show(latest)
                bar.advance(len(micro_batches))
                if self.moment().progress >= 1:
                    break
        if self.progress.batches == self.loader.batches_per_epoch:
            self.progress.epoch, self.progress.batches = self.progress.epoch + 1, 0
        return meter.means() | {"images_per_second": meter.images / (self.progress.seconds - before)}

    def train_step(self, micro_batches: list[Batch]) -> Losses:
        """One optimizer step. Objects are counted over all micro-batches first. Returns the summed losses."""
        normalizer = Normalizer(
            objects=max(1, sum(len(batch.targets) for batch in micro_batches)),
            images=sum(len(batch) for batch in micro_batches),
            micro_batches=len(micro_batches),
        )
        factor = self.schedule.factor(self.moment())
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        losses = [
            self.forward_backward(batch.to(self.device, non_blocking=True), normalizer) for batch in micro_batches
        ]
        if self.options.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return functools.reduce(add, losses)

    def forward_backward(self, batch: Batch, normalizer: Normalizer) -> Losses:
        """Losses of one micro-batch, their gradients added to the parameters'.

        Raises:
            UserError: a cost or the loss is not finite; what is needed to reproduce it has been saved.
        """
        random_state = torch.get_rng_state()
        try:
            with self.autocast():
                predictions = self.model(batch.images, batch.padding, batch.targets)
            losses = self.criterion(predictions, batch.targets, normalizer)
            if not losses.total.isfinite():
                raise NonFiniteError("the loss is not finite")
        except NonFiniteError as error:
            raise self.report(error, batch, normalizer, random_state) from error
        self.scaler.scale(losses.total).backward()
        return replace(losses, total=losses.total.detach(), terms={k: v.detach() for k, v in losses.terms.items()})

    def report(self, error: NonFiniteError, batch: Batch, normalizer: Normalizer, random_state: Tensor) -> UserError:
        """Save the step that went wrong, and say so."""
        step = {"batch": asdict(batch), "normalizer": asdict(normalizer), "random_state": random_state}
        path = self.folder.save("non_finite", self.checkpoint() | {"step": step})
        images = batch.files if error.images is None else [batch.files[index] for index in error.images]
        return UserError(
            f"{error} in step {self.progress.step + 1}, images {', '.join(images)}; batch, weights and random state "
            f"are in {path}; try a lower optimizer.lr, or trainer.precision=fp32"
        )

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of the forward pass."""
        return autocast(self.device, self.options.precision)

    def evaluate(self) -> Report:
        """The model, or its moving average, on the validation split."""
        with self.console.evaluation(len(self.validation.loader.dataset)) as bar:
            return self.validation(self.model if self.ema is None else self.ema.module, bar.advance)

    def end_epoch(self, means: dict[str, float], report: Report | None) -> None:
        """Write the row, the checkpoints and, of the best epoch, the predictions."""
        progress = self.progress
        epoch = progress.epoch + (progress.batches > 0)  # one that a limit cut short counts
        row = {f"train/{name}": value for name, value in means.items()}
        row |= {"train/lr": self.optimizer.param_groups[0]["lr"], "train/seconds": progress.seconds}
        better = False
        if report is not None and report.evaluation is not None:
            row |= {f"val/{name}": value for name, value in report.metrics.items()}
            self.folder.save_evaluation(epoch, report.evaluation)
            self.logger.log_images(report.examples, epoch)
            better = self.is_better(row)
            progress.poor = 0 if better else progress.poor + 1
            if better:
                progress.best = {name: value for name, value in row.items() if name.startswith("val/")}
                progress.best["epoch"] = epoch
                self.folder.save_best(report.results, map(comparison, report.examples), report.submission)
                self.logger.log_best(progress.best)
        self.logger.log_epoch(row, epoch, progress.step)
        self.folder.append({"epoch": epoch, "step": progress.step, **row})
        self.save(epoch, better)
        log.info(self.console.summary(epoch, row, better))

    def is_better(self, row: dict[str, float]) -> bool:
        """Whether an evaluation is the best so far, by the metric that is monitored."""
        key = f"val/{self.options.monitor}"
        best = self.progress.best
        if best is None or key not in best:  # or the run that was resumed monitored something else
            return True
        return row[key] < best[key] if self.options.monitor == LOSS else row[key] > best[key]

    def save(self, epoch: int, better: bool) -> None:
        """last.pt, best.pt, and those that are kept. last.pt comes last: a resumed run starts from a whole epoch."""
        checkpoint = self.checkpoint()
        if better:
            self.folder.save("best", checkpoint)
        if self.schedule.drops_after(epoch) or epoch % (self.options.keep_every or epoch + 1) == 0:
            self.folder.save(f"epoch_{epoch:04d}", checkpoint)
        self.folder.save("last", checkpoint)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on as if nothing had happened, and to rebuild the detector."""
        return self.facts | {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "wandb_id": self.logger.run_id,
            "trainer": {
                "progress": asdict(self.progress),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema_updates": None if self.ema is None else self.ema.n_averaged,
                "random_state": torch.get_rng_state(),
                "cuda_random_states": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        }

    def resume(self, checkpoint: dict[str, Any], source: str) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it is of another model or another optimizer.
        """
        state = checkpoint["trainer"]
        load_weights(self.model, checkpoint["model"], source)
        if (self.ema is None) != (checkpoint["ema"] is None):
            raise UserError(f"{source} was trained {'with' if self.ema is None else 'without'} trainer.ema_decay")
        if self.ema is not None:
            load_weights(self.ema.module, checkpoint["ema"], source)
            self.ema.n_averaged.copy_(state["ema_updates"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"{source} was trained with other parameter groups; use the optimizer it had") from error
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random_state"])
        if state["cuda_random_states"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random_states"])


class Meter:
    """Means over the steps of an epoch, kept on the device so that no step has to wait for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}
        self.steps = self.images = 0

    def add(self, losses: Losses, images: int) -> None:
        self.last = {"loss": losses.total, **losses.terms, **losses.metrics}
        for name, value in self.last.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1
        self.images += images

    def latest(self) -> dict[str, float]:
        """Of the last step."""
        return _by_layer(self.last)

    def means(self) -> dict[str, float]:
        return _by_layer({name: value / self.steps for name, value in self.sums.items()})


def _by_layer(values: dict[str, Tensor]) -> dict[str, float]:
    """The last layer's value under the plain name, those of the others as NAME/layerN."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        *others, last = value.reshape(-1).tolist()
        flat |= {f"{name}/layer{index}": each for index, each in enumerate(others)} | {name: last}
    return flat


def add(first: Losses, second: Losses) -> Losses:
    """Losses add up over micro-batches; of metrics, the later micro-batch's are kept."""
    terms = {name: value + second.terms[name] for name, value in first.terms.items()}
    return Losses(first.total + second.total, terms, second.metrics)


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average that follows quickly at first: the decay rises as (1 + n) / (10 + n)."""

    def update(averages: Any, parameters: Any, updates: Tensor | int) -> None:
        torch._foreach_lerp_(averages, parameters, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(update))
