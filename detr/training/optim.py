"""Parameter groups by name pattern, and schedules of the learning rate."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from detr.patterns import check_patterns

log = logging.getLogger(__name__)


def adamw(
    *, model: nn.Module, lr: float, weight_decay: float = 1e-4, lr_by_pattern: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over groups of parameters, weight decay on all of them, as the paper.

    Args:
        model: whose parameters; those with a learning rate of 0 are frozen.
        lr: of parameters that no pattern matches.
        weight_decay: of every group.
        lr_by_pattern: regular expression → learning rate; the first that is found in a parameter's name counts.

    Raises:
        ValueError: a negative rate, a pattern that is no regular expression or matches no parameter, or nothing
            left to train.
    """
    groups = parameter_groups(model, lr, lr_by_pattern or {})
    for rate, parameters in groups:
        for parameter in parameters:
            parameter.requires_grad_(parameter.requires_grad and rate > 0)
    trained = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "lr": rate}
        for rate, parameters in groups
    ]
    trained = [group for group in trained if group["params"]]
    if not trained:
        raise ValueError("every parameter is frozen; give optimizer.lr above 0")
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)  # the same sums in one pass


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but a batch norm that is frozen keeps its statistics, too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def parameter_groups(
    model: nn.Module, lr: float, lr_by_pattern: Mapping[str, float]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Learning rate and parameters of each group: those that no pattern matches, then one for each pattern."""
    for key, rate in {
        "lr": lr,
        **{f"lr_by_pattern.{pattern}": rate for pattern, rate in lr_by_pattern.items()},
    }.items():
        if not rate >= 0:
            raise ValueError(f"{key} must be at least 0, not {rate}")
    check_patterns("lr_by_pattern", lr_by_pattern)
    rest: list[nn.Parameter] = []
    by_pattern: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in lr_by_pattern}
    for name, parameter in model.named_parameters():
        found = next((pattern for pattern in lr_by_pattern if re.search(pattern, name)), None)
        (rest if found is None else by_pattern[found]).append(parameter)
    unused = [pattern for pattern, parameters in by_pattern.items() if not parameters]
    if unused:
        tops = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"lr_by_pattern: {unused[0]} is found in no parameter's name; names start with {tops}")
    return [(lr, rest), *((lr_by_pattern[pattern], parameters) for pattern, parameters in by_pattern.items())]


@dataclass(frozen=True)
class Moment:
    """Where a run is. A schedule is a function of it alone, so that resuming needs no state."""

    epoch: int  # finished epochs
    step: int  # finished optimizer steps
    progress: float  # part of the whole run in [0, 1], by whichever limit (epochs, steps, minutes) is nearest


class Schedule(Protocol):
    """What the trainer asks of a schedule."""

    def factor(self, moment: Moment) -> float:
        """What every group's learning rate is multiplied with for the next step."""

    def drops_after(self, epoch: int) -> bool:
        """Whether the learning rate falls when `epoch` (from 1) has ended: a checkpoint is kept from before."""


class _Warmup:
    """The first `warmup_steps` optimizer steps rise linearly to the full learning rate."""

    def __init__(self, *, warmup_steps: int = 0) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, moment: Moment) -> float:
        warmup = min(1.0, (moment.step + 1) / (self.warmup_steps + 1))
        return warmup * self.base(moment)

    def base(self, moment: Moment) -> float:
        """The factor without warm-up."""
        return 1.0

    def drops_after(self, epoch: int) -> bool:
        return False


class Constant(_Warmup):
    """The learning rate stays what it is."""


class MultiStep(_Warmup):
    """× gamma at each milestone; the paper: ×0.1 after 200 of 300 epochs, or 400 of 500.

    Args:
        milestones: after how many epochs (or steps).
        unit: of the milestones.
    """

    def __init__(
        self,
        *,
        milestones: Sequence[int],
        gamma: float = 0.1,
        unit: Literal["epochs", "steps"] = "epochs",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if any(milestone < 1 for milestone in milestones):
            raise ValueError(f"milestones must be 1 or more, not {list(milestones)}")
        self.milestones, self.gamma, self.unit = milestones, gamma, unit

    def base(self, moment: Moment) -> float:
        return self.gamma ** self.passed(moment.epoch if self.unit == "epochs" else moment.step)

    def passed(self, position: int) -> int:
        """How many drops lie at or before a position."""
        return sum(position >= milestone for milestone in self.milestones)

    def drops_after(self, epoch: int) -> bool:
        return self.unit == "epochs" and self.passed(epoch) > self.passed(epoch - 1)


class Step(MultiStep):
    """× gamma every so many epochs (or steps): torch's StepLR, which official DETR uses as `--lr_drop`."""

    def __init__(
        self, *, every: int, gamma: float = 0.1, unit: Literal["epochs", "steps"] = "epochs", warmup_steps: int = 0
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        super().__init__(milestones=[every], gamma=gamma, unit=unit, warmup_steps=warmup_steps)
        self.every = every

    def passed(self, position: int) -> int:
        return position // self.every


class Cosine(_Warmup):
    """Half a cosine from 1 down to `final` over the whole run (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(self, *, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 <= final <= 1:
            raise ValueError(f"final must lie between 0 and 1, not {final}")
        self.final = final

    def base(self, moment: Moment) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * moment.progress)) / 2
