"""What the run of a trial is told of its search, in a file of its folder, and whether the search stopped it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from detr.files import write_json

Pruner = Literal["median", "hyperband"]

NOTE = "trial.json"  # in the folder of a job that is a trial
KEY = "hydra.sweeper.pruner"


@dataclass(frozen=True)
class TrialNote:
    """Says where a trial reports to."""

    storage: str  # of the study, as Optuna names it
    study: str
    trial: int
    metric: str
    pruner: Pruner
    startup_trials: int

    def write(self, folder: Path) -> None:
        """Leave it where the job will find it."""
        write_json(folder / NOTE, asdict(self), indent=1)

    @classmethod
    def read(cls, folder: Path) -> TrialNote | None:
        """Read it; None where a run is no trial, or no trial is stopped."""
        file = folder / NOTE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def was_pruned(ended: str | None) -> bool:
    """Return whether this is the end of a trial that was stopped early."""
    return ended is not None and f" {KEY}=" in ended
