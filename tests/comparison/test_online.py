"""Runs as W&B would give them, built from the record of a run that was logged offline; there is no network here."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import TINY, only_error, run
from wandb_file import read_run as read_record

from detr.comparison import reading
from detr.comparison.comparison import compare
from detr.comparison.numbers import numbers
from detr.comparison.online import is_online, rows_of, run_of
from detr.comparison.page import page
from detr.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, logged offline."""
    folder = tmp_path_factory.mktemp("wandb")
    arguments = [each for each in TINY if each != "logger=none"]
    done = run(
        "train.py",
        *arguments,
        "trainer.max_epochs=2",
        "trainer.log_every=1",
        f"dataset.root={folder / 'data'}",
        f"hydra.run.dir={folder / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def online(trained: Path) -> SimpleNamespace:
    """What `wandb.Api().run(…)` would answer, once the run is synced: these names are all that is asked for."""
    (directory,) = (trained / "wandb").glob("offline-run-*")
    record = read_record(directory)

    def scan_history() -> Iterator[dict[str, Any]]:
        yield from copy.deepcopy(record.history)

    config = {key: value for key, value in copy.deepcopy(record.config).items() if key != "_wandb"}
    return SimpleNamespace(config=config, summary=record.summary, state="finished", scan_history=scan_history)


def test_rows_are_those_of_the_folder(trained: Path, online: SimpleNamespace) -> None:
    theirs, ours = run_of("wandb:me/detr/abcd1234", online), reading.read_run(trained)
    assert [row["epoch"] for row in theirs.rows] == [1, 2]
    for their, our in zip(theirs.rows, ours.rows, strict=True):
        expected = {key: value for key, value in our.items() if value is not None}
        assert {key: their[key] for key in expected} == pytest.approx(expected)
    assert (theirs.seed, theirs.steps, theirs.state) == (ours.seed, ours.steps, "finished")
    assert theirs.choices == {key: value for key, value in ours.choices.items() if key not in ("logger", "paths")}
    assert theirs.metrics() == pytest.approx(ours.metrics())
    assert theirs.ended == ours.ended
    assert theirs.recorded.overrides == ours.recorded.overrides


def test_a_run_is_the_same_setting_there_and_here(trained: Path, online: SimpleNamespace) -> None:
    ours, theirs = reading.read_run(trained), run_of("wandb:me/detr/abcd1234", online)
    comparison = compare([theirs, ours], metric="AP50", last=False)
    assert len(comparison.settings) == 1
    assert f"wandb:me/detr/abcd1234 is left out: {trained} has the same config and seed" in comparison.notes


def test_they_are_compared_without_images(online: SimpleNamespace) -> None:
    other = copy.deepcopy(online)
    other.config["optimizer"]["lr"] = 0.5
    runs = [run_of("wandb:me/detr/aaaaaaaa", online), run_of("wandb:me/detr/bbbbbbbb", other)]
    comparison = compare(runs, metric="AP50", last=False)
    assert [each.description for each in comparison.settings] == ["optimizer.lr=0.001", "optimizer.lr=0.5"]
    assert comparison.summary[0] == (
        "A and B: the same AP50; one seed each, and no interval over images: wandb:me/detr/aaaaaaaa has no "
        "predictions.json: W&B does not keep it"
    )
    assert "No images: " in page(comparison)
    assert numbers(comparison)["settings"][1]["runs"][0]["folder"] == "wandb:me/detr/bbbbbbbb"


def test_an_evaluation_in_the_summary(online: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="not evaluated on test"):
        run_of("wandb:me/detr/aaaaaaaa", online, "test")
    online.summary["test/AP"] = 0.25
    assert run_of("wandb:me/detr/aaaaaaaa", online, "test").metrics() == {"AP": 0.25}


def test_a_run_without_an_evaluation(online: SimpleNamespace) -> None:
    online.scan_history = lambda: iter([{"train/loss": 1.0, "step": 1}])
    with pytest.raises(UserError, match="no validation metrics"):
        run_of("wandb:me/detr/aaaaaaaa", online)


def test_what_is_no_number_is_no_metric() -> None:
    logged = [
        {"val/AP": 0.5, "train_epoch/loss": "NaN", "epoch": 1, "step": 10, "_runtime": 3},
        {"val/predictions": {"_type": "images"}, "epoch": 1},
        {"train/loss": 2.0, "step": 15},
        {"val/AP": float("nan"), "train_epoch/loss": 2.0, "epoch": 2, "step": 20},
    ]
    assert rows_of(logged) == [{"epoch": 1, "step": 10, "val/AP": 0.5}, {"epoch": 2, "step": 20, "train/loss": 2.0}]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("wandb:me/detr/anything", True),
        ("me/detr/3f2a9c1b", True),
        ("outputs/train/2026-01-01_10-00-00-123456", False),
        ("outputs/sweep", False),
    ],
)
def test_paths(path: str, expected: bool) -> None:
    assert is_online(path) == expected


def test_a_folder_comes_before_a_run_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "detr" / "3f2a9c1b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_online("me/detr/3f2a9c1b")


@pytest.mark.slow
def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(tmp_path / "none"), "HOME": str(tmp_path)}
    for variables in (nowhere | {"WANDB_API_KEY": "0" * 40}, nowhere | {"WANDB_API_KEY": ""}):
        line = only_error(run("-m", "detr", "compare", "wandb:me/detr/3f2a9c1b", variables=variables))
        assert line.startswith("error: wandb:me/detr/3f2a9c1b cannot be read: ")
        assert line.endswith("; compare the folders of the runs instead")
