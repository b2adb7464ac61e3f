"""How to train, and how far a training is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainerOptions:
    """Holds how to train; `conf/trainer/default.yaml` says what each means."""

    max_epochs: int | None = 300
    max_steps: int | None = None
    max_minutes: float | None = None
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    accumulate: int = 1
    clip_norm: float | None = 0.1
    ema_decay: float | None = None
    ema_tau: float | None = None
    overfit_batches: int | None = None
    evaluate_every: int = 1
    monitor: str = "AP"
    patience: int | None = None
    keep_every: int | None = 100
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = 10
    keep_last: int = 2
    requeue: bool = False
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.max_epochs is self.max_steps is self.max_minutes is None:
            raise ValueError("the run has no end; give max_epochs, max_steps or max_minutes")
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        if self.ema_decay is not None and self.ema_decay >= 1:
            raise ValueError(f"ema_decay: expected a number below 1, got {self.ema_decay}")
        if self.ema_tau is not None and self.ema_decay is None:
            raise ValueError("ema_tau says how ema_decay rises, but that is null; give ema_decay, too")


@dataclass
class Progress:
    """Holds how far a run is."""

    epoch: int = 0  # finished epochs, with their evaluation
    batches: int = 0  # micro-batches of the unfinished epoch that each process has done
    step: int = 0  # finished optimizer steps
    reported: int = 0  # those that the rows so far are about
    evaluated: int = 0  # those before the last evaluation
    seconds: float = 0.0  # of training, evaluation not counted; by the first process's clock
    best: dict[str, float] | None = None  # metrics of the best evaluation, with its epoch
    poor: int = 0  # evaluations since then
    planned: int | None = None  # optimizer steps that fit into trainer.max_minutes, as found before the first
    budget: float | None = None  # the minutes that they were planned for
    stopped: str | None = None  # by what, where it is none of the limits
