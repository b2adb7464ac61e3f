"""Poor trials of a search are stopped early, by what the validation has said so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detr import distributed
from detr.sweeping.notes import KEY, Pruner, TrialNote
from detr.training.callbacks import Callback, Ongoing


class StopPoorTrials(Callback):
    """Tells the study of every evaluation, and ends the run where its pruner says so.

    What decides is in the study, so a trial that is resumed is judged as if it had not been interrupted. A run
    without a note of its trial goes on to its end.
    """

    def __init__(self) -> None:
        self.note: TrialNote | None = None
        self.trial: Any = None
        self.reported: set[int] = set()

    def on_fit_start(self, trainer: Ongoing) -> None:
        self.note = TrialNote.read(trainer.folder.path) if distributed.is_main() else None
        if self.note is None:
            return
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = pruner_of(self.note.pruner, self.note.startup_trials)
        study = optuna.load_study(study_name=self.note.study, storage=self.note.storage, pruner=pruner)
        known = study.get_trials(deepcopy=False)[self.note.trial]
        self.trial, self.reported = optuna.trial.Trial(study, known._trial_id), set(known.intermediate_values)

    def on_epoch_end(self, trainer: Ongoing, row: Mapping[str, float]) -> None:
        value = row.get(f"val/{self.note.metric}") if self.note is not None else None
        if self.note is None or value is None:
            return
        step = int(row["epoch"]) - 1  # Optuna counts from 0
        if step not in self.reported:  # else the epoch was interrupted, and is done again
            self.trial.report(value, step)
        if self.trial.should_prune():
            trainer.stop(f"{KEY}={self.note.pruner}")


def pruner_of(name: Pruner, startup_trials: int) -> Any:
    """Return Optuna's pruner; `startup_trials` must have ended before their median stops any."""
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup_trials)
    return optuna.pruners.HyperbandPruner()
