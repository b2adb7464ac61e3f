"""The suite of benchmarks: what it measures memory with, and that its files find figures."""

from __future__ import annotations

import sys
from functools import partial

from command import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from figure import peak_memory

MEGABYTE = 2**20


def fill(megabytes: int) -> None:
    bytearray(megabytes * MEGABYTE)


def test_memory_is_what_a_task_adds_at_its_peak() -> None:
    small, large = peak_memory(partial(fill, 10), partial(fill, 100)) or (0, 0)
    assert 10 * MEGABYTE <= small < 14 * MEGABYTE
    assert 100 * MEGABYTE <= large < 104 * MEGABYTE
