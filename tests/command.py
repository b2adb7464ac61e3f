"""The commands as a user runs them, and a small data set for them."""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
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
    """`python SCRIPT OVERRIDES` in the project's folder, to its end: in a process of its own, see tests/warm.py.

    tests/test_cli.py starts interpreters from cold.
    """
    server = warm()
    assert server.stdin is not None
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = (Path(folder) / name for name in ("stdout", "stderr"))
        argv = [script, *overrides]
        request = {"argv": argv, "env": dict(os.environ), "stdout": str(stdout), "stderr": str(stderr)}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        process = answer(server, 60)
        assert process is not None
        status = answer(server, timeout)
        if status is None:
            os.killpg(process, signal.SIGKILL)
            answer(server, 60)
            raise subprocess.TimeoutExpired(argv, timeout, stdout.read_bytes(), stderr.read_bytes())
        return subprocess.CompletedProcess(argv, status, stdout.read_text(), stderr.read_text())


def run_cold(script: str, *overrides: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own: for `-m`, and for commands that start interpreters themselves."""
    return subprocess.run(command(script, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@functools.cache
def warm() -> subprocess.Popen[str]:
    """One for each process of the test run; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-u", ROOT / "tests" / "warm.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def answer(server: subprocess.Popen[str], timeout: float) -> int | None:
    """The next number that it tells; None where it takes longer."""
    assert server.stdout is not None
    if not select.select([server.stdout], [], [], timeout)[0]:
        return None
    return int(server.stdout.readline())


def command(script: str, *overrides: str) -> list[str]:
    return [sys.executable, script, *overrides]
