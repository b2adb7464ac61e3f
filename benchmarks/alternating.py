"""Two ways of doing the same, timed in turns: what a machine does beside them slows both alike."""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import detr  # noqa: F401 - before torch: it sets how threads wait for each other


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of the peer's, and their ratio turn by turn.

    Attributes:
        ours, theirs: medians.
        ratio: the median of ours / theirs; below 1: ours is faster.
        low, high: its smallest and largest turn.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"ours {self.ours:.4g} s, theirs {self.theirs:.4g} s, "
            f"ratio {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"
        )


def alternate(ours: Callable[[], Any], theirs: Callable[[], Any], *, turns: int = 7, warmup: int = 1) -> Comparison:
    """Return how long each takes, over so many turns of one after the other; the first is not always the same."""
    for _ in range(warmup):
        ours(), theirs()
    found: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn % 2:
            other, mine = seconds(theirs), seconds(ours)
        else:
            mine, other = seconds(ours), seconds(theirs)
        found.append((mine, other))
    ratios = sorted(mine / other for mine, other in found)
    return Comparison(
        ours=statistics.median(mine for mine, _ in found),
        theirs=statistics.median(other for _, other in found),
        ratio=statistics.median(ratios),
        low=ratios[0],
        high=ratios[-1],
    )


class Apart:
    """Does something in a process of its own, whenever it is called: what one side sets there is not the other's.

    Args:
        make: a function at the top of a module, or a partial of such, that returns what is done; called there once.
            PyTorch has as many threads there as here.
    """

    def __init__(self, make: Callable[[], Callable[[], Any]]) -> None:
        import torch

        context = multiprocessing.get_context("spawn")  # OpenMP's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, torch.get_num_threads(), theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that `recv` ends if the process does
        self.pipe.recv()  # once it is made

    def __call__(self) -> None:
        self.pipe.send("go")
        self.pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pipe.close()
        self.process.join()


def _serve(make: Callable[[], Callable[[], Any]], threads: int, pipe: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    step = make()
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        step()
        pipe.send("done")


def seconds(step: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """Keep a core busy with another process, if there is to be one."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
