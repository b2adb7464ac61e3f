"""Asking and telling: what is drawn, what a study that was stopped remembers. Trials are functions here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from detr.errors import UserError
from detr.sweeping.search import Choice, Interval, Search, Space, Trial, as_overrides

SPACE: Space = {
    "optimizer.lr": Interval(1e-5, 1e-1, log=True),
    "queries.num_queries": Interval(50, 300, step=50, integer=True),
    "loss": Choice(("detr", "focal")),
}


def search(folder: Path, space: Space = SPACE, **options: object) -> Search:
    return Search(folder, space=space, direction="maximize", seed=3, startup_trials=5, **options)


def value(trial: Trial) -> float:
    """Best at a learning rate of 1e-3, with focal loss."""
    return -abs(math.log10(trial.values["optimizer.lr"]) + 3) - (trial.values["loss"] != "focal")


def run(study: Search, trials: int) -> list[Trial]:
    done = []
    while len(study) < trials:
        trial = study.ask()
        study.tell(trial, value(trial))
        done.append(trial)
    return done


def test_draws_lie_in_the_space(tmp_path: Path) -> None:
    trials = run(search(tmp_path), 12)
    for trial in trials:
        assert 1e-5 <= trial.values["optimizer.lr"] <= 1e-1
        assert trial.values["queries.num_queries"] in range(50, 301, 50)
        assert trial.values["loss"] in ("detr", "focal")
    assert len({trial.values["optimizer.lr"] for trial in trials}) == 12


def test_later_trials_are_better_than_those_at_random(tmp_path: Path) -> None:
    trials = run(search(tmp_path), 30)
    first, last = trials[:5], trials[-10:]
    assert sum(map(value, last)) / 10 > sum(map(value, first)) / 5


def test_a_search_that_was_stopped_draws_the_rest_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(search(tmp_path / "whole"), 9)
    parts = [trial for stop in (2, 6, 9) for trial in run(search(tmp_path / "parts"), stop)]
    assert parts == whole


def test_a_trial_under_way_is_remembered(tmp_path: Path) -> None:
    study = search(tmp_path)
    run(study, 2)
    begun = study.ask()
    again = search(tmp_path)
    assert (len(again), again.open_trials()) == (3, [begun])
    again.tell(begun, 0.5)
    assert again.open_trials() == []
    assert again.best() == (begun, 0.5)


def test_a_failed_trial_is_no_best_one(tmp_path: Path) -> None:
    study = search(tmp_path)
    study.tell(study.ask(), None)
    assert (len(study), study.open_trials(), study.best()) == (1, [], None)


def test_trials_under_way_together_differ(tmp_path: Path) -> None:
    study = search(tmp_path, at_once=4)
    run(study, 6)
    assert len({study.ask().values["optimizer.lr"] for _ in range(4)}) == 4


def test_a_study_of_another_space_is_not_continued(tmp_path: Path) -> None:
    run(search(tmp_path), 1)
    with pytest.raises(UserError, match=r"another space \(optimizer\.lr, .*hydra\.sweep\.dir"):
        search(tmp_path, {"optimizer.lr": Interval(1e-5, 1.0, log=True)})


def test_an_impossible_space(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.params"):
        search(tmp_path, {"optimizer.lr": Interval(0.0, 1.0, log=True)})


def test_values_as_overrides() -> None:
    values = {"optimizer.lr": 0.00123456, "a": 0.30000000000000004, "n": 12345, "loss": "focal", "+b": "[1,2]"}
    assert as_overrides(values) == ["optimizer.lr=0.001235", "a=0.3", "n=12345", "loss=focal", "+b=[1,2]"]
