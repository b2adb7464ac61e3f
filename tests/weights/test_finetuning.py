"""Fine-tuning on other classes: rows of the class head that go by name are worth an epoch and more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import run

NEW_NAME = "disc"  # what fine-tuning calls a circle, so that nothing of it is carried over
CATEGORIES = {"circle": (42, NEW_NAME), "star": (7, "Star"), "square": (11, "square")}  # others are no objects any more

IMAGES = 64  # to fine-tune on, 8 steps: with more, a fresh class head has caught up by the end of the epoch

PRETRAINING = [
    "trainer.max_steps=300",
    "trainer.max_minutes=null",
    "trainer.max_epochs=null",
    "trainer.evaluate_every=100",
]
FINE_TUNING = [
    "trainer.max_epochs=1",
    "trainer.max_minutes=null",
    "optimizer.lr=1e-4",
    "scheduler=constant",
    "scheduler.warmup_steps=0",
]


def relabelled(source: Path, target: Path) -> None:
    """The shapes as a data set of three classes with other ids, one of them under a new name."""
    (target / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((source / "annotations" / f"{split}.json").read_text())
        new = {each["id"]: CATEGORIES[each["name"]] for each in content["categories"] if each["name"] in CATEGORIES}
        content["images"] = content["images"][:IMAGES]
        kept = {each["id"] for each in content["images"]}
        content["categories"] = [{"id": index, "name": name} for index, name in new.values()]
        content["annotations"] = [
            each | {"category_id": new[each["category_id"]][0]}
            for each in content["annotations"]
            if each["category_id"] in new and each["image_id"] in kept
        ]
        (target / "annotations" / f"{split}.json").write_text(json.dumps(content))


def fine_tuned(weights: Path, source: Path, root: Path, folder: Path) -> tuple[dict[str, float], str]:
    """The row of one epoch, and what the run said."""
    splits = [
        f"dataset.{split}.{what}={path}"
        for split in ("train", "val")
        for what, path in (
            ("images", source / "images" / split),
            ("annotations", root / "annotations" / f"{split}.json"),
        )
    ]
    arguments = [
        "dataset=custom",
        *splits,
        "logger=none",
        *FINE_TUNING,
        f"init_from={weights}",
        f"hydra.run.dir={folder}",
    ]
    done = run("train.py", *arguments, f"hydra.run.dir={folder}", timeout=1200)
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return row, done.stdout


@pytest.mark.slow
def test_rows_by_name_beat_a_fresh_class_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = tmp_path / "shapes"
    counts = "+dataset.counts={train: 600, val: 100, test: 4}"
    arguments = [counts, f"dataset.root={shapes}", "logger=none", *PRETRAINING, f"hydra.run.dir={tmp_path}/five"]
    done = run("train.py", *arguments, timeout=1800)
    assert done.returncode == 0, done.stderr
    relabelled(shapes, tmp_path / "three")
    checkpoint = tmp_path / "five" / "checkpoints" / "last.pt"
    by_name, said = fine_tuned(checkpoint, shapes, tmp_path / "three", tmp_path / "by_name")
    assert "rows of 2 of 3 classes by name" in said
    assert f"rows of 1 of 3 classes ({NEW_NAME})" in said

    content = torch.load(checkpoint, weights_only=True)
    content["classes"]["names"] = [f"unknown {name}" for name in content["classes"]["names"]]
    torch.save(content, tmp_path / "nameless.pt")
    fresh, said = fine_tuned(tmp_path / "nameless.pt", shapes, tmp_path / "three", tmp_path / "fresh")
    assert "by name" not in said
    with capsys.disabled():
        print(f"\nAP after an epoch: {by_name['val/AP']:.3f} by name, {fresh['val/AP']:.3f} with a fresh class head")
    assert by_name["val/AP"] > 0.15
    assert by_name["val/AP"] > 1.5 * fresh["val/AP"]
