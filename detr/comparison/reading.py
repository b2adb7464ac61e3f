"""Runs as they lie on the disk, whatever logged them: recorded config, rows, what became of them."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detr.comparison.evaluations import Evaluated
from detr.config.recorded import Recorded, noted, recorded
from detr.errors import UserError
from detr.evaluation.names import LOSS
from detr.tracking.rows import METRICS, Row, best_row, read_rows
from detr.tracking.status import RunStatus, read_status

State = Literal["finished", "unfinished", "failed"]
ABSENT = -1  # a metric of which the split has nothing, as older runs have it


@dataclass(frozen=True)
class Run:
    """Holds one run, of a folder or of W&B."""

    place: str  # how it is called: its folder as it was given, or its path in W&B
    recorded: Recorded
    rows: list[Row]  # one an epoch, as in metrics.jsonl; at least one has validation metrics
    facts: dict[str, Any]  # run.json: code revision, hardware, …; empty for runs that have none
    status: RunStatus = field(default_factory=RunStatus)
    folder: Path | None = None  # None: there are no files
    evaluation: Evaluated | None = None  # what the metrics are of; None: the validation split, during training

    @property
    def seed(self) -> Any:
        return self.recorded.config.get("seed")

    @functools.cached_property
    def trainer(self) -> dict[str, Any]:
        """Return the section of the config, resolved."""
        return self.recorded.section("trainer") or {}

    @property
    def monitor(self) -> str:
        """Return the metric that decided which epoch is best."""
        return str(self.trainer.get("monitor", "AP"))

    @property
    def evaluated(self) -> list[Row]:
        """Return the rows with validation metrics."""
        return [row for row in self.rows if any(key.startswith("val/") for key in row)]

    @functools.cached_property
    def best(self) -> Row:
        """Return the row of the best epoch by `trainer.monitor`, the first among equals; that of predictions.json."""
        return best_row(self.evaluated, self.monitor) or self.evaluated[0]

    @property
    def last(self) -> Row:
        """Return the last row with validation metrics."""
        return self.evaluated[-1]

    def metrics(self, *, last: bool = False) -> dict[str, float]:
        """Return name → value of the evaluation, or of the validation after the best epoch or the last one."""
        if self.evaluation is not None:
            return self.evaluation.metrics
        row = self.last if last else self.best
        named = {key.removeprefix("val/"): value for key, value in row.items() if key.startswith("val/")}
        return {name: float(value) for name, value in named.items() if value is not None}

    @property
    def choices(self) -> dict[str, str]:
        """Return group → option, where the run recorded it."""
        return self.facts.get("choices") or {}

    @property
    def ended(self) -> str | None:
        """Return what ended the run, and in which step, where it recorded that."""
        return self.status.ended or self.facts.get("ended")

    @property
    def revision(self) -> str | None:
        """Return the commit of the code, where the run recorded it."""
        return self.facts.get("git")

    @property
    def steps(self) -> int:
        return int(self.rows[-1]["step"])

    @property
    def epochs(self) -> int:
        return int(self.rows[-1]["epoch"])

    @property
    def minutes(self) -> float | None:
        """Return the minutes of training; evaluation is not counted."""
        seconds = self.rows[-1].get("train/seconds")
        return None if seconds is None else seconds / 60

    @functools.cached_property
    def error(self) -> str | None:
        """Return the last error of the run, by its status or its log."""
        return self.status.error or (None if self.folder is None else last_error(self.folder))

    @property
    def state(self) -> State:
        """Return the state: finished if it says so, all its steps were done, or `trainer.patience` ran out."""
        poor = self._poor() >= (self.trainer.get("patience") or math.inf)
        if self.status.status == "finished" or self._progress() >= 1 or poor:
            return "finished"
        return "failed" if self.status.status == "failed" or self.error else "unfinished"

    def _progress(self) -> float:
        planned = self.facts.get("steps")
        if planned:
            return self.steps / planned
        done = {"max_epochs": self.epochs, "max_steps": self.steps}
        return max((value / self.trainer[key] for key, value in done.items() if self.trainer.get(key)), default=1.0)

    def _poor(self) -> int:
        return sum(row["epoch"] > self.best["epoch"] for row in self.evaluated)


def last_error(folder: Path) -> str | None:
    """Return the last error in the log of a run."""
    log = folder / "train.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = re.findall(r"^\S+ \S+ ERROR [\w.]+: (.*)$", text, re.MULTILINE)
    return found[-1] if found else None


def read_run(folder: Path) -> Run:
    """Read one run.

    Raises:
        UserError: the folder has no config or no metrics, or they cannot be read.
    """
    rows = _rows(folder)
    run = Run(str(folder), recorded(folder), rows, noted(folder), _status(folder), folder)
    _ = run.trainer  # so that a config that cannot be resolved shows here
    if not run.evaluated:
        raise UserError(f"{folder}: no validation metrics in {METRICS}: the run did not get to an evaluation")
    return run


def _rows(folder: Path) -> list[Row]:
    rows = read_rows(folder / METRICS)
    if not rows:
        error = last_error(folder)
        ended = f"; it ended with: {error}" if error else ""
        raise UserError(f"{folder}: no rows in {METRICS}: the run did not get to the end of an epoch{ended}")
    return [{key: value for key, value in row.items() if value != ABSENT or key == f"val/{LOSS}"} for row in rows]


def _status(folder: Path) -> RunStatus:
    """What cannot be read is as good as missing, as with run.json."""
    try:
        return read_status(folder)
    except (OSError, ValueError, TypeError):
        return RunStatus()
