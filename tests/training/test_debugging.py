"""The presets of `debug=`: what they say, and that the weights come out as without them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command import TINY, only_error, run
from torch import nn

from detr.config.compose import as_choice
from detr.errors import UserError
from detr.training.debugging import Finite, Overfit, finite_or_raise
from detr.training.options import Progress

WORDS = [*(word for word in TINY if "logger" not in word), "backbone.weights=null", "dataset.root=data"]


def train(home: Path, *words: str) -> Any:
    return run("-m", "detr", "train", *WORDS, *words, "hydra.run.dir=run", cwd=home)


@pytest.mark.slow
def test_overfit_learns_one_batch_and_says_so(tmp_path: Path) -> None:
    done = train(tmp_path, "debug=overfit", "trainer.max_steps=25", "optimizer.lr=3e-3")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows]
    assert len(losses) == 25
    learned = losses[-1] <= 0.5 * losses[0]
    assert f"the loss of one batch went from {losses[0]:.3f} to {losses[-1]:.3f} in 25 steps" in done.stdout
    assert ("this detector learns" in done.stdout) == learned
    assert not (tmp_path / "run/wandb").exists()


@pytest.mark.parametrize(("last", "words"), [(4.9, "learns"), (5.1, "something is wrong")])
def test_half_the_loss_is_the_limit(last: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    callback, trainer = Overfit(), SimpleNamespace(progress=Progress(step=2))
    for loss in (10.0, last):
        callback.on_epoch_end(trainer, {"train/loss": loss})  # type: ignore[arg-type]
    with caplog.at_level("INFO"):
        callback.on_fit_end(trainer)  # type: ignore[arg-type]
    assert words in caplog.text


@pytest.mark.slow
def test_profile_writes_a_table_by_part_and_a_trace(tmp_path: Path) -> None:
    done = train(tmp_path, "debug=profile")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "run/profile/parts.txt").read_text().splitlines()
    spent = {line.split()[0]: float(line.split()[1]) for line in table[1:-1]}
    assert {"data", "backbone", "encoder", "decoder", "criterion", "backward", "optimizer"} <= spent.keys()
    whole = float(table[-1].split()[-1])
    assert 0.5 * whole < sum(spent.values()) <= 1.05 * whole
    assert all(line in done.stdout for line in table)
    events = json.loads(gzip.decompress((tmp_path / "run/profile/trace.json.gz").read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "part: backbone" and event.get("ph") == "X" for event in events) == 3


def test_nan_names_the_first_module(tmp_path: Path) -> None:
    done = train(tmp_path, "debug=nan", "logger=none", "optimizer.lr=1e20", "scheduler.warmup_steps=1")
    error = only_error(done)
    assert "is the first module with an output that is not finite, in step 2" in error
    assert error.startswith("error: model.")
    assert "failed" in (tmp_path / "run/status.json").read_text()


@pytest.mark.parametrize(
    ("weight", "given", "cause"),
    [
        (1e38, 10.0, "its inputs and weights are finite"),
        (math.nan, 1.0, "its weights"),
        (1.0, math.inf, "its inputs are"),
    ],
)
def test_the_cause_is_told(weight: float, given: float, cause: str) -> None:
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, weight)
    trainer: Any = SimpleNamespace(progress=Progress(step=6))
    module.register_forward_hook(finite_or_raise("model.head", trainer))
    with pytest.raises(UserError, match=rf"model\.head \(Linear\) .* in step 7: 2 of 2 values; {cause}"):
        module(torch.full((1, 2), given))


class Root(nn.Module):
    """Its gradient at 0 is infinite, its value is not."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given.square().sqrt()


def test_the_first_gradient_that_is_not_finite_is_named_with_its_module() -> None:
    """In the midst of modules, of which only the innermost is to blame; where nothing is wrong nothing is said."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), Root()), nn.Linear(3, 1))
    trainer: Any = SimpleNamespace(
        model=model, criterion=nn.Identity(), progress=Progress(step=6), scaler=torch.amp.GradScaler(enabled=False)
    )
    Finite().on_fit_start(trainer)
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    model(torch.ones(2, 3)).sum().backward()
    said = (
        r"model\.1\.1 \(Root\) has the first gradient that is not finite, of its SqrtBackward, in step 7: 3 of 6 values"
    )
    with pytest.raises(UserError, match=said):
        model(torch.tensor([[1.0] * 3, [0.0] * 3])).sum().backward()


TERM = """
import torch
from detr.losses.terms import Term

class Distance(Term):
    def forward(self, matched):
        boxes = matched.predictions.boxes
        return (boxes - boxes.detach()).square().sum((1, 2, 3)).sqrt()
"""


@pytest.mark.slow
def test_nan_names_the_part_in_the_backward_pass(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TERM)
    done = train(tmp_path, "debug=nan", "logger=none", "+loss.terms.own={_target_: own.Distance}")
    error = only_error(done)
    assert "loss.terms.own (Distance) has the first gradient that is not finite, of its SqrtBackward" in error
    assert "failed" in (tmp_path / "run/status.json").read_text()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("debug=nan", "debug='nan'"),
        ("debug=none,nan", "debug=none,'nan'"),
        ("debug=choice(nan, none)", "debug=choice('nan', none)"),
        ("optimizer.lr=nan", "optimizer.lr=nan"),
        ("matcher=inf", "matcher=inf"),
    ],
)
def test_an_option_may_be_called_nan(typed: str, meant: str) -> None:
    assert as_choice(typed) == meant
