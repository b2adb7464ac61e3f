"""Jobs of a sweep leave a record in W&B even where they fail early."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

from omegaconf import DictConfig

from detr.config import build, resolved, run_directory, run_facts
from detr.errors import UserError


def recorded(train: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Around a training: as a job of a sweep it has a failed run in W&B also if it fails before opening one.

    Among the runs of a sweep one that is missing would be taken for one that was never wanted.
    """

    @functools.wraps(train)
    def recording(config: DictConfig) -> None:
        try:
            train(config)
        except Exception:
            if "sweep" in run_facts() and not (run_directory() / "wandb").exists():
                _record_failure(config)
            raise

    return recording


def _record_failure(config: DictConfig) -> None:
    plain = resolved(config)
    logger = build(plain["logger"], "logger")
    with contextlib.suppress(UserError):  # W&B itself is what fails
        logger.start(directory=run_directory(), config=plain, run_name=plain["name"], info=run_facts())
        logger.finish(exit_code=1)
