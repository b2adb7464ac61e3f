"""What W&B hears of besides trainings: evaluations, and jobs of a sweep that fail before they train."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from detr import distributed
from detr.config import build, resolved
from detr.entry import run_directory, run_facts


def recorded(train: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Around a training: as a job of a sweep it has a failed run in W&B also if it fails before opening one.

    Among the runs of a sweep one that is missing would be taken for one that was never wanted.
    """

    @functools.wraps(train)
    def recording(config: DictConfig) -> None:
        try:
            train(config)
        except Exception:
            if distributed.is_main() and "sweep" in run_facts() and not (run_directory() / "wandb").exists():
                _record_failure(config)
            raise

    return recording


def record_evaluation(
    plain: dict[str, Any], metrics: Mapping[str, float], overrides: Sequence[str], *, checkpoint: str, split: str
) -> None:
    """A run of its own, of type "eval", if a logger is among the overrides: an evaluation is no part of its training.

    Args:
        plain: the config that was evaluated.
        metrics: their names as in metrics.json.
        overrides: of the evaluation.
        checkpoint: as it was asked for.
        split: of the data set.
    """
    if not any(override.startswith(("logger=", "logger.")) for override in overrides):
        return
    info = run_facts() | {"checkpoint": checkpoint, "split": split}
    with build(plain["logger"], "logger") as logger:
        logger.start(
            directory=run_directory(), config=plain, run_name=f"{plain['name']} {split}", info=info, job_type="eval"
        )
        logger.log_evaluation(metrics, split)


def _record_failure(config: DictConfig) -> None:
    with contextlib.suppress(Exception):  # what made the job fail is told already, and may be W&B itself
        plain = resolved(config)
        logger = build(plain["logger"], "logger")
        logger.start(directory=run_directory(), config=plain, run_name=plain["name"], info=run_facts())
        logger.finish(exit_code=1)
