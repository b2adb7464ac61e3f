"""Being asked to stop: by a scheduler that wants the machine back (SIGTERM, SIGUSR1), or by Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from detr.errors import Interrupted, in_words

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Requests:
    """Notes signals while it is entered as a context, instead of dying of them.

    Ctrl-C a second time stops at once.
    """

    def __init__(self) -> None:
        self.received = [0.0] * len(SIGNALS)  # 1 for those that came; a list that can be summed over processes
        self._before: dict[signal.Signals, Any] = {}

    def check(self, received: list[float]) -> None:
        """Raise Interrupted if a signal came.

        Args:
            received: of this process, or added up over all processes, so that all stop at the same place.

        Raises:
            Interrupted: one of the signals came.
        """
        for number, count in zip(SIGNALS, received, strict=True):
            if count:
                raise Interrupted(number)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received[SIGNALS.index(signal.Signals(number))] = 1.0
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.warning("stopping after this step; Ctrl-C again stops at once")


@contextmanager
def requeueing(wanted: bool) -> Iterator[None]:
    """Surround a whole run, logger included, since Slurm may end the job at once: requeue it if it was stopped.

    Ctrl-C asks for the end, and gets it.
    """
    try:
        yield
    except Interrupted as interruption:
        if wanted and interruption.number != signal.SIGINT:
            requeue()
        raise


def requeue() -> None:
    """Have Slurm start this job again, where it is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
        log.info("Slurm will start job %s again", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("job %s is not requeued: %s", job, in_words(reason))
