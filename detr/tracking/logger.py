"""Where a run reports to, and a logger that reports nowhere. Both are spoken to in the same words."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from detr.data.loader import TrainLoader
from detr.errors import Interrupted, in_words
from detr.evaluation.validation import Outcome
from detr.tracking.record import RunRecord

log = logging.getLogger(__name__)

JobType = Literal["train", "eval"]


class Logger(ABC):
    """Takes reports of the training loop. As a context manager it ends the run, as failed on an exception."""

    @abstractmethod
    def start(
        self,
        *,
        directory: Path,
        config: Mapping[str, Any],
        run_name: str,
        record: RunRecord,
        run_id: str | None = None,
        job_type: JobType = "train",
    ) -> None:
        """Open the run.

        Args:
            directory: the run's folder; the logger's files go to a folder of their own inside.
            config: the config in plain containers, its references as they stand.
            run_name: of the experiment; the run is called by it and what was overridden.
            record: what else to keep; name, group and tags of the run come from it.
            run_id: of the run that is resumed, as its checkpoint says; else it is the one that began in the folder.
            job_type: what kind of run this is.

        Raises:
            UserError: the service cannot be reached or does not let one in.
        """

    @abstractmethod
    def log_samples(self, loader: TrainLoader) -> None:
        """Log the first images of a training as it sees them, once a run."""

    @abstractmethod
    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one optimizer step, named "train/…"; their axis is `step`."""

    @abstractmethod
    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Log metrics of one epoch; the axis of "val/…" is `epoch`.

        Means over the epoch that are named "train/…" are kept as "train_epoch/…", apart from those of single steps,
        and AP by class, "val/AP/CLASS", as "classes/AP/CLASS".
        """

    @abstractmethod
    def log_outcome(self, outcome: Outcome, epoch: int, *, best: bool) -> None:
        """Log what an evaluation found: examples now, tables now or, of the best epoch, at the end."""

    @abstractmethod
    def log_best(self, metrics: Mapping[str, float]) -> None:
        """Put the metrics of the best epoch so far into the run's summary: "val/AP" becomes "best/AP"."""

    @abstractmethod
    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        """Put facts about the whole training into the run's summary."""

    @abstractmethod
    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        """Put the metrics of an evaluation into the run's summary, and into that of the training it evaluates.

        "AP" of the test split becomes "test/AP".
        """

    @abstractmethod
    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        """Keep the file as an artifact; it must stay in its place until it is uploaded."""

    @abstractmethod
    def interrupt(self, number: int) -> bool:
        """Note that a signal ends the run, which is to go on later.

        Returns:
            Whether the service itself asked for the end: then the run is complete as it is.
        """

    @abstractmethod
    def finish(self, exit_code: int = 0) -> None:
        """End the run, as failed if the code is not 0. Ending it twice is ending it once."""

    @property
    def run_id(self) -> str | None:
        """Return the id to be kept in the checkpoint and given to `start` on resuming."""
        return None

    @property
    def place(self) -> str | None:
        """Return where to look at the run: its address, or the command that uploads it; None: nowhere."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        complete = kind is None
        try:
            if isinstance(error, Interrupted):
                complete = self.interrupt(error.number)
            self.finish(exit_code=0 if complete else 1)
        except Exception as problem:  # what was trained is on the disk, and what went wrong before counts more
            log.warning("the logger did not end the run: %s", in_words(problem))
        return complete


class NullLogger(Logger):
    """Says nothing to nobody."""

    def start(
        self,
        *,
        directory: Path,
        config: Mapping[str, Any],
        run_name: str,
        record: RunRecord,
        run_id: str | None = None,
        job_type: JobType = "train",
    ) -> None:
        pass

    def log_samples(self, loader: TrainLoader) -> None:
        pass

    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        pass

    def log_outcome(self, outcome: Outcome, epoch: int, *, best: bool) -> None:
        pass

    def log_best(self, metrics: Mapping[str, float]) -> None:
        pass

    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        pass

    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        pass

    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        pass

    def interrupt(self, number: int) -> bool:
        return False

    def finish(self, exit_code: int = 0) -> None:
        pass
