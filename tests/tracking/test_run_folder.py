"""Which checkpoint of a folder a run goes on from, and what a folder takes over from another run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detr.data.dataset import Fingerprint
from detr.errors import UserError
from detr.structures import Classes
from detr.tracking.run_folder import RunFolder
from detr.weights.checkpoint import Checkpoint, Recipe, newest_intact


def checkpoint(step: int, *, best: dict[str, float] | None = None, weight: float = 0.0) -> Checkpoint:
    return Checkpoint(
        Recipe({"transformer": {}}, Classes(("a",), (1,)), Fingerprint(1, 1, "x")),
        model={"weight": torch.tensor([weight])},
        trainer={"progress": {"step": step, "best": best}},
    )


def step_of(folder: RunFolder) -> int:
    found = newest_intact(folder.checkpoints)
    assert found is not None
    assert found[1].trainer is not None
    return found[1].trainer["progress"]["step"]


def test_weights_that_are_not_finite_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.save_step(10, checkpoint(10), keep=3)
    folder.save_step(20, checkpoint(20, weight=float("nan")), keep=3)
    assert step_of(folder) == 10
    assert "step_00000020.pt has weights that are not finite" in caplog.text


@pytest.mark.parametrize("later", [False, True])
def test_what_is_taken_over_is_no_newer_and_no_better_than_the_run(tmp_path: Path, later: bool) -> None:
    """Run A was best at step 10, and is resumed from step 100 (or from step 5) in the new folder B."""
    a, b = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    best = {"val/AP": 0.5, "epoch": 1}
    a.save("best", checkpoint(10, best=best))
    a.append({"epoch": 1, "step": 10})
    a.save_predictions([{"image_id": 1}], [])
    at, known = (5, None) if later else (100, best)
    b.save_step(at, checkpoint(at, best=known), keep=2)
    b.adopt(a, known)
    assert step_of(b) == at
    assert b.best.exists() is (b.path / "predictions.json").exists() is not later
    assert b.rows() == a.rows()


def test_a_folder_with_checkpoints_is_somebodys(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare(None, fresh=True)
    folder.save_step(10, checkpoint(10), keep=1)
    with pytest.raises(UserError, match="holds a run already"):
        folder.prepare(None, fresh=True)
