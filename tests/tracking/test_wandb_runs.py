"""Trainings and evaluations as a user runs them, read back from what W&B would be sent, field by field."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from command import TINY, Started, run
from wandb_file import RecordedRun, read_run

from detr.tracking.status import read_status
from detr.weights.checkpoint import load_checkpoint

Trained = tuple[Path, str, str]  # folder, what the training said, the data set's override


def environment(home: Path) -> dict[str, str]:
    names = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME")
    return dict.fromkeys(names, str(home)) | {"WANDB_MODE": "offline"}


def train(folder: Path, data: str, *overrides: str) -> list[str]:
    tiny = [each for each in TINY if each != "logger=none"]
    return ["train.py", *tiny, data, f"hydra.run.dir={folder}", *overrides]


def synced(said: str) -> list[Path]:
    """The folders of the line that says how to upload."""
    (line,) = (line for line in said.splitlines() if line.startswith("W&B"))
    words = shlex.split(line)
    assert words[1:3] == ["wandb", "sync"]
    return [Path(word) for word in words[3:]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("wandb")
    data = f"dataset.root={root / 'shapes'}"
    done = run(
        *train(
            root / "run",
            data,
            "trainer.max_epochs=2",
            "optimizer.lr=0.002",
            "seed=5",
            "logger.images=4",
            "logger.group=mine",
            "logger.tags=[a]",
        ),
        variables=environment(root / "home"),
    )
    assert done.returncode == 0, done.stderr
    assert "wandb:" not in done.stdout + done.stderr
    return root / "run", done.stdout, data


@pytest.fixture(scope="module")
def recorded(trained: Trained) -> RecordedRun:
    (part,) = synced(trained[1])
    return read_run(part)


def test_a_training_has_what_is_compared(trained: Trained, recorded: RecordedRun) -> None:
    folder = trained[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    facts = json.loads((folder / "run.json").read_text())
    assert (
        read_status(folder).wandb_id == recorded.run.run_id == load_checkpoint(folder / "checkpoints/best.pt").wandb_id
    )
    assert recorded.config["setting"].startswith("dataloader.batch_size=8 dataset.counts=")
    assert "optimizer.lr=0.002" in recorded.config["setting"].split()
    assert "seed" not in recorded.config["setting"]
    assert recorded.config["choices/dataset"] == "shapes"
    assert (recorded.config["seed"], recorded.config["optimizer"]["lr"]) == (5, 0.002)
    assert recorded.config["model"]["backbone"] == "${backbone}"
    assert {"git", "data", "hardware", "parameters", "overrides"} <= recorded.config["info"].keys()
    epochs = [row for row in recorded.history if "val/AP" in row]
    assert [row["val/AP"] for row in epochs] == [row["val/AP"] for row in rows]
    assert {key for row in epochs for key in row if key.startswith("classes/")} == {
        key.replace("val/", "classes/") for row in rows for key in row if key.startswith("val/AP/")
    }
    assert not any(key.startswith("val/AP/") for key in epochs[0]), "a panel for each class would bury the others"
    assert recorded.summary["ended"] == facts["ended"]
    assert recorded.summary["best/AP"] == max(row["val/AP"] for row in rows)
    sections = {key.partition("/")[0] for row in recorded.history for key in row if "/" in key}
    assert sections == {"train", "train_epoch", "val", "classes", "images", "tables", "Custom Chart Tables"}
    assert "epoch 2 " in recorded.logs
    assert recorded.exit_code == 0


def test_its_images_and_tables(recorded: RecordedRun) -> None:
    images = [
        (key, row["epoch"], row[key]["count"]) for row in recorded.history for key in row if key.startswith("images/")
    ]
    best = recorded.summary["best/epoch"]
    assert images == [
        ("images/training", 0, 4),
        ("images/predictions", 1, 4),
        ("images/predictions", 2, 4),
        ("images/worst", best, 4),
    ]
    (tables,) = (row for row in recorded.history if "tables/classes" in row)
    assert tables["epoch"] == best
    assert recorded.config["_wandb"]["visualize"].keys() == {"tables/precision_recall", "tables/confusion"}


def test_its_artifacts(trained: Trained, recorded: RecordedRun) -> None:
    kinds = {each.type: each for each in recorded.artifacts if each.type != "run_table"}
    assert kinds.keys() == {"code", "dataset", "model"}
    assert [each.use_after_commit for each in kinds.values()] == [False, True, False]
    data = json.loads((trained[0] / "run.json").read_text())["data"]
    assert {entry.path: entry.digest for entry in kinds["dataset"].manifest.contents} == {
        split: data[split]["digest"] for split in ("train", "val")
    }
    assert all(entry.ref.startswith("file:///") for entry in kinds["dataset"].manifest.contents)
    assert {entry.path for entry in kinds["code"].manifest.contents} >= {".hydra/config.yaml", ".hydra/overrides.yaml"}


def test_an_evaluation_belongs_to_its_training(trained: Trained, recorded: RecordedRun, tmp_path: Path) -> None:
    folder = trained[0]
    done = run(
        "evaluate.py",
        f"checkpoint={folder}/checkpoints/best.pt",
        "split=test",
        "logger=wandb",
        f"hydra.run.dir={tmp_path}/test",
        variables=environment(tmp_path / "home"),
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    own, told = map(read_run, synced(done.stdout))
    assert (own.run.job_type, own.run.run_group) == ("eval", recorded.run.run_group)
    assert own.run.display_name == f"{recorded.run.display_name} test"
    assert list(own.run.tags) == list(recorded.run.tags)
    assert own.run.project == recorded.run.project
    assert own.config["setting"] == recorded.config["setting"]
    assert own.config["training"]["run_id"] == recorded.run.run_id
    assert own.config["training"]["folder"] == str(folder)
    assert own.config["training"]["checkpoint"]["path"] == str(folder / "checkpoints" / "best.pt")
    assert own.summary["test/AP"] == metrics["AP"]
    used = {each.type: each for each in own.artifacts if each.use_after_commit}
    (trained_model,) = (each for each in recorded.artifacts if each.type == "model")
    assert (used["model"].name, used["model"].digest) == (trained_model.name, trained_model.digest), "the same version"
    assert used["dataset"].name == "shapes-test"
    assert {"tables/classes", "images/predictions"} <= {key for row in own.history for key in row}
    # A further part of the training, which adds its test metrics and changes nothing else.
    assert told.run.run_id == recorded.run.run_id
    for name in ("display_name", "run_group", "job_type", "project", "entity"):
        assert getattr(told.run, name) == getattr(recorded.run, name), name
    assert list(told.run.tags) == list(recorded.run.tags)
    assert {key: value for key, value in told.summary.items() if not key.startswith("_")} == {
        key: value for key, value in own.summary.items() if key.startswith("test/")
    }
    assert (told.history, told.config.keys() - {"_wandb"}) == ([], set())


def test_val_is_known_to_the_training_already(trained: Trained, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={trained[0]}/checkpoints/last.pt"
    done = run(
        *("evaluate.py", checkpoint, "logger=wandb", f"hydra.run.dir={tmp_path}/val"),
        variables=environment(tmp_path / "home"),
    )
    assert done.returncode == 0, done.stderr
    (part,) = synced(done.stdout)
    own = read_run(part)
    assert own.summary["val/AP"] >= 0
    assert "model" not in {each.type for each in own.artifacts}, "last.pt is no artifact of the training"


def started(folder: Path) -> Callable[[], bool]:
    return lambda: read_status(folder).wandb_id is not None and bool(list(folder.glob("checkpoints/step_*.pt")))


@pytest.mark.slow
def test_under_an_agent_a_preempted_run_goes_on_under_its_id(trained: Trained, tmp_path: Path) -> None:
    """As sweeps/wandb/ has it: SIGTERM of a scheduler, then the same command with the same id."""
    folder, variables = tmp_path / "run7", environment(tmp_path / "home")
    variables |= {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "run7"}
    words = train(folder, trained[2], "trainer.max_epochs=30", "trainer.checkpoint_every_steps=3", "resume=auto")
    first = Started(*words, variables=variables)
    first.wait_for(started(folder))
    os.kill(first.process, signal.SIGTERM)
    done = first.wait()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    step = load_checkpoint(max((folder / "checkpoints").glob("step_*.pt")))
    assert step.trainer is not None
    again = run(*words, f"trainer.max_steps={step.trainer['progress']['step'] + 2}", variables=variables)
    assert again.returncode == 0, again.stderr
    before, after = map(read_run, synced(again.stdout))
    assert before.run.run_id == after.run.run_id == "run7"
    assert (before.preempting, before.exit_code) == (True, 1)
    assert (after.preempting, after.exit_code) == (False, 0)
    assert "images/training" not in {key for row in after.history for key in row}
    assert {each.type for each in after.artifacts if each.type == "code"} == set(), "it is there already"
