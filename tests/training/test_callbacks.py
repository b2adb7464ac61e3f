"""Hooks into the loop: what they change is the same in a run that was stopped, and they may end one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import TINY, only_error, run

MODULE = '''
from torch import nn

from detr.training.callbacks import Callback


class FadingDropout(Callback):
    """Lowers dropout from `start` to nothing, linearly over the run."""

    def __init__(self, *, start):
        self.start = start

    def on_fit_start(self, trainer):
        self.on_step_end(trainer)

    def on_step_end(self, trainer):
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.start * (1 - trainer.moment().progress)


class StopInStep(Callback):
    def __init__(self, *, step, at="step"):
        self.step, self.at = step, at

    def on_step_end(self, trainer):
        if self.at == "step" and trainer.progress.step == self.step:
            trainer.stop("the third step")

    def on_epoch_end(self, trainer, row):
        assert row["step"] == trainer.progress.step
        if self.at == "epoch" and row["step"] >= self.step:
            trainer.stop("the first epoch")

    def on_fit_end(self, trainer):
        (trainer.folder.path / "ended").write_text(trainer.ended)
'''
FADING = ["+callbacks.fading._target_=hooks.FadingDropout", "+callbacks.fading.start=0.5", "transformer.dropout=0.5"]
STEPS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "hooks.py").write_text(MODULE)
    return folder


def train(place: Path, name: str, *words: str, steps: int = STEPS) -> list[dict]:
    arguments = [*TINY, f"trainer.max_steps={steps}", "dataset.root=shapes", f"hydra.run.dir={name}", *words]
    done = run("-m", "detr", "train", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(place / name / "checkpoints" / "last.pt", weights_only=True)["model"]


@pytest.mark.slow
def test_what_changes_over_time_goes_on_where_it_was(place: Path) -> None:
    """Eight steps in one go are those that were stopped after four; without the callback they are others."""
    train(place, "whole", *FADING)
    stop = ["+callbacks.stop._target_=hooks.StopInStep", "+callbacks.stop.step=5"]
    train(place, "parts", *FADING, *stop, "trainer.checkpoint_every_steps=3", "trainer.keep_last=9")
    source = place / "parts" / "checkpoints" / "step_00000003.pt"  # before anything stopped it
    train(place, "rest", *FADING, f"resume={source}")
    train(place, "other", "transformer.dropout=0.5")
    whole, rest, other = (weights(place, name) for name in ("whole", "rest", "other"))
    assert [name for name in whole if not torch.equal(whole[name], rest[name])] == []
    assert any(not torch.equal(whole[name], other[name]) for name in whole)


@pytest.mark.parametrize(("at", "step", "ended"), [("step", 3, 3), pytest.param("epoch", 4, 6, marks=pytest.mark.slow)])
def test_a_callback_ends_the_run_with_an_evaluation(place: Path, at: str, step: int, ended: int) -> None:
    """Five steps an epoch. At the end of one that was not evaluated a further step leads to an evaluation."""
    words = ["+callbacks.stop._target_=hooks.StopInStep", f"+callbacks.stop.step={step}", f"+callbacks.stop.at={at}"]
    rows = train(place, at, *words, "trainer.evaluate_every=99")
    assert rows[-1]["step"] == ended
    assert "val/AP" in rows[-1]
    reason = f"ended by the {'third step' if at == 'step' else 'first epoch'} in step {ended} of {STEPS}"
    assert json.loads((place / at / "run.json").read_text())["ended"] == reason
    assert (place / at / "ended").read_text() == reason
    again = run("-m", "detr", "train", *TINY, *words, "trainer.max_steps=8", "dataset.root=shapes",
                f"hydra.run.dir={at}", "resume=auto", cwd=place)  # fmt: skip
    assert "is finished" in again.stdout


def test_what_is_no_callback_is_refused(place: Path) -> None:
    done = run(
        "-m", "detr", "train", *TINY, "dataset.root=shapes", "+callbacks.it._target_=torch.nn.Identity", cwd=place
    )
    assert only_error(done).startswith("error: callbacks.it: expected a detr.training.callbacks.Callback")
