"""docs/scaling.md is what benchmarks/scaling.py computes, and its formula is that of real processes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import scaling
from command import ROOT, run_cold
from torchrun import torchrun

PARTS = scaling.PARTS["8 images a GPU, bf16"]


def test_the_document_has_the_table() -> None:
    assert "\n".join(scaling.table()) in (ROOT / "docs" / "scaling.md").read_text()


def test_all_that_can_be_shared_out_scales() -> None:
    """Without what one process does alone, and with a fast network, N GPUs take an Nth of the time."""
    ideal = replace(PARTS, metrics=0.0, checkpoint=0.0, inside=1e15, between=1e15)
    for processes in (1, 8, 64):
        assert scaling.cost(ideal, processes).efficiency == pytest.approx(1.0, abs=0.01)


def test_an_all_reduce_is_exposed_where_it_takes_longer_than_the_backward_pass() -> None:
    backward = scaling.BACKWARD * PARTS.step
    sends = 2 * 63 / 64 * scaling.GRADIENTS
    assert scaling.cost(replace(PARTS, between=sends / backward), 64).exposed == pytest.approx(0.0, abs=1e-6)
    slow = scaling.cost(replace(PARTS, between=sends / (backward + 0.01)), 64)
    assert slow.exposed == pytest.approx(10.0)  # milliseconds
    assert slow.training == pytest.approx(-(-scaling.IMAGES // 512) * (PARTS.step + 0.01))


def test_slow_workers_decide() -> None:
    assert scaling.cost(replace(PARTS, workers=1, worker=8.0), 1).training == pytest.approx(
        scaling.IMAGES / 8, rel=1e-3
    )


@pytest.mark.slow
def test_parts_are_measured() -> None:
    done = run_cold("benchmarks/scaling.py", "--measure")
    assert done.returncode == 0, done.stderr
    assert re.search(r"a worker: [1-9]\d* images/s", done.stdout)


@pytest.mark.slow
def test_processes_are_measured_against_the_formula() -> None:
    done = torchrun("benchmarks/scaling.py", "--gloo", "--size", "64", "96", "--turns", "1", processes=4)
    assert done.returncode == 0, done.stderr
    assert [line[:12] for line in done.stdout.splitlines()[-2:]] == ["2 processes:", "4 processes:"]
