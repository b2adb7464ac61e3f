"""What a run and an evaluation say of themselves in their folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import TINY, only_error, run

from detr.tracking.rows import read_rows

WORDS = [*TINY, "trainer.max_steps=4", "optimizer.lr_by_pattern={backbone: 1e-5}", "dataset.root=data"]


METRICS = "run/metrics.jsonl"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run, which was started in it."""
    folder = tmp_path_factory.mktemp("home")
    done = run("-m", "detr", "train", *WORDS, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "ended by trainer.max_steps=4 in step 4 of 4" in done.stdout
    return folder


def test_a_training_says_why_it_ended_and_what_its_steps_took(home: Path) -> None:
    record, status, (row,) = (
        read(home / "run/run.json"),
        read(home / "run/status.json"),
        read_rows(home / "run/metrics.jsonl"),
    )
    assert record["ended"] == status["ended"] == "ended by trainer.max_steps=4 in step 4 of 4"
    assert (status["status"], status["error"], record["best_step"]) == ("finished", None, 4)
    assert record["minutes"] == pytest.approx(row["train/seconds"] / 60)
    assert row["train/grad_norm"] > 0
    rates = {name: value for name, value in row.items() if name.startswith("train/lr")}
    assert len(rates) == 4
    assert len(set(rates.values())) == 2  # the first group's stands there twice
    spent = row["train/step_seconds/data"] + row["train/step_seconds/compute"]
    assert 4 * spent == pytest.approx(row["train/seconds"])


def test_a_training_has_a_model_card(home: Path) -> None:
    card, record, (row,) = (home / "run/README.md").read_text(), read(home / "run/run.json"), read_rows(home / METRICS)
    data = record["data"]["val"]
    assert f"| val | {data['images']} | {data['objects']} | {data['digest']} |" in card
    low, high = record["intervals"]["AP"]
    assert low <= row["val/AP"] <= high
    assert f"| AP | {row['val/AP']:.3f} | {low:.3f} to {high:.3f} |" in card
    for words in ("ended by trainer.max_steps=4", "circle, square", "| transformer | rt_detr_small |", "not said"):
        assert words in card
    assert "detr evaluate checkpoint=checkpoints/best.pt" in card


def test_metrics_that_do_not_exist_have_no_number(home: Path) -> None:
    """No shape of 128 pixels is large."""
    (row,) = read_rows(home / "run/metrics.jsonl")
    assert "val/APm" in row
    assert "val/APl" not in row
    assert -1 not in row.values()


def test_an_evaluation_elsewhere_leaves_a_whole_record(home: Path, tmp_path: Path) -> None:
    """It finds the data of the training, whose root was relative, and tells the training what it found."""
    checkpoint = home / "run/checkpoints/best.pt"
    done = run("-m", "detr", "evaluate", f"checkpoint={checkpoint}", "hydra.run.dir=val", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["val"]
    (row,), record = read_rows(home / "run/metrics.jsonl"), read(tmp_path / "val/run.json")
    metrics = read(tmp_path / "val/metrics.json")
    assert metrics["AP"] == pytest.approx(row["val/AP"])
    assert "APl" not in metrics
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    known = {"path": str(checkpoint), "sha256": digest, "run": str(home / "run"), "epoch": 0, "step": 4}
    assert known.items() <= record["checkpoint"].items()
    assert (record["split"], record["images"], record["data"]["val"]["images"]) == ("val", 12, 12)
    assert record["git"] == read(home / "run/run.json")["git"]
    assert {path.name for path in (tmp_path / "val/.hydra").iterdir()} == {
        *("config.yaml", "hydra.yaml", "overrides.yaml", "evaluated.yaml")
    }
    assert len(list((tmp_path / "val/predictions").glob("*.jpg"))) == 8
    card = (tmp_path / "val/README.md").read_text()
    assert f"| AP | {metrics['AP']:.3f} |" in card
    assert "on the val split" in card
    told = read(home / "run/evaluations/val.json")
    assert told["folder"] == str(tmp_path / "val")
    assert told["overrides"] == []
    assert told["metrics"]["AP"] == metrics["AP"]
    first = ((tmp_path / "val/evaluate.log").read_text().splitlines()[0], (home / "run/train.log").read_text())
    assert all(" INFO detr." in text for text in first)


def test_data_that_moved_are_said_to_be_missing(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    (home / "data").rename(home / "moved")
    try:
        words = ["dataset=custom", "dataset.root=nowhere", f"checkpoint={tmp_path}/run/checkpoints/best.pt"]
        done = run("-m", "detr", "evaluate", *words, "hydra.run.dir=val", cwd=tmp_path)
    finally:
        (home / "moved").rename(home / "data")
    assert "nowhere" in only_error(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "dataset=custom", "dataset.root=nowhere"],
        ["train", *WORDS, "optimizer.lr=-1"],
        ["train", *WORDS, "init_from=nothing.pt"],
        ["train", *WORDS, "resume=nothing.pt"],
        ["evaluate", "checkpoint=nothing.pt"],
    ],
)
def test_what_is_refused_leaves_no_folder(home: Path, tmp_path: Path, words: list[str]) -> None:
    only_error(run("-m", "detr", *words, f"paths.output_root={tmp_path}/runs", cwd=home))
    assert list(tmp_path.glob("runs/*/*")) == []


def test_what_is_refused_leaves_the_folder_that_one_stands_in(tmp_path: Path) -> None:
    """`detr export` has no folder of its own."""
    only_error(run("-m", "detr", "export", "checkpoint=nothing.pt", "format=official", cwd=tmp_path))
    (tmp_path / "empty.log").touch()
    only_error(run("-m", "detr", "export", "checkpoint=nothing.pt", "format=official", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["empty.log"]


def test_what_is_refused_leaves_a_folder_with_other_things_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    only_error(run("train.py", "dataset=custom", "dataset.root=nowhere", f"hydra.run.dir={tmp_path}"))
    assert (tmp_path / "notes.txt").read_text() == "mine"
