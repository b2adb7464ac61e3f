"""Offline runs, written for real and read back from their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wandb_file import RecordedRun, read_run

from detr.errors import UserError
from detr.evaluation.examples import Boxes, Example, Segments
from detr.tracking.logger import NAME_LENGTH, NullLogger, WandbLogger, describe
from detr.tracking.record import RunRecord

CONFIG = {"optimizer": {"lr": 1e-4, "lr_by_pattern": {"backbone": 1e-5}}, "seed": 42, "resume": None}
RECORD = RunRecord(
    choices={"dataset": "shapes", "backbone": "resnet50", "logger": "wandb", "experiment": "quickstart"},
    overrides=["optimizer.lr=0.0001", "logger.mode=offline"],
    git="abc-dirty",
    parameters={"total": 41_000_000, "trainable": 40_000_000},
)


@pytest.fixture(autouse=True)
def wandb_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_NAME", "WANDB_TAGS", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc with a key
    yield
    import wandb

    wandb.teardown()


def start(directory: Path, run_id: str | None = None, **options: Any) -> WandbLogger:
    logger = WandbLogger(project="tests", mode="offline", **options)
    logger.start(directory=directory, config=CONFIG, run_name="quickstart", record=RECORD, run_id=run_id)
    return logger


def read(logger: WandbLogger) -> RecordedRun:
    import wandb

    wandb.teardown()
    assert logger.directory is not None
    return read_run(logger.directory)


def example(side: int = 64) -> Example:
    return Example(
        image=Image.new("RGB", (2 * side, side), (90, 120, 150)),
        truth=Boxes([(0.0, 0.0, float(side), side / 2)], [1]),
        predicted=Boxes([(0.0, 0.0, float(side), side / 2), (0.0, 0.0, 5.0, 5.0)], [1, 0], [0.75, 0.001]),
        names=("disc", "square"),
        caption="one.png",
    )


def test_a_run_reads_back_as_it_was_logged(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    with start(tmp_path, tags=["mine"], images=1) as logger:
        logger.log_step({"train/loss": 3.5}, step=10)
        logger.log_epoch({"train/loss": 3.0, "val/AP": 0.25}, epoch=1, step=20)
        logger.log_images([example(), example()], epoch=1)
        logger.log_best({"val/AP": 0.25, "epoch": 1})
        logger.log_epoch({"train/loss": 2.5, "val/AP": 0.125}, epoch=2, step=40)
        logger.log_checkpoint(checkpoint)
        directory = logger.directory
    recorded = read(logger)

    assert directory is not None
    assert directory.parent == tmp_path / "wandb"
    assert (recorded.run.project, recorded.run.run_group, recorded.run.run_id) == (
        "tests",
        "quickstart",
        logger.run_id,
    )
    assert recorded.run.display_name == "quickstart lr=0.0001"
    assert list(recorded.run.tags) == ["mine", "shapes", "resnet50"]
    assert {key: recorded.config[key] for key in CONFIG} == CONFIG
    assert recorded.config["info"] == RECORD.to_dict()

    step, epoch, images, second = recorded.history
    assert (step["train/loss"], step["step"]) == (3.5, 10)
    assert (epoch["train_epoch/loss"], epoch["val/AP"], epoch["epoch"], epoch["step"]) == (3.0, 0.25, 1, 20)
    assert "train/loss" not in epoch, "means of an epoch would mix with those of steps"
    assert recorded.axes["train/*"] == "step"
    assert recorded.axes["val/*"] == recorded.axes["train_epoch/*"] == "epoch"
    assert second["val/AP"] == 0.125
    assert (recorded.summary["best/AP"], recorded.summary["val/AP"]) == (0.25, 0.125), "the best and the last"
    assert recorded.exit_code == 0
    check_images(images, directory)
    (artifact,) = recorded.artifacts
    assert (artifact.type, artifact.name) == ("model", f"model-{logger.run_id}")
    assert [entry.local_path for entry in artifact.manifest.contents] == [str(checkpoint)]


def check_images(row: dict[str, Any], directory: Path) -> None:
    logged = row["val/predictions"]
    assert logged["count"] == 1, "no more than were asked for"
    assert row["epoch"] == 1
    (file,) = (directory / "files" / "media" / "images" / "val").glob("predictions*.jpg")
    assert Image.open(file).size == (128, 64)
    boxes = {
        kind: json.loads((directory / "files" / logged["all_boxes"][0][kind]["path"]).read_text())
        for kind in ("ground_truth", "predictions")
    }
    assert boxes["ground_truth"]["class_labels"] == {"0": "disc", "1": "square"}
    (truth,) = boxes["ground_truth"]["box_data"]
    (predicted,) = boxes["predictions"]["box_data"]  # the one with a score of 0.001 is left out
    assert truth["position"] == predicted["position"] == {"minX": 0.0, "maxX": 0.5, "minY": 0.0, "maxY": 0.5}
    assert (predicted["scores"], predicted["class_id"]) == ({"score": 0.75}, 1)


def test_a_job_of_a_sweep_is_grouped_with_the_others_and_named_by_what_sets_it_apart(tmp_path: Path) -> None:
    sweep = {"name": "seeds today", "differs": ["seed=3"]}
    with WandbLogger(project="tests") as logger:
        logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=replace(RECORD, sweep=sweep))
    recorded = read(logger)
    assert (recorded.run.run_group, recorded.run.display_name) == ("seeds today", "quickstart seed=3")
    with WandbLogger(project="tests", group="mine", name="this") as logger:
        logger.start(
            directory=tmp_path / "two", config=CONFIG, run_name="quickstart", record=replace(RECORD, sweep=sweep)
        )
    recorded = read(logger)
    assert (recorded.run.run_group, recorded.run.display_name) == ("mine", "this")


def test_an_evaluation_is_a_run_of_another_type(tmp_path: Path) -> None:
    with WandbLogger(project="tests") as logger:
        logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=RECORD, job_type="eval")
        logger.log_evaluation({"AP": 0.25}, "test")
    recorded = read(logger)
    assert recorded.run.job_type == "eval"
    assert recorded.summary["test/AP"] == 0.25


def test_an_exception_ends_the_run_as_failed(tmp_path: Path) -> None:
    logger = start(tmp_path)
    with pytest.raises(ZeroDivisionError), logger:
        raise ZeroDivisionError
    assert read(logger).exit_code == 1


def test_resuming_keeps_the_id_and_goes_on_along_the_axes(tmp_path: Path) -> None:
    with start(tmp_path / "one") as first:
        first.log_step({"train/loss": 3.5}, step=10)
    with start(tmp_path / "two", run_id=first.run_id) as second:
        second.log_step({"train/loss": 3.0}, step=11)
    recorded = read(second)
    assert second.run_id == first.run_id == recorded.run.run_id
    assert [row["step"] for row in recorded.history] == [11]


def test_a_second_run_in_the_same_process_starts_afresh(tmp_path: Path) -> None:
    first = start(tmp_path / "one")
    first.log_step({"train/loss": 1.0}, step=1)
    second = start(tmp_path / "two")  # a failed job of a sweep may never have finished its run
    second.log_step({"train/loss": 2.0}, step=2)
    second.finish()
    assert second.run_id != first.run_id
    assert [row["train/loss"] for row in read(second).history] == [2.0]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as logger:
        logger.log_step({"train/loss": 3.5}, step=10)
    assert capfd.readouterr() == ("", "")


def test_no_artifact_where_none_is_wanted(tmp_path: Path) -> None:
    with start(tmp_path, artifact=False) as logger:
        logger.log_checkpoint(tmp_path / "not_even_there.pt")
    assert read(logger).artifacts == []


def test_an_empty_image_is_logged(tmp_path: Path) -> None:
    empty = Example(Image.new("L", (8, 8)), Boxes([], []), Boxes([], [], []), ("disc",))
    with start(tmp_path) as logger:
        logger.log_images([empty, example()], epoch=1)
        logger.log_images([], epoch=2)
    (row,) = read(logger).history
    assert row["val/predictions"]["count"] == 2


def test_disabled_does_nothing_and_does_not_mind(tmp_path: Path) -> None:
    logger = WandbLogger(project="tests", mode="disabled")
    logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=RECORD)
    with logger:
        logger.log_step({"train/loss": 3.5}, step=10)
        logger.log_images([example()], epoch=1)
        logger.log_best({"val/AP": 0.1})
    assert logger.directory is None
    assert not list(tmp_path.rglob("*.wandb"))


def test_online_without_a_key_says_how_to_work_offline(tmp_path: Path) -> None:
    logger = WandbLogger(project="tests", mode="online")
    with pytest.raises(UserError, match=r"wandb login.*WANDB_MODE=offline") as caught:
        logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=RECORD)
    assert "\n" not in str(caught.value)


def test_the_null_logger_answers_every_call_of_the_other(tmp_path: Path) -> None:
    with NullLogger() as logger:
        logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=RECORD)
        logger.log_step({}, 1)
        logger.log_epoch({}, 1, 1)
        logger.log_images([example()], 1)
        logger.log_best({})
        logger.log_evaluation({}, "test")
        logger.log_checkpoint(tmp_path)
    assert (logger.run_id, logger.directory, logger.images) == (None, None, 0)
    assert not list(tmp_path.iterdir())


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
    ],
)
def test_a_name_says_what_sets_the_run_apart(overrides: list[str], name: str) -> None:
    assert describe("demo", overrides) == name


def test_a_long_name_is_cut() -> None:
    name = describe("demo", [f"key{index}=value" for index in range(100)])
    assert len(name) == NAME_LENGTH
    assert name.endswith("…")


def test_segments_are_logged_as_masks_of_classes(tmp_path: Path) -> None:
    true, found = np.zeros((64, 128), dtype=np.int32), np.ones((64, 128), dtype=np.int32)
    true[:32, :10] = 2
    segments = (Segments(true, [0, 1]), Segments(found, [0]))
    with start(tmp_path) as logger:
        logger.log_images([replace(example(), segments=segments)], epoch=1)
    (row,) = read(logger).history
    assert logger.directory is not None
    (masks,) = row["val/predictions"]["all_masks"]
    pixels = {kind: np.asarray(Image.open(logger.directory / "files" / masks[kind]["path"])) for kind in masks}
    assert set(np.unique(pixels["true_segments"])) == {0, 2}  # void, square
    assert (pixels["true_segments"] == 2).sum() == 320
    assert (pixels["segments"] == 1).all()  # disc
