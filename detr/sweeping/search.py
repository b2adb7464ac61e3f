"""Choosing what to try next by what came of the trials so far: Optuna's TPE, asked and told.

The study is a file in the sweep's folder, so a search that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detr.errors import UserError
from detr.sweeping.notes import Pruner, TrialNote

Direction = Literal["maximize", "minimize"]

STUDY = "study.db"
NAME = "sweep"  # of the study in it


@dataclass(frozen=True)
class Choice:
    """Draws one of several values, in Hydra's notation."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """Draws a number between two bounds, both included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = False


Space = Mapping[str, Choice | Interval]


@dataclass(frozen=True)
class Trial:
    number: int
    values: dict[str, Any]  # key → value


class Search:
    """Holds a study in a folder.

    Args:
        folder: of the sweep.
        space: key → what it may be.
        direction: whether more is better, or less.
        seed: of the sampler. Every trial has its own, so that a search which was stopped draws the rest of its
            trials as if it had not been.
        startup_trials: drawn at random before anything is learned from them.
        at_once: how many trials are under way at a time; they keep away from each other.
        pruner: what stops poor trials early; None: nothing does.

    Raises:
        UserError: Optuna is not installed, or the folder's study is of another space.
    """

    def __init__(
        self,
        folder: Path,
        *,
        space: Space,
        direction: Direction,
        seed: int,
        startup_trials: int,
        at_once: int = 1,
        pruner: Pruner | None = None,
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "hydra/sweeper=optuna needs Optuna: pip install 'detr-lab[hpo]', or pip install optuna"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.seed, self.startup_trials, self.at_once, self.pruner = seed, startup_trials, at_once, pruner
        self.space = {key: distribution(each) for key, each in space.items()}
        folder.mkdir(parents=True, exist_ok=True)
        self.storage = f"sqlite:///{(folder / STUDY).resolve()}"
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=NAME,
            direction=direction,
            load_if_exists=True,
        )
        for trial in self._trials():
            if trial.distributions != self.space:
                raise UserError(
                    f"{folder / STUDY} is the study of another space ({', '.join(trial.distributions)}); "
                    "start it again with the same parameters, or choose another hydra.sweep.dir"
                )

    def __len__(self) -> int:
        """Return the trials that were asked for."""
        return len(self._trials())

    def open_trials(self) -> list[Trial]:
        """Return trials of which nothing was told: they were under way when the search was stopped."""
        return [Trial(each.number, dict(each.params)) for each in self._trials() if not each.state.is_finished()]

    def ask(self) -> Trial:
        """Return the next trial."""
        import optuna

        self.study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + len(self),
            n_startup_trials=self.startup_trials,
            constant_liar=self.at_once > 1,
        )
        trial = self.study.ask(self.space)
        return Trial(trial.number, dict(trial.params))

    def note(self, trial: Trial, metric: str) -> TrialNote | None:
        """Return what the run of a trial must know to be stopped early; None where no trial is."""
        if self.pruner is None:
            return None
        return TrialNote(self.storage, NAME, trial.number, metric, self.pruner, self.startup_trials)

    def tell(self, trial: Trial, value: float | None, *, pruned: bool = False) -> None:
        """Record the value of a trial; None: it failed. One that was stopped early has what it reported last."""
        import optuna

        if pruned:
            self.study.tell(trial.number, state=optuna.trial.TrialState.PRUNED)
        elif value is None:
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial.number, value)

    def best(self) -> tuple[Trial, float] | None:
        """Return the best trial that was not stopped early, and its value."""
        if not any(trial.state.name == "COMPLETE" for trial in self._trials()):
            return None
        best = self.study.best_trial
        assert best.value is not None
        return Trial(best.number, dict(best.params)), best.value

    def _trials(self) -> list[Any]:
        """Optuna's records, without those that were stopped while their values were being drawn."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if len(trial.params) >= len(self.space) or trial.state.is_finished()]


def distribution(each: Choice | Interval) -> Any:
    """Return what Optuna calls it.

    Raises:
        UserError: it is none.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if isinstance(each, Choice):
            return CategoricalDistribution(each.values)
        if each.integer:
            return IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
        return FloatDistribution(each.low, each.high, log=each.log, step=each.step)
    except ValueError as error:
        raise UserError(f"hydra.sweeper.params: {' '.join(str(error).split())}") from error


def as_overrides(values: Mapping[str, Any]) -> Sequence[str]:
    """key=value. Numbers have four digits: more would tell no trial from another, and make its name unreadable."""
    return [f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items()]
