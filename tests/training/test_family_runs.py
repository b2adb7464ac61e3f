"""A run with everything at once, from training to fewer decoder layers and other classes, with real commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import TINY, run

FAMILY = [
    *TINY,
    "backbone.weights=null",
    "transformer=deformable",
    "transformer.encoder.num_layers=1",
    "transformer.decoder.num_layers=2",
    "denoising=contrastive",
    "one_to_many=hybrid",
    "one_to_many.num_queries=20",
    "dataloader.batch_size=4",
    "dataloader.num_workers=0",
    "trainer.max_steps=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("family")
    data = f"dataset.root={tmp_path_factory.getbasetemp() / 'options'}"
    done = run("train.py", *FAMILY, data, f"hydra.run.dir={where / 'run'}")
    assert done.returncode == 0, done.stderr + done.stdout
    (where / "data").write_text(data)
    return where


def test_losses_of_all_groups_are_in_the_row(folder: Path) -> None:
    (row,) = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for group in ("encoder/", "denoising/", "one_to_many/", ""):
        for term in ("class", "bbox", "giou"):
            assert row[f"train/{group}{term}"] >= 0
    assert not [name for name in row if name.startswith(("val/denoising", "val/one_to_many"))]


def test_fewer_decoder_layers_in_an_evaluation(folder: Path) -> None:
    answers = []
    for layers in (1, 2):
        out = folder / f"evaluation_{layers}"
        done = run(
            "evaluate.py",
            f"checkpoint={folder / 'run' / 'checkpoints' / 'last.pt'}",
            f"transformer.decoder.eval_layers={layers}",
            f"hydra.run.dir={out}",
        )
        assert done.returncode == 0, done.stderr + done.stdout
        answers.append(json.loads((out / "predictions.json").read_text()))
    assert answers[0]
    assert answers[0] != answers[1]


def test_other_classes_and_no_denoising_any_more(folder: Path) -> None:
    """Starting from weights with denoising for a model without, and the other way round."""
    last = folder / "run" / "checkpoints" / "last.pt"
    data = (folder / "data").read_text()
    without = [word for word in FAMILY if not word.startswith("denoising")]
    done = run("train.py", *without, data, f"init_from={last}", f"hydra.run.dir={folder / 'without'}")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "skipped: denoising" in done.stdout + done.stderr
    names = torch.load(folder / "without" / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert not [name for name in names if name.startswith("denoising")]
