"""Trainings with a part of train for validation, without validation, and with one that nothing can be measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import BCCD, TINY, only_error, run

from detr.data.shapes.dataset import generate
from detr.tracking.rows import read_rows
from detr.weights.checkpoint import load_checkpoint

WORDS = [*(word for word in TINY if "counts" not in word), "dataset=custom", "dataset.root=data"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with COCO-format data that has one file of annotations."""
    folder = tmp_path_factory.mktemp("home")
    generate(folder / "made", {"train": 20, "val": 4})
    data = folder / "data"
    (data / "annotations").mkdir(parents=True)
    (folder / "made" / "images" / "train").rename(data / "images")
    (folder / "made" / "annotations" / "train.json").rename(data / "annotations" / "train.json")
    return folder


@pytest.mark.slow
def test_a_part_of_train_is_validation_in_every_command(home: Path) -> None:
    words = [*WORDS, "dataset.holdout=0.2", "hydra.run.dir=held"]
    done = run("-m", "detr", "train", *words, "trainer.max_steps=2", cwd=home)
    assert done.returncode == 0, done.stderr
    held = (home / "held" / "held_out.txt").read_text().split()
    assert all(name.startswith("images/") for name in held)
    record = json.loads((home / "held" / "run.json").read_text())
    assert (record["data"]["train"]["images"], record["data"]["val"]["images"]) == (20 - len(held), len(held))
    best = home / "held" / "checkpoints" / "best.pt"
    assert load_checkpoint(best).recipe.held_out == held
    (row,) = read_rows(home / "held" / "metrics.jsonl")

    # An image more would change what is drawn; what was held out stays so.
    content = json.loads((home / "data" / "annotations" / "train.json").read_text())
    more = content["images"][0] | {"id": 99, "file_name": "99.jpg"}
    (home / "data" / "images" / "99.jpg").write_bytes(
        (home / "data" / "images" / content["images"][0]["file_name"]).read_bytes()
    )
    grown = content | {"images": [more, *content["images"]]}
    (home / "data" / "annotations" / "train.json").write_text(json.dumps(grown))
    done = run("-m", "detr", "evaluate", f"checkpoint={best}", "hydra.run.dir=evaluated", cwd=home)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((home / "evaluated" / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(row["val/AP"], abs=1e-6)
    assert json.loads((home / "evaluated" / "run.json").read_text())["data"]["val"] == record["data"]["val"]
    refused = only_error(run("-m", "detr", "train", *words, "trainer.max_steps=4", "resume=auto", cwd=home))
    assert f"has seen {20 - len(held)} training images" in refused
    (home / "data" / "annotations" / "train.json").write_text(json.dumps(content))
    done = run("-m", "detr", "train", *words, "trainer.max_steps=4", "resume=auto", cwd=home)
    assert done.returncode == 0, done.stderr
    assert (home / "held" / "held_out.txt").read_text().split() == held


@pytest.mark.slow
def test_without_validation_the_last_checkpoint_is_the_result(home: Path) -> None:
    words = [*WORDS, "dataset.val=null", "hydra.run.dir=alone"]
    done = run("-m", "detr", "train", *words, "trainer.max_epochs=2", "trainer.patience=1", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "dataset.val is null: no validation" in done.stdout
    assert sorted(path.name for path in (home / "alone" / "checkpoints").iterdir()) == ["last.pt"]
    rows = read_rows(home / "alone" / "metrics.jsonl")
    assert len(rows) == 2
    assert not any(key.startswith("val/") for row in rows for key in row)
    assert "last.pt" in done.stdout
    assert "best.pt" not in done.stdout
    done = run("-m", "detr", "train", *words, "trainer.max_epochs=3", "resume=auto", cwd=home)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(home / "alone" / "metrics.jsonl")) == 3
    done = run("-m", "detr", "repeat", "alone", "trainer.max_steps=1", "hydra.run.dir=again", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "data: train is the same" in done.stdout
    assert "data: val" not in done.stdout


def test_a_validation_without_objects_is_said_and_the_later_checkpoint_counts(home: Path) -> None:
    content: dict[str, Any] = json.loads((home / "data" / "annotations" / "train.json").read_text())
    (home / "data" / "annotations" / "val.json").write_text(
        json.dumps(content | {"annotations": [], "images": content["images"][:3]})
    )
    done = run("-m", "detr", "train", *WORDS, "trainer.max_epochs=2", "hydra.run.dir=empty", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "none of 3 validation images has an annotation" in done.stdout + done.stderr
    best, last = (load_checkpoint(home / "empty" / "checkpoints" / f"{name}.pt") for name in ("best", "last"))
    assert best.trainer is not None
    assert last.trainer is not None
    assert best.trainer["progress"]["step"] == last.trainer["progress"]["step"]
    (home / "data" / "annotations" / "val.json").unlink()


@pytest.mark.slow
def test_other_formats_train(tmp_path: Path) -> None:
    """From BCCD's XML as from its JSON, weight by weight."""
    words = [*(word for word in TINY if "counts" not in word), "augmentation=light", "augmentation.max_size=128"]
    words += ["queries.num_queries=60", "trainer.max_steps=2", "trainer.evaluate_every=99"]
    names = "dataset.names=[RBC,WBC,Platelets]"
    for name, more in {"json": ["dataset=custom"], "xml": ["dataset=voc", names]}.items():
        done = run("-m", "detr", "train", *words, *more, f"dataset.root={BCCD}", f"hydra.run.dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt").model for name in ("json", "xml"))
    assert all(a[key].equal(b[key]) for key in a)
