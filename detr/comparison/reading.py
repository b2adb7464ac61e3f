"""Runs as they lie on the disk, whatever logged them: recorded config, rows, what became of them."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detr.config.recorded import CONFIG, Recorded, recorded
from detr.errors import UserError
from detr.tracking.rows import METRICS, Row, best_row, read_rows

State = Literal["finished", "unfinished", "failed"]


@dataclass(frozen=True)
class Run:
    """Holds one run's folder."""

    folder: Path
    recorded: Recorded
    rows: list[Row]  # one an epoch, as in metrics.jsonl; at least one has validation metrics
    facts: dict[str, Any]  # run.json: code revision, hardware, …; empty for runs that have none

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
        """Return the last error in the run's log."""
        return last_error(self.folder)

    @property
    def state(self) -> State:
        """Return the state: finished if all its steps were done, or `trainer.patience` ran out."""
        if self._progress() >= 1 or self._poor() >= (self.trainer.get("patience") or math.inf):
            return "finished"
        return "failed" if self.error else "unfinished"

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
    text = log.read_text(errors="replace") if log.exists() else ""
    found = re.findall(r"^\S+ \S+ ERROR [\w.]+: (.*)$", text, re.MULTILINE)
    return found[-1] if found else None


def find_runs(paths: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the runs in the folders, each once, and a line for each folder that was skipped.

    A path is a run's folder, or a folder with runs below it, such as a sweep's.

    Raises:
        UserError: a path does not exist, or nothing is left.
    """
    runs: dict[Path, Run] = {}
    skipped = []
    for path in map(Path, paths):
        try:
            folders = _folders(path)
        except UserError as error:
            if not path.is_dir():
                raise
            skipped.append(str(error))
            continue
        for folder in folders:
            try:
                runs.setdefault(folder.resolve(), read_run(folder))
            except UserError as error:
                skipped.append(str(error))
    if not runs:
        raise UserError("; ".join(["nothing to compare", *skipped]))
    return list(runs.values()), skipped


def read_run(folder: Path) -> Run:
    """Read one run.

    Raises:
        UserError: the folder has no config or no metrics, or they cannot be read.
    """
    rows = _rows(folder)
    run = Run(folder=folder, recorded=recorded(folder), rows=rows, facts=_facts(folder))
    _ = run.trainer  # so that a config that cannot be resolved shows here
    if not run.evaluated:
        raise UserError(f"{folder}: no validation metrics in {METRICS}: the run did not get to an evaluation")
    return run


def _folders(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such folder; give run folders such as outputs/train/DATE")
    if not path.is_dir():
        raise UserError(f"{path}: a file; give the folder of its run")
    if (path / CONFIG).exists() or (path / METRICS).exists():
        return [path]
    for pattern in ("*", "*/*"):
        below = [config.parents[1] for config in path.glob(f"{pattern}/{CONFIG}")]
        if below:
            return sorted(below, key=_by_number)
    raise UserError(f"{path}: not a run: there is no .hydra/config.yaml in it or below it")


def _by_number(folder: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in folder.parts]


def _rows(folder: Path) -> list[Row]:
    rows = read_rows(folder / METRICS)
    if not rows:
        error = last_error(folder)
        ended = f"; it ended with: {error}" if error else ""
        raise UserError(f"{folder}: no rows in {METRICS}: the run did not get to the end of an epoch{ended}")
    return rows


def _facts(folder: Path) -> dict[str, Any]:
    """run.json; what cannot be read is as good as missing, since nothing but notes depends on it."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
