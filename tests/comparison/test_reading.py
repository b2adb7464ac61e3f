"""Run folders, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_run, write_run

from detr.comparison.finding import find_runs, read_run
from detr.errors import UserError
from detr.tracking.rows import metric


def test_best_is_the_first_of_the_best_epochs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [0.1, 0.3, 0.3, 0.2])
    assert (run.best["epoch"], run.last["epoch"]) == (2, 4)
    assert (run.steps, run.epochs, run.minutes) == (40, 4, 2.0)
    assert metric(run.best, "AP") == 0.3
    assert metric(run.best, "APl") is None  # COCO's -1: nothing of that size
    assert metric(run.best, "segm/AP") is None


def test_a_loss_is_best_when_low(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [0.3, 0.1, 0.2], trainer={"monitor": "loss"})
    assert run.best["epoch"] == 3


@pytest.mark.parametrize(
    ("trainer", "log", "state"),
    [
        ({}, "", "finished"),
        ({"max_epochs": 9}, "", "unfinished"),
        ({"max_epochs": 9, "max_steps": 30}, "", "finished"),
        ({"max_epochs": 9, "patience": 2}, "", "finished"),
        ({"max_epochs": 9, "patience": 3}, "", "unfinished"),
        ({"max_epochs": 9}, "2026-01-02 10:00:00,000 ERROR detr.entry: no memory\n", "failed"),
        ({}, "2026-01-02 10:00:00,000 ERROR detr.entry: then resumed\n", "finished"),
    ],
)
def test_what_became_of_a_run(trainer: dict[str, object], log: str, state: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.3, 0.1, 0.2], trainer=trainer)
    (folder / "train.log").write_text("2026-01-02 10:00:00,000 INFO detr.training.trainer: epoch 1\n" + log)
    assert read_run(folder).state == state


@pytest.mark.parametrize(("steps", "state"), [(30, "finished"), (31, "unfinished")])
def test_a_run_is_finished_when_its_recorded_steps_are_done(steps: int, state: str, tmp_path: Path) -> None:
    """Those that fitted a budget of time are in no config."""
    folder = write_run(tmp_path / "a", [0.3, 0.1, 0.2], trainer={"max_minutes": 1.5}, facts={"steps": steps})
    assert read_run(folder).state == state


def test_jobs_of_a_sweep_in_their_order(tmp_path: Path) -> None:
    for job in (10, 9, 0):
        write_run(tmp_path / "sweep" / str(job), [0.1], seed=job)
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    runs, skipped = find_runs([str(tmp_path / "sweep"), str(tmp_path / "sweep" / "9")])
    assert [run.seed for run in runs] == [0, 9, 10]  # each once
    assert skipped == []


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.1, 0.2])
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 3, "ste')
    assert read_run(folder).epochs == 2


def test_folders_without_metrics_are_named_and_skipped(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [0.1])
    none = write_run(tmp_path / "none", [0.1])
    (none / "metrics.jsonl").unlink()
    (none / "train.log").write_text("2026-01-02 10:00:00,000 ERROR detr.entry: out of patience\n")
    (write_run(tmp_path / "empty", [0.1]) / "metrics.jsonl").write_text("")
    (write_run(tmp_path / "broken", [0.1]) / "metrics.jsonl").write_text("nonsense}\n{}\n")
    (write_run(tmp_path / "unevaluated", [0.1]) / "metrics.jsonl").write_text('{"epoch": 1, "step": 5}\n')
    (write_run(tmp_path / "unconfigured", [0.1]) / ".hydra" / "config.yaml").write_text("{: nonsense")
    write_run(tmp_path / "unresolved", [0.1], trainer={"max_steps": "${nowhere.steps}"})
    runs, skipped = find_runs([str(tmp_path)])
    assert [run.folder.name for run in runs] == ["good"]
    assert len(skipped) == 6
    assert "it ended with: out of patience" in "".join(skipped)
    for name in ("none", "empty", "broken", "unevaluated", "unconfigured", "unresolved"):
        assert sum(str(tmp_path / name) in line for line in skipped) == 1


def test_nothing_left_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "file.pt").write_text("")
    for path, words in {"pictures": "not a run", "file.pt": "give the folder", "nowhere": "no such folder"}.items():
        with pytest.raises(UserError, match=words):
            find_runs([str(tmp_path / path)])
    write_run(tmp_path / "good", [0.1])
    assert len(find_runs([str(tmp_path / "pictures"), str(tmp_path / "good")])[1]) == 1
