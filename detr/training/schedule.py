"""Schedules of the learning rate: functions of where a run is, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Unit = Literal["epochs", "steps"]


@dataclass(frozen=True)
class Moment:
    """Holds where a run is."""

    epoch: int  # finished epochs
    step: int  # finished optimizer steps
    progress: float  # part of the whole run in [0, 1], by whichever limit is nearest


class Schedule(Protocol):
    """Offers what the trainer asks of a schedule."""

    def factor(self, moment: Moment) -> float:
        """Return what every group's learning rate is multiplied with for the next step."""

    def drops(self, now: Moment, later: Moment) -> bool:
        """Return whether the learning rate falls between two moments: a checkpoint is kept from before."""


class _Warmup:
    """The first `warmup_steps` optimizer steps rise linearly to the full learning rate."""

    def __init__(self, *, warmup_steps: int = 0) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps: expected at least 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, moment: Moment) -> float:
        warmup = min(1.0, (moment.step + 1) / (self.warmup_steps + 1))
        return warmup * self.base(moment)

    def base(self, moment: Moment) -> float:
        """The factor without warm-up."""
        return 1.0

    def drops(self, now: Moment, later: Moment) -> bool:
        return False


class Constant(_Warmup):
    """Keeps the learning rate what it is.

    Args:
        warmup_steps: optimizer steps in which it rises to that.
    """


class _Drops(_Warmup):
    """Multiplies the learning rate by gamma at certain moments."""

    def __init__(self, *, gamma: float, warmup_steps: int) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma: expected a number from 0 to 1, got {gamma}")
        self.gamma = gamma

    def passed(self, moment: Moment) -> int:
        """How many drops lie behind."""
        raise NotImplementedError

    def base(self, moment: Moment) -> float:
        return self.gamma ** self.passed(moment)

    def drops(self, now: Moment, later: Moment) -> bool:
        return self.passed(later) > self.passed(now)


class MultiStep(_Drops):
    """Multiplies the learning rate by gamma at each milestone; the paper: by 0.1 after 400 of 500 epochs.

    Args:
        milestones: below 1 parts of the whole run; from 1 on counts of `unit`.
        gamma: of each drop.
        unit: of milestones from 1 on.
        warmup_steps: optimizer steps in which the learning rate rises at first.

    Raises:
        ValueError: a milestone that is not above 0, or a count that is not whole.
    """

    def __init__(
        self, *, milestones: Sequence[float] = (0.8,), gamma: float = 0.1, unit: Unit = "epochs", warmup_steps: int = 0
    ) -> None:
        super().__init__(gamma=gamma, warmup_steps=warmup_steps)
        for milestone in milestones:
            if milestone <= 0 or (milestone >= 1 and milestone != int(milestone)):
                raise ValueError(
                    f"milestones: expected parts of the run below 1, or whole numbers of {unit}, got {milestone}"
                )
        self.milestones, self.unit = milestones, unit

    def passed(self, moment: Moment) -> int:
        count = moment.epoch if self.unit == "epochs" else moment.step
        return sum((moment.progress if each < 1 else count) >= each for each in self.milestones)


class Step(_Drops):
    """Multiplies the learning rate by gamma every so often: torch's StepLR, official DETR's `--lr_drop`.

    Args:
        every: how many of `unit` lie between two drops.
        gamma: of each drop.
        unit: of `every`.
        warmup_steps: optimizer steps in which the learning rate rises at first.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(self, *, every: int = 200, gamma: float = 0.1, unit: Unit = "epochs", warmup_steps: int = 0) -> None:
        super().__init__(gamma=gamma, warmup_steps=warmup_steps)
        if every < 1:
            raise ValueError(f"every: expected at least 1, got {every}")
        self.every, self.unit = every, unit

    def passed(self, moment: Moment) -> int:
        return (moment.epoch if self.unit == "epochs" else moment.step) // self.every


class Cosine(_Warmup):
    """Follows half a cosine from 1 down to `final` over the whole run (Loshchilov and Hutter 2017, without restarts).

    Args:
        final: factor at the end.
        warmup_steps: optimizer steps in which the learning rate rises at first.

    Raises:
        ValueError: `final` outside of [0, 1].
    """

    def __init__(self, *, final: float = 0.0, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 <= final <= 1:
            raise ValueError(f"final: expected a number from 0 to 1, got {final}")
        self.final = final

    def base(self, moment: Moment) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * moment.progress)) / 2


class FlatCosine(_Warmup):
    """Keeps the learning rate, lets it fall along half a cosine, and keeps it again (RTMDet, Lyu et al. 2022; DEIM).

    Args:
        flat: part of the run, warm-up included, at the full learning rate.
        rest: part of the run, its end, at the final learning rate.
        final: factor at the end.
        warmup_steps: optimizer steps in which the learning rate rises at first.
        warmup_power: of the part of these steps that is over: 1 is a line, 2 a parabola.

    Raises:
        ValueError: a number out of its range, or parts that do not leave anything for the fall.
    """

    def __init__(
        self,
        *,
        flat: float = 0.5,
        rest: float = 0.1,
        final: float = 0.5,
        warmup_steps: int = 0,
        warmup_power: float = 2.0,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps)
        for name, value in {"flat": flat, "rest": rest, "final": final}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
        if flat + rest >= 1:
            raise ValueError(f"flat and rest: expected parts of the run that leave some of it, got {flat} and {rest}")
        if warmup_power <= 0:
            raise ValueError(f"warmup_power: expected a number above 0, got {warmup_power}")
        self.flat, self.rest, self.final, self.warmup_power = flat, rest, final, warmup_power

    def factor(self, moment: Moment) -> float:
        warmup = min(1.0, (moment.step + 1) / (self.warmup_steps + 1))
        return warmup**self.warmup_power * self.base(moment)

    def base(self, moment: Moment) -> float:
        fallen = min(max((moment.progress - self.flat) / (1 - self.flat - self.rest), 0), 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fallen)) / 2
