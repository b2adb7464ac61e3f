"""Killed, asked to stop, resumed: the run that goes on is the one that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from command import ROOT, TINY, command, run
from torchrun import kill_all, launcher

# Ten steps an epoch with a checkpoint at every second one; dropout and a moving average have states of their own.
TRAINING = [each for each in TINY if not each.startswith("dataloader.batch_size")] + [
    "trainer.max_epochs=2",
    "trainer.checkpoint_every_steps=2",
    "trainer.ema_decay=0.9",
    "transformer.dropout=0.1",
    "scheduler=cosine",
    "dataloader.num_workers=1",
]
STEPS = 20


def training(processes: int, *overrides: str) -> list[str]:
    """The command line: four images a step, however many processes share them."""
    arguments = ["train.py", *TRAINING, f"dataloader.batch_size={4 // processes}", *overrides]
    return command(*arguments) if processes == 1 else launcher(*arguments, processes=processes)


def start(arguments: list[str], variables: Mapping[str, str] | None = None, **options) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | (variables or {})
    return subprocess.Popen(arguments, cwd=ROOT, env=env, text=True, **options)


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    process = start(arguments, None, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(arguments, 0, out, err)


def rows(folder: Path) -> list[dict]:
    timed = ("train/seconds", "train/images_per_second")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in timed} for line in lines]


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def assert_same_run(folder: Path, whole: Path) -> None:
    """Weights, averages and rows are those of the run that never stopped."""
    for kind in ("model", "ema"):
        mine, theirs = last(folder)[kind], last(whole)[kind]
        assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert rows(folder) == rows(whole)


def steps_with_checkpoint(folder: Path) -> set[int]:
    return {int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.pt")}


def wait_for(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"dataset.root={tmp_path_factory.mktemp('data') / 'shapes'}"


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that nobody stopped: processes → folder."""
    folders = {processes: tmp_path_factory.mktemp("runs") / str(processes) for processes in (1, 2)}
    for processes, folder in folders.items():
        finish(training(processes, data, f"hydra.run.dir={folder}"))
    return folders


