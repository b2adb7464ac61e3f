"""What W&B hears of jobs of a sweep that fail before they train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from detr import distributed
from detr.config import Config, build
from detr.tracking.record import RunRecord


@contextmanager
def failed_run_on_error(config: Config) -> Iterator[None]:
    """Surround a training: as a job of a sweep it has a failed run in W&B also if it fails before opening one.

    Among the runs of a sweep one that is missing would be taken for one that was never wanted.
    """
    try:
        yield
    except Exception:
        if distributed.is_main() and config.sweep is not None and not (config.directory / "wandb").exists():
            with contextlib.suppress(Exception):  # what made the job fail is told already, and may be W&B itself
                logger = build(config.values["logger"])
                logger.start(
                    directory=config.directory,
                    config=config.stored,
                    run_name=config.values["name"],
                    record=RunRecord.of(config),
                )
                logger.finish(exit_code=1)
        raise
