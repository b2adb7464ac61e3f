"""How many steps fit into a time budget: some are timed before the first one, and their number is fixed.

A schedule that followed the clock would make two runs with one seed differ, and a comparison one of the machine's load.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from detr import distributed

T = TypeVar("T")

WARM_UP = 2  # steps, of which the first are slow
AT_LEAST, AT_MOST = 3, 20  # steps that are timed
PART = 0.01  # of the budget, for timing
OVERTIME = 1.25  # times the budget: beyond it the clock ends a run after all


def seconds_per_step(step: Callable[[T], object], batches: Iterator[T], budget: float, device: torch.device) -> float:
    """Time every other step, and return the seconds of one, the same in every process.

    The first step of images of a new size takes longer, and a run meets few such: batches come in pairs of one size.

    Args:
        step: what is timed; all processes do equally many.
        batches: what it is given; endless.
        budget: seconds of the whole run.
        device: where `step` computes.
    """
    for batch in itertools.islice(batches, WARM_UP):
        step(batch)
    timed = 0.0
    for count in range(1, AT_MOST + 1):
        step(next(batches))
        _wait(device)
        started = time.monotonic()
        step(next(batches))
        _wait(device)
        timed += time.monotonic() - started
        if distributed.from_main(count >= AT_LEAST and timed >= PART * budget):
            break
    return distributed.from_main(timed / count)


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Leave every random state as it was: Python's, NumPy's, torch's on the host and on the device."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


def _wait(device: torch.device) -> None:
    """For what a GPU has been told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
