"""The commands as a user runs them, and a small data set for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
BCCD = SHARED / "data" / "bccd"

# The quickstart, so small that an epoch takes a second or two.
TINY = [
    "logger=none",
    "+dataset.counts={train: 40, val: 12, test: 12}",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "queries.num_queries=20",
    "dataloader.batch_size=8",
    "trainer.max_minutes=null",
]


def run(script: str, *overrides: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python SCRIPT OVERRIDES` in the project's folder, to its end."""
    return subprocess.run(command(script, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def command(script: str, *overrides: str) -> list[str]:
    return [sys.executable, script, *overrides]