def test_the_last_checkpoints_within_epochs_are_kept(whole: dict[int, Path]) -> None:
    for folder in whole.values():
        assert steps_with_checkpoint(folder) == {STEPS - 2, STEPS}


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_within_an_epoch(whole: dict[int, Path], data: str, tmp_path: Path, processes: int) -> None:
    """kill -9 in the first and in the second epoch."""
    folder = tmp_path / "run"
    arguments = training(processes, data, f"hydra.run.dir={folder}", "resume=auto")
    for step in (4, 14):
        process = start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: any(each >= step for each in steps_with_checkpoint(folder)), process)  # noqa: B023
        kill_all(process)
        assert not any(each > STEPS - 2 for each in steps_with_checkpoint(folder)), "too late to be a test"
    done = finish(arguments)
    assert "resuming from" in done.stdout
    assert_same_run(folder, whole[processes])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_random_moments(whole: dict[int, Path], data: str, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    moments = random.Random(processes)
    arguments = training(processes, data, f"hydra.run.dir={folder}", "resume=auto")
    for _ in range(10):
        before = time.time_ns()
        process = start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def written(before: int = before) -> bool:  # it has begun to train
            files = [*folder.glob("checkpoints/*"), folder / "metrics.jsonl"]
            return any(path.stat().st_mtime_ns > before for path in files if path.exists())

        wait_for(written, process)
        time.sleep(moments.uniform(0, 0.6))
        kill_all(process)
    finish(arguments)
    assert_same_run(folder, whole[processes])


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_asked_to_stop(whole: dict[int, Path], data: str, tmp_path: Path, processes: int) -> None:
    """The step under way is finished and kept, Slurm is asked to start the job again, and nothing is done twice."""
    folder = tmp_path / "run"
    arguments = training(processes, data, f"hydra.run.dir={folder}", "resume=auto", "trainer.requeue=true")
    process = start(arguments, slurm(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: 4 in steps_with_checkpoint(folder), process)
    known = max(steps_with_checkpoint(folder))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    if processes == 1:  # torchrun has a status of its own
        assert process.returncode == 143
        assert err.splitlines()[-1] == "stopped by SIGTERM"
    assert "Traceback" not in out
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    kept = max(steps_with_checkpoint(folder))
    assert f"stopped in step {kept}" in out
    assert known <= kept < STEPS
    done = finish(arguments)
    assert f"step_{kept:08d}.pt after" in done.stdout
    assert_same_run(folder, whole[processes])


def slurm(folder: Path) -> dict[str, str]:
    """The environment of a job of Slurm's, whose command writes down what it is asked."""
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n')
    scontrol.chmod(0o755)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"}


def test_stopped_while_evaluating(whole: dict[int, Path], data: str, tmp_path: Path) -> None:
    """The epoch's training is not repeated, its evaluation is."""
    folder = tmp_path / "run"
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    arguments = training(1, data, f"hydra.run.dir={folder}", "resume=auto")
    stopped = subprocess.run(
        [sys.executable, str(script), *arguments[2:]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert not (folder / "metrics.jsonl").exists()
    assert max(steps_with_checkpoint(folder)) == STEPS // 2
    done = finish(arguments)
    assert "after 0 epochs, 10 steps" in done.stdout
    assert_same_run(folder, whole[1])


STOPPING = """
import os, runpy, signal
from detr.evaluation.coco import CocoEvaluator

take = CocoEvaluator.take

def stopping(self, converted):
    os.kill(os.getpid(), signal.SIGUSR1)
    take(self, converted)

CocoEvaluator.take = stopping
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_truncated_checkpoint_within_an_epoch_is_passed_over(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = training(1, data, "trainer.max_steps=8", f"hydra.run.dir={folder}", "resume=auto")
    finish(arguments)
    for name in ("last.pt", "best.pt"):
        (folder / "checkpoints" / name).unlink(missing_ok=True)
    newest = folder / "checkpoints" / "step_00000008.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    done = finish(arguments)
    assert "step_00000008.pt cannot be read" in done.stdout
    assert "step_00000006.pt after 0 epochs, 6 steps" in done.stdout
    assert [row["step"] for row in rows(folder)] == [8]


@pytest.mark.slow
def test_going_on_with_more_processes(data: str, tmp_path: Path) -> None:
    """As many images a step as before: the place in the epoch is kept, random numbers start anew, and it says so."""
    folder = tmp_path / "run"
    finish(training(1, data, "trainer.max_steps=4", f"hydra.run.dir={folder}"))
    done = finish(training(2, data, f"hydra.run.dir={folder}", "resume=auto"))
    assert "1 process(es), and goes on with 2: random numbers start anew" in done.stdout
    assert [row["step"] for row in rows(folder)] == [4, 10, 20]


def test_another_architecture_is_refused(whole: dict[int, Path], data: str) -> None:
    overrides = [each for each in TRAINING if not each.startswith("queries.num_queries")]
    arguments = ["queries.num_queries=30", f"hydra.run.dir={whole[1]}", "resume=auto"]
    done = run("train.py", *overrides, data, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    for words in ("last.pt", "queries.num_queries is 20 in it and 30 here", "resume_changed=true"):
        assert words in line


def test_another_data_set_is_refused_unless_one_insists(whole: dict[int, Path], tmp_path: Path) -> None:
    other = f"dataset.root={tmp_path}/other"
    counts = "+dataset.counts={train: 44, val: 12, test: 12}"
    common = [each for each in TRAINING if not each.startswith("+dataset.counts")]
    arguments = [f"resume={whole[1]}/checkpoints/last.pt", "dataloader.batch_size=4", "trainer.max_epochs=3"]
    done = run("train.py", *common, other, counts, *arguments, f"hydra.run.dir={tmp_path}/refused")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "40 training images" in line
    assert "44" in line
    insisting = [*arguments, "resume_changed=true", f"hydra.run.dir={tmp_path}/insisting"]
    done = run("train.py", *common, other, counts, *insisting)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "insisting")] == [1, 2, 3]
