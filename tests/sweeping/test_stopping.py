"""A sweep that is stopped says how to go on, and does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from command import TINY, Started, run

from detr.tracking.status import read_status


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_it_names_its_folder(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    command = ["train.py", "-m", *TINY, f"dataset.root={tmp_path / 'data'}", "seed=1,2", "trainer.max_epochs=1"]
    command.append(f"hydra.sweep.dir={folder}")
    started = Started(*command)
    started.wait_for(lambda: read_status(folder / "1").status == "running")
    os.kill(started.process, number)
    done = started.wait()
    assert done.returncode == 128 + number, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].endswith(f"the sweep is stopped; the same command with hydra.sweep.dir={folder} goes on")
    assert any("│ interrupted" in line for line in lines)
    assert "Traceback" not in done.stdout + done.stderr

    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "of 2 jobs 1 finished already, 1 begun, 0 new" in again.stdout
    assert "By setting, AP in points (× 100), mean ± standard deviation over seeds" in again.stdout
    assert again.stdout.splitlines()[-1] == f"compare  detr compare {folder}"
    assert "AP by class" not in again.stdout, "jobs have no tables of their own"
