"""A budget of time becomes a number of steps before the first, so that the clock changes nothing about a run."""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import tiny_detr
from command import TINY, Started, only_error, run
from trainers import trainer

from detr.training.budget import AT_LEAST, WARM_UP, seconds_per_step

BUDGET = [
    *(word for word in TINY if "max_minutes" not in word),
    "trainer.max_minutes=0.03",
    "transformer.dropout=0.1",
    "trainer.evaluate_every=99",
]


def random_states() -> list[object]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


def test_a_rehearsal_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """Weights, optimizer, moving average, random states, and the step that follows."""
    ours = trainer(tiny_detr().train(), tmp_path, max_minutes=0.002, ema_decay=0.9)
    ours.optimizer.zero_grad()
    before, states = copy.deepcopy(ours.model.state_dict()), random_states()
    ours.plan()
    assert ours.progress.planned is not None
    assert ours.steps == ours.progress.planned >= 1
    assert ours.progress.step == 0
    assert random_states() == states
    assert all(torch.equal(before[name], value) for name, value in ours.model.state_dict().items())
    assert ours.optimizer.state_dict()["state"] == {}
    assert ours.ema is not None
    assert int(ours.ema.n_averaged) == 0


def test_steps_are_timed_after_the_slow_first_ones() -> None:
    """The first of a run and of each pair fill caches; of the others as many as the budget's hundredth allows."""
    seen: list[int] = []

    def step(index: int) -> None:
        seen.append(index)
        time.sleep(0.5 if len(seen) <= WARM_UP else 0.02 if len(seen) % 2 == 0 else 0.3)

    pace = seconds_per_step(step, iter(range(1000)), 0.01, torch.device("cpu"))
    assert 0.02 <= pace < 0.2
    assert len(seen) == WARM_UP + 2 * AT_LEAST
    seconds_per_step(step, iter(range(1000)), 10.0, torch.device("cpu"))
    assert len(seen) > 2 * WARM_UP + 4 * AT_LEAST


def test_given_steps_decide(tmp_path: Path) -> None:
    ours = trainer(tiny_detr(), tmp_path, max_minutes=60, max_steps=7, max_epochs=None)
    ours.plan()
    assert ours.progress.planned is None
    assert ours.steps == 7


def test_a_resumed_run_keeps_its_steps_unless_it_gets_other_minutes(tmp_path: Path) -> None:
    ours = trainer(tiny_detr(), tmp_path, max_minutes=2, max_epochs=None)
    ours.progress.step, ours.progress.seconds = 10, 5.0
    ours.progress.planned, ours.progress.budget = 123, 2
    ours.plan()
    assert ours.steps == 123
    ours.progress.budget = 1
    ours.plan()
    assert ours.steps == 2 * 60 / 0.5  # at its own pace


def test_a_run_that_takes_much_longer_is_stopped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = trainer(tiny_detr().train(), tmp_path, max_minutes=0.01, max_epochs=None)
    ours.progress.planned, ours.progress.budget = 10**6, 0.01  # as if steps had been much faster
    ours.train_epoch()
    while not ours.finished:
        ours.progress.epoch, ours.progress.batches = ours.progress.epoch + 1, 0
        ours.train_epoch()
    assert 0.01 * 60 * 1.25 <= ours.progress.seconds < 10
    assert ours.progress.step < 10**6
    assert f"stopping in step {ours.progress.step} of 1000000" in caplog.text


def rows(folder: Path) -> list[dict]:
    timed = ("train/seconds", "train/images_per_second", "train/step_seconds/data", "train/step_seconds/compute")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in timed} for line in lines]


def assert_same(first: Path, second: Path) -> None:
    mine, theirs = (
        torch.load(each / "checkpoints" / "last.pt", weights_only=True)["model"] for each in (first, second)
    )
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert rows(first) == rows(second)


# train.py, but for the clock, which would end the run of a test where the machine has become slow meanwhile.
UNHURRIED = """
import detr.training.limits
from detr.commands.train import main

detr.training.limits.OVERTIME = float("inf")
main()
"""


@pytest.mark.slow
def test_killed_resumed_repeated_and_done_twice_are_the_same_bits(tmp_path: Path) -> None:
    data, killed, repeated, again = (tmp_path / name for name in ("data", "killed", "repeated", "again"))
    unhurried = tmp_path / "unhurried.py"
    unhurried.write_text(UNHURRIED)
    words = [*BUDGET, f"dataset.root={data}", "trainer.checkpoint_every_steps=2", f"hydra.run.dir={killed}"]
    started = Started(str(unhurried), *words)
    started.wait_for(lambda: any(killed.glob("checkpoints/step_*.pt")))
    started.kill()
    done = run(str(unhurried), *words, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    record = json.loads((killed / "run.json").read_text())
    assert rows(killed)[-1]["step"] == record["steps"]

    done = run("-m", "detr", "repeat", str(killed), f"hydra.run.dir={repeated}")
    assert done.returncode == 0, done.stderr
    assert "data: train is the same, 40 images" in done.stdout
    assert_same(killed, repeated)

    words = [*BUDGET, f"dataset.root={data}", f"trainer.max_steps={record['steps']}", f"hydra.run.dir={again}"]
    assert run("train.py", *words).returncode == 0
    assert_same(killed, again)


def test_a_run_is_repeated_from_anywhere(tmp_path: Path) -> None:
    """Relative paths, of the data and of what comes out, begin where the run was started."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    words = [*TINY, "trainer.max_steps=2", "dataset.root=shapes", "hydra.run.dir=first"]
    done = run("-m", "detr", "train", *words, cwd=there)
    assert done.returncode == 0, done.stderr
    done = run("-m", "detr", "repeat", "../there/first", "hydra.run.dir=second", cwd=here)
    assert done.returncode == 0, done.stderr
    assert f"in {there}, where the run was started" in done.stdout
    assert list(here.iterdir()) == []
    assert_same(there / "first", there / "second")


def test_what_cannot_be_repeated_is_told(tmp_path: Path) -> None:
    done = run("-m", "detr", "repeat", str(tmp_path))
    assert "config.yaml" in only_error(done)
