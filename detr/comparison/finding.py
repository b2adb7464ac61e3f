"""The runs that a command line names: folders, folders of folders, runs in Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detr.comparison.evaluations import VALIDATION, read_evaluation
from detr.comparison.online import is_online, read_online
from detr.comparison.reading import Run, read_run
from detr.config.recorded import CONFIG
from detr.errors import UserError
from detr.texts import pasted
from detr.tracking.rows import METRICS
from detr.tracking.runs import is_evaluation, trainings_below


def find_runs(paths: Sequence[str], split: str = VALIDATION) -> tuple[list[Run], list[str]]:
    """Return the runs in the folders and in W&B, each once, and a line for each that was skipped.

    Args:
        paths: each a run's folder, a folder with runs below it, such as a sweep's, or a run's path in W&B.
        split: that the runs' metrics are to be of.

    Raises:
        UserError: a path does not exist, W&B does not answer, or nothing is left.
    """
    runs: dict[Path | str, Run] = {}
    skipped = []
    for path in paths:
        try:
            if is_online(path):
                runs.setdefault(path, read_online(path, split))
                continue
            folders = _folders(Path(path))
        except UserError as error:
            if not Path(path).is_dir():
                raise
            skipped.append(str(error))
            continue
        for folder in folders:
            try:
                runs.setdefault(folder.resolve(), on_split(read_run(folder), split))
            except UserError as error:
                skipped.append(str(error))
    if not runs:
        raise UserError("; ".join(["nothing to compare", *skipped]))
    return list(runs.values()), skipped


def on_split(run: Run, split: str) -> Run:
    """Return the run with the metrics of a split.

    Raises:
        UserError: no checkpoint of it was evaluated on the split.
    """
    if split == VALIDATION or run.folder is None:
        return run
    evaluation = read_evaluation(run.folder, split)
    if evaluation is None:
        raise UserError(
            f"{run.folder}: not evaluated on {split}; do so with "
            + pasted("detr", "evaluate", checkpoint=run.folder / "checkpoints" / "best.pt", split=split)
        )
    return replace(run, evaluation=evaluation)


def _folders(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such folder; give run folders such as outputs/train/DATE")
    if not path.is_dir():
        raise UserError(f"{path}: a file; give the folder of its run")
    if is_evaluation(path):
        raise UserError(
            f"{path}: an evaluation; give the training whose checkpoint it is of, and --split for its numbers"
        )
    if (path / CONFIG).exists() or (path / METRICS).exists():
        return [path]
    below = trainings_below(path)
    if not below:
        raise UserError(f"{path}: not a run: there is no .hydra/config.yaml of a training in it or below it")
    return below
