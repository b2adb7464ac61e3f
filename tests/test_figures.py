"""The suite of benchmarks: what it measures memory with, and that its files find figures."""

from __future__ import annotations

from functools import partial

import pytest
from figure import peak_memory

MEGABYTE = 2**20


def fill(megabytes: int) -> None:
    bytearray(megabytes * MEGABYTE)


def test_memory_is_what_a_task_adds_at_its_peak() -> None:
    found = peak_memory(partial(fill, 10), partial(fill, 100))
    assert found == pytest.approx((10 * MEGABYTE, 100 * MEGABYTE), abs=3 * MEGABYTE)  # the system counts roughly
