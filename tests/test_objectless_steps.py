"""Batches without objects: every loss and kind of group goes on, in one process and where another has objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import ROOT
from objectless_steps import CASES, steps
from torchrun import torchrun

QUICK = ("lw_detr", "rf_detr, denoising", "rt_detr", "stable_dino")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]
)
def test_one_process(case: str, tmp_path: Path) -> None:
    steps(case, tmp_path)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Nobody waits for a gradient that another one does not have, and both come to the same weights."""
    done = torchrun(str(ROOT / "tests" / "objectless_steps.py"), str(tmp_path), timeout=600)
    assert done.returncode == 0, done.stderr
    for number, case in enumerate(CASES):
        first, second = (torch.load(tmp_path / f"{number}-{rank}.pt") for rank in range(2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), case
