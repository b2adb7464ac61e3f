"""Killed, asked to stop, resumed: the run that goes on is the one that never stopped, bit for bit."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchrun
from command import TINY, Started, only_error, run

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


ALONE_AND_TOGETHER = pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])


def start(processes: int, *overrides: str, variables: dict[str, str] | None = None) -> Started:
    """Four images a step, however many processes share them."""
    arguments = ["train.py", *TRAINING, f"dataloader.batch_size={4 // processes}", *overrides]
    if processes == 1:
        return Started(*arguments, variables=variables)
    return torchrun.started(*arguments, processes=processes, variables=variables)


def finish(processes: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    done = start(processes, *overrides).wait(600)
    assert done.returncode == 0, done.stderr
    return done


def rows(folder: Path) -> list[dict]:
    timed = ("train/seconds", "train/images_per_second", "train/step_seconds/data", "train/step_seconds/compute")
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"dataset.root={tmp_path_factory.mktemp('data') / 'shapes'}"


Whole = Callable[[int], Path]


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of a run of so many processes that nobody stopped."""

    @functools.cache
    def folder(processes: int) -> Path:
        path = tmp_path_factory.mktemp("runs") / str(processes)
        finish(processes, data, f"hydra.run.dir={path}")
        return path

    return folder


@ALONE_AND_TOGETHER
def test_killed_within_an_epoch(whole: Whole, data: str, tmp_path: Path, processes: int) -> None:
    """kill -9 in the first and in the second epoch; the last two checkpoints within epochs are kept."""
    folder = tmp_path / "run"
    arguments = [data, f"hydra.run.dir={folder}", "resume=auto"]
    for step in (4, 14):
        started = start(processes, *arguments)
        started.wait_for(lambda: any(each >= step for each in steps_with_checkpoint(folder)))  # noqa: B023
        started.kill()
        assert not any(each > STEPS - 2 for each in steps_with_checkpoint(folder)), "too late to be a test"
    done = finish(processes, *arguments)
    assert "resuming from" in done.stdout
    assert_same_run(folder, whole(processes))
    assert steps_with_checkpoint(folder) == {STEPS - 2, STEPS}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_ten_random_moments(whole: Whole, data: str, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    moments = random.Random(processes)
    arguments = [data, f"hydra.run.dir={folder}", "resume=auto"]
    for _ in range(10):
        before = time.time_ns()
        started = start(processes, *arguments)

        def written(before: int = before) -> bool:  # it has begun to train
            files = [*folder.glob("checkpoints/*"), folder / "metrics.jsonl"]
            return any(path.stat().st_mtime_ns > before for path in files if path.exists())

        started.wait_for(written)
        time.sleep(moments.uniform(0, 0.6))
        started.kill()
    finish(processes, *arguments)
    assert_same_run(folder, whole(processes))


@pytest.mark.slow
@ALONE_AND_TOGETHER
def test_asked_to_stop(whole: Whole, data: str, tmp_path: Path, processes: int) -> None:
    """The step under way is finished and kept, Slurm is asked to start the job again, and nothing is done twice."""
    folder = tmp_path / "run"
    arguments = [data, f"hydra.run.dir={folder}", "resume=auto", "trainer.requeue=true"]
    started = start(processes, *arguments, variables=slurm(tmp_path))
    started.wait_for(lambda: 4 in steps_with_checkpoint(folder))
    known = max(steps_with_checkpoint(folder))
    os.kill(started.process, signal.SIGTERM)
    stopped = started.wait(120)
    if processes == 1:  # torchrun has a status of its own
        assert stopped.returncode == 143
        assert stopped.stderr.splitlines()[-1] == "stopped by SIGTERM"
    assert "Traceback" not in stopped.stdout
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    kept = max(steps_with_checkpoint(folder))
    assert f"stopped by SIGTERM in step {kept} of {STEPS}" in stopped.stdout
    assert f"in step {kept} of" in json.loads((folder / "run.json").read_text())["ended"]
    assert known <= kept < STEPS
    done = finish(processes, *arguments)
    assert f"step_{kept:08d}.pt after" in done.stdout
    assert_same_run(folder, whole(processes))


@pytest.mark.slow
def test_asked_to_stop_at_fifty_random_moments(data: str, tmp_path: Path) -> None:
    """Also while workers start, an epoch ends or images are evaluated: each leaves one checkpoint.

    Every other signal goes to the workers, too, as `timeout`, Slurm and containers send it.
    """
    moments = random.Random(1)
    endless = ["trainer.max_epochs=1000", "trainer.evaluate_every=3"]
    for number in range(50):
        folder = tmp_path / str(number)
        words = [*TINY, "dataloader.num_workers=2", data, *endless, f"hydra.run.dir={folder}"]
        started = Started("train.py", *words)
        log = folder / "train.log"
        started.wait_for(lambda: log.exists() and "at most" in log.read_text())  # noqa: B023
        time.sleep(moments.uniform(0.05, 2.5))
        (os.killpg if number % 2 else os.kill)(started.process, signal.SIGTERM)
        stopped = started.wait(60)
        assert stopped.returncode == 143, stopped.stderr
        assert stopped.stderr.splitlines()[-1] == "stopped by SIGTERM"
        assert len(steps_with_checkpoint(folder)) == 1


def slurm(folder: Path) -> dict[str, str]:
    """The environment of a job of Slurm's, whose command writes down what it is asked."""
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n')
    scontrol.chmod(0o755)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_stopped_while_evaluating(whole: Whole, data: str, tmp_path: Path) -> None:
    """The epoch's training is not repeated, its evaluation is."""
    folder = tmp_path / "run"
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    arguments = [data, f"hydra.run.dir={folder}", "resume=auto"]
    stopped = run(str(script), *TRAINING, "dataloader.batch_size=4", *arguments)
    assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
    assert not (folder / "metrics.jsonl").exists()
    assert max(steps_with_checkpoint(folder)) == STEPS // 2
    done = finish(1, *arguments)
    assert "after 0 epochs, 10 steps" in done.stdout
    assert_same_run(folder, whole(1))


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


@pytest.mark.slow
def test_a_truncated_checkpoint_within_an_epoch_is_passed_over(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [data, "trainer.max_steps=8", f"hydra.run.dir={folder}", "resume=auto"]
    finish(1, *arguments)
    for name in ("last.pt", "best.pt"):
        (folder / "checkpoints" / name).unlink(missing_ok=True)
    newest = folder / "checkpoints" / "step_00000008.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    done = finish(1, *arguments)
    assert "step_00000008.pt cannot be read" in done.stdout
    assert "step_00000006.pt after 0 epochs, 6 steps" in done.stdout
    assert [row["step"] for row in rows(folder)] == [8]


@pytest.mark.slow
def test_going_on_with_more_processes(data: str, tmp_path: Path) -> None:
    """As many images a step as before: the place in the epoch is kept, random numbers start anew, and it says so."""
    folder = tmp_path / "run"
    finish(1, data, "trainer.max_steps=4", f"hydra.run.dir={folder}")
    done = finish(2, data, f"hydra.run.dir={folder}", "resume=auto")
    assert "1 process(es), but the run continues with 2: random numbers start anew" in done.stdout
    assert [row["step"] for row in rows(folder)] == [4, 10, 20]


def test_another_architecture_is_refused(whole: Whole, data: str) -> None:
    overrides = [each for each in TRAINING if not each.startswith("queries.num_queries")]
    arguments = ["queries.num_queries=30", f"hydra.run.dir={whole(1)}", "resume=auto"]
    done = run("train.py", *overrides, data, *arguments)
    line = only_error(done)
    for words in ("last.pt", "queries.num_queries is 20 in it and 30 here", "resume_changed=true"):
        assert words in line


def test_another_data_set_is_refused_unless_one_insists(whole: Whole, tmp_path: Path) -> None:
    other = f"dataset.root={tmp_path}/other"
    counts = "+dataset.counts={train: 44, val: 12, test: 12}"
    common = [each for each in TRAINING if not each.startswith("+dataset.counts")]
    arguments = [f"resume={whole(1)}/checkpoints/last.pt", "dataloader.batch_size=4", "trainer.max_epochs=3"]
    done = run("train.py", *common, other, counts, *arguments, f"hydra.run.dir={tmp_path}/refused")
    line = only_error(done)
    assert "40 training images" in line
    assert "44" in line
    insisting = [*arguments, "resume_changed=true", f"hydra.run.dir={tmp_path}/insisting"]
    done = run("train.py", *common, other, counts, *insisting)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "insisting")] == [1, 2, 3]
