"""Poor trials of a search end early, are no failures, and end at the same place if the search was killed meanwhile."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from command import TINY, Started, only_error, run

from detr.sweeping.notes import TrialNote, was_pruned
from detr.sweeping.search import Choice, Search
from detr.tracking.run_folder import RunFolder
from detr.tracking.status import read_status

EPOCHS = 2
# A search for a lucky seed: what was found of some says nothing about others, so later trials may well be poor.
SEARCH = [
    "hydra/sweeper=optuna",
    "seed=int(interval(1,1000))",
    "hydra.sweeper.metric=loss",
    "hydra.sweeper.direction=minimize",
    "hydra.sweeper.pruner=median",
    "hydra.sweeper.startup_trials=1",
    "hydra.sweeper.n_trials=2",
    "hydra.sweeper.seed=3",  # whose second trial is the poorer one
    "trainer.monitor=loss",
    f"trainer.max_epochs={EPOCHS}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"dataset.root={tmp_path_factory.mktemp('data') / 'shapes'}"


def command(folder: Path, data: str) -> list[str]:
    return ["train.py", "-m", *TINY, data, *SEARCH, f"hydra.sweep.dir={folder}"]


def study(folder: Path) -> list[dict[str, Any]]:
    """What the study remembers of each trial, but when."""
    import optuna

    found = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials
    return [
        {"params": each.params, "state": each.state.name, "value": each.value, "reported": each.intermediate_values}
        for each in found
    ]


@pytest.fixture(scope="module")
def searched(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search that ran through: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("searches") / "whole"
    done = run(*command(folder, data), timeout=900)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_a_poor_trial_ends_early(searched: tuple[Path, str]) -> None:
    folder, said = searched
    trials = study(folder)
    assert {each["state"] for each in trials} == {"COMPLETE", "PRUNED"}
    first = trials[0]["reported"][0]
    assert [each["state"] == "PRUNED" for each in trials[:2]] == [False, trials[1]["reported"][0] > first]
    for number, trial in enumerate(trials):
        rows, status = RunFolder(folder / str(number)).rows(), read_status(folder / str(number))
        pruned = trial["state"] == "PRUNED"
        assert len(rows) == (1 if pruned else EPOCHS)
        assert trial["reported"] == {row["epoch"] - 1: row["val/loss"] for row in rows}
        assert trial["value"] == pytest.approx(min(row["val/loss"] for row in rows))
        assert (status.status, was_pruned(status.ended)) == ("finished", pruned)
        assert (folder / str(number) / "checkpoints" / "best.pt").exists(), "it is evaluated and written down"
    with open(folder / "sweep.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["pruned" if t["state"] == "PRUNED" else "finished" for t in trials]
    assert any(row["ended"].startswith("hydra.sweeper.pruner=median in step ") for row in table)
    assert "failed" not in said


@pytest.mark.slow
def test_a_search_that_was_killed_stops_the_same_trials(searched: tuple[Path, str], data: str, tmp_path: Path) -> None:
    whole, folder = study(searched[0]), tmp_path / "parts"
    poor = next(number for number, trial in enumerate(whole) if trial["state"] == "PRUNED")
    for number, sign in ((0, "metrics.jsonl"), (poor, "status.json")):
        started = Started(*command(folder, data))
        started.wait_for((folder / str(number) / sign).exists)  # in the middle of it
        started.kill()
    assert run(*command(folder, data), timeout=900).returncode == 0
    assert study(folder) == whole


def test_a_trial_that_was_pruned_is_no_best_one(tmp_path: Path) -> None:
    space = {"optimizer.lr": Choice(("1", "2"))}
    search = Search(tmp_path, space=space, direction="maximize", seed=0, startup_trials=1, pruner="hyperband")
    trial = search.ask()
    note = search.note(trial, "AP")
    assert note is not None
    note.write(tmp_path)
    assert TrialNote.read(tmp_path) == note
    search.tell(trial, 0.9, pruned=True)
    assert (search.open_trials(), search.best()) == ([], None)
    other = search.ask()
    search.tell(other, 0.1)
    assert search.best() == (other, 0.1)


def test_nothing_is_noted_where_no_trial_is_stopped(tmp_path: Path) -> None:
    search = Search(tmp_path, space={"a": Choice(("1",))}, direction="maximize", seed=0, startup_trials=1)
    assert search.note(search.ask(), "AP") is None
    assert TrialNote.read(tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train.py", "-m", *SEARCH, "hydra.sweeper.pruner=mean"],
            "pruner: expected 'median' or 'hyperband'",
        ),
        (
            ["evaluate.py", "-m", "checkpoint=choice(a.pt,b.pt)", *SEARCH[:1], "hydra.sweeper.pruner=median"],
            "trainings",
        ),
    ],
)
def test_mistakes(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in only_error(run(*arguments, f"paths.output_root={tmp_path}/outputs"))
    assert not list(tmp_path.rglob("*"))
