"""GPUs for processes on one machine: real processes, which hold real locks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

from detr.sweeping.devices import visible_gpus

WORKER = (
    "import os, sys; from pathlib import Path; from detr.sweeping.devices import claim_gpu\n"
    "for _ in range(2):\n"  # the second job of a worker
    "    print(claim_gpu(Path(sys.argv[1])), os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    "sys.stdin.read()"
)


def worker(folder: Path, gpus: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, [process.stdout.readline().strip() for _ in range(2)]


def test_each_worker_has_its_own_gpu_and_keeps_it(tmp_path: Path) -> None:
    processes = []
    for expected in ("4", "7", "4"):  # the third has to share
        process, lines = worker(tmp_path, "4,7")
        processes.append(process)
        assert lines == [f"{expected} {expected}"] * 2
    processes[1].communicate()  # its place becomes free
    last, lines = worker(tmp_path, "4,7")
    assert lines == ["7 7"] * 2
    for process in (*processes, last):
        process.communicate()


def test_where_there_is_no_gpu(tmp_path: Path) -> None:
    process, lines = worker(tmp_path, "")
    process.communicate()
    assert lines == ["None"] * 2


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1a")
    assert visible_gpus() == ["3", "GPU-1a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
