"""Runs are found wherever a sweep put them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from run_folders import write_run

from detr.comparison.finding import find_runs
from detr.errors import UserError
from detr.tracking.runs import KEPT, trainings_below
from detr.tracking.wandb_report import read_study

LOGGER = {"_target_": "detr.tracking.wandb_logger.WandbLogger", "project": None, "entity": None, "group": None}
FACTS = {"choices": {"experiment": "quickstart"}, "overrides": []}


def write_evaluation(folder: Path) -> None:
    (folder / ".hydra").mkdir(parents=True)
    for name in ("config.yaml", "evaluated.yaml"):
        (folder / ".hydra" / name).write_text("logger: null\n")
    (folder / "run.json").write_text("{}")


@pytest.mark.parametrize(
    "places",
    [
        ["0", "1", "10"],
        ["backbone.weights=/w/a.pt,seed=1", "backbone.weights=/w/a.pt,seed=2", "backbone.weights=/v.pt"],
        ["a/b/c/d/e/1", "a/b/2", "3"],
        ["wandb/1", "checkpoints/2", "predictions/.hidden/3"],
        ["train/1", "train/1/again/2", "sweep/x/3"],
    ],
)
def test_at_any_depth(places: list[str], tmp_path: Path) -> None:
    for seed, place in enumerate(places):
        write_run(tmp_path / place, [0.5], seed=seed, config={"logger": LOGGER}, facts=FACTS)
    write_evaluation(tmp_path / "evaluate" / "2026")
    write_evaluation(tmp_path / places[0] / "evaluated")
    runs, skipped = find_runs([str(tmp_path)])
    assert sorted(run.seed for run in runs) == list(range(len(places)))
    assert skipped == [], "evaluations are none that could be compared"
    assert read_study(tmp_path).runs == len(places)


def test_not_in_what_a_run_keeps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.5])
    for name in KEPT:
        write_run(run / name / "inside", [0.5])
    assert trainings_below(tmp_path) == [run]


def test_links_are_followed_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "outputs" / "deep" / "run", [0.5])
    (tmp_path / "gathered").mkdir()
    (tmp_path / "gathered" / "best").symlink_to(run)
    (run / "up").symlink_to(tmp_path)
    assert trainings_below(tmp_path / "outputs") == [run]
    assert trainings_below(tmp_path / "gathered") == [tmp_path / "gathered" / "best"]


def test_folders_that_cannot_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "a" / "run", [0.5])
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert trainings_below(tmp_path) == [run]


@pytest.mark.parametrize("place", ["", "evaluate/1"])
def test_evaluations_alone_are_named(place: str, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "e" / place)
    with pytest.raises(UserError, match="of a training in it" if place else "an evaluation; give the training"):
        find_runs([str(tmp_path / "e")])
