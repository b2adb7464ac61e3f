"""Runs as Weights & Biases has them: config, rows and what became of them, but no files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detr.comparison.evaluations import VALIDATION, Evaluated
from detr.comparison.reading import Run
from detr.config.recorded import Recorded
from detr.errors import UserError, in_words
from detr.tracking.rows import Row
from detr.tracking.status import RunStatus, State

PREFIX = "wandb:"
ID = r"[\w.-]+/[\w.-]+/[a-z0-9]{8}"  # entity, project, and an id as W&B makes them
TOLD = ("setting", "training", "info")  # in W&B's config, of the run and not of what it does
CHOICE = "choices/"
PREFIXES = {"train_epoch/": "train/", "val/": "val/", "classes/": "val/"}  # of epochs' metrics there, and in our rows
STATES: dict[str, State] = {"finished": "finished", "failed": "failed", "crashed": "failed"}


def is_online(path: str) -> bool:
    """Return whether this is a run's path in W&B: one with the prefix `wandb:`, or one like it that is no folder."""
    return path.startswith(PREFIX) or (re.fullmatch(ID, path) is not None and not Path(path).exists())


def read_online(path: str, split: str = VALIDATION) -> Run:
    """Ask W&B for a run.

    Args:
        path: ENTITY/PROJECT/ID, with or without `wandb:`.
        split: that its metrics are to be of.

    Raises:
        UserError: W&B cannot be reached, does not let one in, or has no such run; or it has no such metrics.
    """
    import wandb

    where = path.removeprefix(PREFIX)
    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        if not wandb.login(prompt=False):
            raise ValueError("no API key; run `wandb login` or set WANDB_API_KEY")
        run = wandb.Api(timeout=20).run(where)
        return run_of(f"{PREFIX}{where}", run, split)
    except UserError:
        raise
    except Exception as error:  # of the network, of wandb, of the account
        reason = in_words(error).rstrip(".")
        raise UserError(f"{PREFIX}{where} cannot be read: {reason}; compare the folders of the runs instead") from error


def run_of(place: str, online: Any, split: str = VALIDATION) -> Run:
    """Return a run from what `wandb.Api().run(…)` says of it.

    Raises:
        UserError: it has no metrics of the split.
    """
    # As `detr.tracking.identity.run_config` has it.
    config = {key: value for key, value in online.config.items() if key not in TOLD and not key.startswith(CHOICE)}
    choices = {key.removeprefix(CHOICE): value for key, value in online.config.items() if key.startswith(CHOICE)}
    facts = online.config.get("info", {}) | {"choices": choices}
    summary = dict(online.summary)
    run = Run(
        place=place,
        recorded=Recorded(config, facts.get("overrides", []), source=Path(place), cwd=Path()),
        rows=rows_of(online.scan_history()),
        facts=facts,
        status=RunStatus(STATES.get(online.state, "running"), ended=summary.get("ended")),
    )
    if not run.evaluated:
        raise UserError(f"{place}: no validation metrics: the run did not get to an evaluation")
    return run if split == VALIDATION else _on_split(run, summary, split)


def rows_of(history: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the rows that metrics.jsonl has, from those that W&B has: one an epoch, without single steps."""
    rows: dict[int, Row] = {}
    for logged in history:
        if logged.get("epoch") is None or logged.get("step") is None:
            continue
        renamed = {
            f"{ours}{key.removeprefix(theirs)}": value
            for theirs, ours in PREFIXES.items()
            for key, value in logged.items()
            if key.startswith(theirs) and isinstance(value, int | float) and math.isfinite(value)
        }
        rows[int(logged["epoch"])] = {"epoch": int(logged["epoch"]), "step": int(logged["step"]), **renamed}
    return [rows[epoch] for epoch in sorted(rows)]


def _on_split(run: Run, summary: Mapping[str, Any], split: str) -> Run:
    """The run with the metrics that an evaluation left in its summary, as `test/AP`."""
    metrics = {
        key.removeprefix(f"{split}/"): float(value)
        for key, value in summary.items()
        if key.startswith(f"{split}/") and isinstance(value, int | float)
    }
    if not metrics:
        raise UserError(f"{run.place}: not evaluated on {split}")
    evaluation = Evaluated(split, metrics, Path(run.place), "best.pt", [], None)
    return Run(run.place, run.recorded, run.rows, run.facts, run.status, None, evaluation)
