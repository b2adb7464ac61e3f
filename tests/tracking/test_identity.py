"""What a run is called, and which config it has in W&B."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detr.config import check, compose
from detr.data.dataset import Fingerprint
from detr.tracking.identity import NAME_LENGTH, describe, run_config, run_group, run_tags, run_title, setting
from detr.tracking.record import RunRecord

RECORD = RunRecord(choices={"dataset": "shapes", "experiment": "quickstart", "logger": "wandb"}, overrides=[])


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "demo"),
        (["transformer.d_model=128", "backbone=resnet101"], "demo d_model=128 backbone=resnet101"),
        (["experiment=demo", "logger=none", "paths.output_root=/data/x", "hydra.verbose=true", "name=demo"], "demo"),
        (["+transformer/encoder=detr", "++seed=1"], "demo transformer/encoder=detr seed=1"),
        (["~optimizer.lr_by_pattern"], "demo ~optimizer.lr_by_pattern"),
        (["backbone.weights=/w/a=b.pt"], "demo weights=/w/a=b.pt"),
        (["naming=1", "logger_count=2"], "demo naming=1 logger_count=2"),
        (["trainer.device=cuda", "dataloader.num_workers=4", "resume=auto"], "demo"),
        (["seed=1", "seed=2"], "demo seed=2"),
    ],
)
def test_a_name_says_what_sets_the_run_apart(overrides: list[str], name: str) -> None:
    assert describe("demo", overrides) == name


def test_a_long_name_is_cut() -> None:
    name = describe("demo", [f"key{index}=value" for index in range(100)])
    assert len(name) == NAME_LENGTH
    assert name.endswith("…")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "default"),
        (["seed=3", "logger.mode=online", "trainer.device=cpu", "dataloader.num_workers=0", "name=x"], "default"),
        (["seed=3", "optimizer.lr=1", "loss=focal"], "loss=focal optimizer.lr=1"),
        (["loss=focal", "++seed=4", "optimizer.lr=1"], "loss=focal optimizer.lr=1"),
        (["experiment=small_data"], "experiment=small_data"),
        (["hydra.run.dir=x", "resume=auto", "paths.output_root=/x", "seed_offset=2"], "seed_offset=2"),
    ],
)
def test_runs_that_differ_by_seed_or_place_have_one_setting(overrides: list[str], expected: str) -> None:
    assert setting(replace(RECORD, overrides=overrides)) == expected


def test_of_a_sweep_the_setting_is_what_differs() -> None:
    sweep = {"name": "train losses", "differs": ["loss=focal", "seed=1"]}
    record = replace(RECORD, overrides=["trainer.max_epochs=3", "loss=focal", "seed=1"], sweep=sweep)
    assert setting(record) == "loss=focal"
    assert run_title("quickstart", record) == "quickstart loss=focal seed=1"
    assert run_group("quickstart", record) == "train losses"
    assert run_group("quickstart", RECORD) == "quickstart"
    assert run_tags(["mine", "shapes"], record) == ["mine", "shapes", "train losses", "quickstart"]


def test_the_config_has_every_value_once() -> None:
    """Whatever a part refers to is set in one place; a reference stays one, as `detr compare` has it."""
    values, stored = check(compose(["optimizer.lr=0.002", "logger.mode=offline"]))
    record = replace(RECORD, overrides=["optimizer.lr=0.002", "seed=3"], data={"train": Fingerprint(4, 9, "abc")})
    config = run_config(stored, record)
    assert config["setting"] == "optimizer.lr=0.002"
    assert (config["choices/dataset"], config["choices/experiment"]) == ("shapes", "quickstart")
    assert "choices/logger" not in config
    assert config["optimizer"]["lr"] == 0.002, "a number that can be sorted by"
    assert config["model"]["encoder"] == "${transformer.encoder}"
    assert config["seed"] == values["seed"]
    assert not {"logger", "paths", "hydra"} & config.keys()
    assert config["info"] == {
        "overrides": ["optimizer.lr=0.002", "seed=3"],
        "data": {"train": {"images": 4, "objects": 9, "digest": "abc"}},
    }
    leaves = json.dumps(config).count('"num_layers"')
    assert json.dumps(values["model"]).count('"num_layers"') > 0
    assert leaves == json.dumps(stored).count('"num_layers"')


def test_an_evaluation_has_the_setting_of_its_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    training = replace(RECORD, overrides=["loss=focal", "seed=2"], git="abc")
    (run / "run.json").write_text(json.dumps(training.to_dict()))
    checkpoint = {"path": str(run / "checkpoints" / "best.pt"), "run": str(run), "wandb_id": "id7", "epoch": 3}
    record = RunRecord(choices={"logger": "wandb"}, overrides=["split=test"], checkpoint=checkpoint, split="test")
    assert record.of_training() == replace(training, git=None)
    config = run_config({"seed": 2}, record, training=record.of_training(), run_name="quickstart")
    assert (config["setting"], config["choices/dataset"]) == ("loss=focal", "shapes")
    assert config["training"] == {
        "name": "quickstart loss=focal seed=2",
        "run_id": "id7",
        "folder": str(run),
        "checkpoint": {"path": checkpoint["path"], "epoch": 3},
    }
    assert config["info"] == {"overrides": ["split=test"], "split": "test"}
    (run / "run.json").unlink()
    assert record.of_training().overrides == [], "split says nothing of a training that nobody knows"
