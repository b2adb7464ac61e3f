"""What a benchmark found: one figure, ours against a peer. The suite collects those of every file that offers

    def figures(quick: bool = False) -> Iterator[Figure]

which measures one figure after the other; quick: few turns of small sizes, to see that it works.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alternating import Comparison


@dataclass(frozen=True)
class Figure:
    """Ours against a peer, timed in turns.

    Attributes:
        name: tells it from all other figures, in each revision the same: "training step, R50, 2 × 512 × 640".
        comparison: seconds of both, and their ratio.
        what: one line: what was compared with what.
        target: the ratio that it is to reach at most; None: it is only watched.
        memory: peak bytes of ours and of the peer's, as `peak_memory` finds them; None: not measured.
    """

    name: str
    comparison: Comparison
    what: str
    target: float | None = None
    memory: tuple[int, int] | None = None

    @property
    def reached(self) -> bool:
        """Return whether the target is reached, or there is none."""
        return self.target is None or self.comparison.ratio <= self.target

    @property
    def mebibytes(self) -> str:
        """Return both peaks of memory, as text; nothing where they are not known."""
        return " / ".join(f"{each / 2**20:.0f}" for each in self.memory or ())

    def __str__(self) -> str:
        verdict = f", target {self.target:g} {'reached' if self.reached else 'missed'}" if self.target else ""
        return f"{self.name}: {self.comparison}{verdict}{', MiB ' if self.memory else ''}{self.mebibytes}"


def main(text: str | None, figures: Callable[..., Iterator[Figure]], turns: int) -> None:
    """Print the figures of a file as a command: `text` is its docstring, `turns` how many there are by default."""
    import torch

    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for figure in figures(turns=arguments.turns):
        print(figure, flush=True)


def peak_memory(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, imports: tuple[str, ...] = ()
) -> tuple[int, int] | None:
    """Return the most memory that each has resident in a process of its own, in bytes.

    What importing their modules and `imports` takes does not count. None where the system does not tell.

    Args:
        ours, theirs: functions at the top of a module, which another process finds by name, or partials of such.
        imports: modules that they import while they run.
    """
    peaks = []
    for task in (ours, theirs):
        # A new interpreter, not a fork: OpenMP's threads do not survive one.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            peaks.append(process.submit(_peak, task, imports).result())
    mine, other = peaks
    return None if mine is None or other is None else (mine, other)


def _peak(task: Callable[[], Any], imports: tuple[str, ...]) -> int | None:
    for name in imports:
        importlib.import_module(name)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
        before = _resident("VmRSS")
        task()
        return _resident("VmHWM") - before
    except FileNotFoundError:  # other systems have no /proc
        return None


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(kilobytes)
