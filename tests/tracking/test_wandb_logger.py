"""Offline runs, written for real and read back from their files."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import images, outcome
from PIL import Image
from wandb_file import RecordedRun, read_run

from detr.data.dataset import Fingerprint
from detr.data.loader import train_loader
from detr.errors import Interrupted, UserError
from detr.evaluation.examples import Boxes, Example, Segments
from detr.evaluation.results import Results
from detr.evaluation.validation import Outcome
from detr.tracking import wandb_artifacts, wandb_signals
from detr.tracking.logger import Logger, NullLogger
from detr.tracking.record import RunRecord
from detr.tracking.status import read_status, update_status
from detr.tracking.wandb_logger import WandbLogger

CONFIG = {"optimizer": {"lr": 1e-4, "lr_by_pattern": {"backbone": 1e-5}}, "seed": 42, "resume": None}
RECORD = RunRecord(
    choices={"dataset": "shapes", "backbone": "resnet50", "logger": "wandb", "experiment": "quickstart"},
    overrides=["optimizer.lr=0.0001", "logger.mode=offline"],
    git="abc-dirty",
    parameters={"total": 41_000_000, "trainable": 40_000_000},
)


pytestmark = pytest.mark.usefixtures("wandb_at_home")


def start(directory: Path, run_id: str | None = None, **options: Any) -> WandbLogger:
    logger = WandbLogger(project="tests", mode="offline", **options)
    logger.start(directory=directory, config=CONFIG, run_name="quickstart", record=RECORD, run_id=run_id)
    return logger


def parts(logger: WandbLogger) -> list[Path]:
    """The folders that `wandb sync` is to be given."""
    words = shlex.split(logger.place or "")
    assert words[:2] == ["wandb", "sync"]
    return [Path(word) for word in words[2:]]


def read(logger: WandbLogger) -> RecordedRun:
    """The latest part."""
    import wandb

    wandb.teardown()
    return read_run(parts(logger)[-1])


def example(side: int = 64) -> Example:
    return Example(
        image=Image.new("RGB", (2 * side, side), (90, 120, 150)),
        truth=Boxes([(0.0, 0.0, float(side), side / 2)], [1]),
        predicted=Boxes([(0.0, 0.0, float(side), side / 2), (0.0, 0.0, 5.0, 5.0)], [1, 0], [0.75, 0.001]),
        names=("disc", "square"),
        caption="one.png",
    )


def evaluated(*examples: Example) -> Outcome:
    nothing: Any = None
    return Outcome(Results(), nothing, examples=list(examples))


def test_a_run_reads_back_as_it_was_logged(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    with start(tmp_path, tags=["mine"], images=1, tables="never", notes="a try", entity="us") as logger:
        logger.log_step({"train/loss": 3.5}, step=10)
        logger.log_epoch({"train/loss": 3.0, "val/AP": 0.25}, epoch=1, step=20)
        logger.log_outcome(evaluated(example(), example()), 1, best=True)
        logger.log_best({"val/AP": 0.25, "epoch": 1})
        logger.log_epoch({"train/loss": 2.5, "val/AP": 0.125}, epoch=2, step=40)
        logger.log_checkpoint(checkpoint)
    recorded = read(logger)
    (directory,) = parts(logger)

    assert directory.parent == tmp_path / "wandb"
    assert (recorded.run.project, recorded.run.entity, recorded.run.run_group, recorded.run.run_id) == (
        "tests",
        "us",
        "quickstart",
        logger.run_id,
    )
    assert recorded.run.notes == "a try"
    assert read_status(tmp_path).wandb_id == logger.run_id
    assert recorded.run.display_name == "quickstart lr=0.0001"
    assert list(recorded.run.tags) == ["mine", "quickstart", "shapes", "resnet50"]
    assert {key: recorded.config[key] for key in CONFIG} == CONFIG
    assert recorded.config["setting"] == "optimizer.lr=0.0001"
    assert recorded.config["choices/backbone"] == "resnet50"
    assert recorded.config["info"] == {name: value for name, value in RECORD.to_dict().items() if name != "choices"}

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
    (artifact,) = (each for each in recorded.artifacts if each.type == "model")
    assert (artifact.type, artifact.name) == ("model", f"model-{logger.run_id}")
    assert [entry.local_path for entry in artifact.manifest.contents] == [str(checkpoint)]


def check_images(row: dict[str, Any], directory: Path) -> None:
    logged = row["images/predictions"]
    assert logged["count"] == 1, "no more than were asked for"
    assert row["epoch"] == 1
    (file,) = (directory / "files" / "media" / "images" / "images").glob("predictions*.jpg")
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
    with start(tmp_path, tables="never") as logger:
        logger.log_outcome(evaluated(empty, example()), 1, best=True)
        logger.log_outcome(evaluated(), 2, best=False)
    (row,) = read(logger).history
    assert row["images/predictions"]["count"] == 2


def test_disabled_does_nothing_and_does_not_mind(tmp_path: Path) -> None:
    logger = WandbLogger(project="tests", mode="disabled")
    logger.start(directory=tmp_path, config=CONFIG, run_name="quickstart", record=RECORD)
    with logger:
        logger.log_step({"train/loss": 3.5}, step=10)
        logger.log_outcome(evaluated(example()), 1, best=True)
        logger.log_best({"val/AP": 0.1})
        logger.log_evaluation({"AP": 0.1}, "test")
    assert logger.place is None
    assert not (tmp_path / "status.json").exists()
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
        logger.log_outcome(evaluated(example()), 1, best=True)
        logger.log_best({})
        logger.log_summary({})
        logger.log_evaluation({}, "test")
        logger.log_checkpoint(tmp_path)
        assert not logger.interrupt(signal.SIGTERM)
    assert (logger.run_id, logger.place) == (None, None)
    assert not list(tmp_path.iterdir())


def test_segments_are_logged_as_masks_of_classes(tmp_path: Path) -> None:
    true, found = np.zeros((64, 128), dtype=np.int32), np.ones((64, 128), dtype=np.int32)
    true[:32, :10] = 2
    segments = (Segments(true, [0, 1]), Segments(found, [0]))
    with start(tmp_path, tables="never") as logger:
        logger.log_outcome(evaluated(replace(example(), segments=segments)), 1, best=True)
    (row,) = read(logger).history
    (masks,) = row["images/predictions"]["all_masks"]
    (directory,) = parts(logger)
    pixels = {kind: np.asarray(Image.open(directory / "files" / masks[kind]["path"])) for kind in masks}
    assert set(np.unique(pixels["true_segments"])) == {0, 2}  # void, square
    assert (pixels["true_segments"] == 2).sum() == 320
    assert (pixels["segments"] == 1).all()  # disc


def test_the_logs_tab_has_what_the_run_says(tmp_path: Path) -> None:
    logger = start(tmp_path)
    said = logging.getLogger("detr.somewhere")
    said.setLevel(logging.INFO)
    with pytest.raises(UserError), logger:  # noqa: PT012
        said.info("epoch 1: all is well")
        raise UserError("expected a number, got none")
    said.info("after the end")
    recorded = read(logger)
    assert "epoch 1: all is well" in recorded.logs
    assert "expected a number, got none" in recorded.logs, "the reason of a failure is told when the run is over"
    assert "after the end" not in recorded.logs
    assert recorded.exit_code == 1


def test_a_run_that_was_killed_before_its_first_checkpoint_is_taken_up(tmp_path: Path) -> None:
    update_status(tmp_path, status="running")
    first = start(tmp_path)
    first.log_step({"train/loss": 3.5}, step=10)
    first.finish(exit_code=1)
    (part,) = parts(first)
    part.rename(part.with_name(part.name.replace("offline-run-20", "offline-run-19")))  # or both are of one second
    second = start(tmp_path)
    second.finish()
    assert second.run_id == first.run_id == read_status(tmp_path).wandb_id
    assert read_status(tmp_path).status == "running"
    assert len(parts(second)) == 2, "all parts are to be uploaded"
    recorded = read(second)
    assert (recorded.run.run_id, recorded.exit_code) == (first.run_id, 0)


def test_own_code_config_and_data_are_artifacts(tmp_path: Path) -> None:
    for name in (".hydra/config.yaml", "code/mylab/backbone.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("content")
    data = {"train": Fingerprint(40, 90, "abc"), "val": Fingerprint(12, 30, "def")}
    config = {"dataset": {"root": "${paths.data_root}/birds"}, "paths": {"data_root": str(tmp_path)}}
    with WandbLogger(tables="never") as logger:
        logger.start(directory=tmp_path, config=config, run_name="x", record=replace(RECORD, data=data))
    code, dataset = read(logger).artifacts
    assert (code.type, code.name, code.use_after_commit) == ("code", f"code-{logger.run_id}", False)
    assert sorted(entry.path for entry in code.manifest.contents) == [".hydra/config.yaml", "code/mylab/backbone.py"]
    assert (dataset.type, dataset.name, dataset.use_after_commit) == ("dataset", "shapes-birds", True)
    assert {entry.path: (entry.digest, entry.ref, entry.local_path) for entry in dataset.manifest.contents} == {
        split: (data[split].digest, f"{(tmp_path / 'birds').as_uri()}#{split}", "") for split in data
    }
    assert json.loads(dataset.metadata)["splits"]["train"] == {"images": 40, "objects": 90, "digest": "abc"}


def test_the_same_data_elsewhere_is_the_same_version(tmp_path: Path) -> None:
    digests = []
    for root, digest in (("a/birds", "abc"), ("b/birds", "abc"), ("a/birds", "changed")):
        record = replace(RECORD, data={"train": Fingerprint(1, 1, digest)})
        artifact = wandb_artifacts.data({"dataset": {"root": str(tmp_path / root)}}, record, "custom")
        assert artifact is not None
        digests.append((artifact.name, artifact.manifest.digest()))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("tables", "epochs"), [("end", [2]), ("epoch", [1, 2, 3]), ("never", [])])
def test_tables_come_when_they_are_wanted(tmp_path: Path, tables: Any, epochs: list[int]) -> None:
    results = [outcome(tmp_path / "data", right=right) for right in (6, 10, 8)]
    with start(tmp_path / "run", tables=tables) as logger:
        for epoch, result in enumerate(results, start=1):
            logger.log_outcome(result, epoch, best=epoch < 3)
    rows = [row for row in read(logger).history if "tables/classes" in row]
    assert [row["epoch"] for row in rows] == epochs


def test_tables_say_what_the_evaluation_found(tmp_path: Path) -> None:
    result = outcome(tmp_path / "data", right=9)
    with start(tmp_path / "run", images=2) as logger:
        logger.log_outcome(result, 1, best=True)
    recorded = read(logger)
    (directory,) = parts(logger)
    (row,) = (row for row in recorded.history if "tables/classes" in row)

    def table(key: str) -> list[list[Any]]:
        return json.loads((directory / "files" / row[key]["path"]).read_text())["data"]

    assert result.evaluation is not None
    classes = {cells[0]: cells[1:] for cells in table("tables/classes")}
    assert classes["cat"][0] == pytest.approx(result.evaluation.per_class["cat"])
    assert (classes["cat"][-1], classes["dog"][-1]) == (12, 6)
    assert classes["cat"][3] == pytest.approx(9 / 12), "recall"
    curves = table("Custom Chart Tables/tables/precision_recall_table")
    assert {cells[1] for cells in curves} == {"mean", "cat", "dog"}
    at = {(cells[1], round(cells[0], 2)): cells[2] for cells in curves}
    assert (at["cat", 0.5], at["cat", 0.9], at["mean", 0.9]) == (1.0, 0.0, 0.0)
    counts = {tuple(cells[:2]): cells[2] for cells in table("Custom Chart Tables/tables/confusion_table")}
    assert counts["cat", "cat"] == 9
    assert counts["dog", "(no box)"] == counts["(no object)", "dog"] == 2
    assert counts["cat", "dog"] == 0
    (worst,) = (each["images/worst"] for each in recorded.history if "images/worst" in each)
    assert (worst["count"], row["epoch"]) == (2, 1)
    assert worst["captions"][0] == "09.jpg: 2 missed, 2 false"
    kinds = recorded.config["_wandb"]["visualize"]
    assert kinds["tables/confusion"]["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"


def test_what_does_not_exist_is_an_empty_cell(tmp_path: Path) -> None:
    """In the first image there is no dog."""
    result = outcome(tmp_path / "data", right=1, number=1)
    assert result.evaluation is not None
    assert result.evaluation.per_class["dog"] == -1
    with start(tmp_path / "run") as logger:
        logger.log_outcome(result, 1, best=True)
    (row,) = (row for row in read(logger).history if "tables/classes" in row)
    (directory,) = parts(logger)
    for key in ("tables/classes", "Custom Chart Tables/tables/precision_recall_table"):
        text = (directory / "files" / row[key]["path"]).read_text()
        assert "-1" not in text
        assert "NaN" not in text
    table = json.loads((directory / "files" / row["tables/classes"]["path"]).read_text())
    assert table["data"][1] == ["dog", None, None, None, None, 0]


def test_the_first_images_of_a_training_are_shown_once(tmp_path: Path) -> None:
    dataset = images(tmp_path / "data")
    loader = train_loader(dataset, batch_size=2, num_workers=0, seed=1)
    with start(tmp_path / "one", images=3) as logger:
        logger.log_samples(loader)
    (row,) = read(logger).history
    first, second, *_ = iter(loader)
    assert row["images/training"]["captions"] == [Path(file).name for file in [*first.files, *second.files][:3]]
    with start(tmp_path / "two", run_id=logger.run_id) as logger:
        logger.log_samples(loader)
    assert read(logger).history == []


@pytest.mark.parametrize(
    ("number", "preempted"), [(signal.SIGTERM, True), (signal.SIGUSR1, True), (signal.SIGINT, False)]
)
def test_a_signal_preempts_but_ctrl_c_ends(tmp_path: Path, number: signal.Signals, preempted: bool) -> None:
    logger = start(tmp_path)
    with pytest.raises(Interrupted), logger:
        raise Interrupted(number)
    recorded = read(logger)
    assert (recorded.preempting, recorded.exit_code) == (preempted, 1)


def test_a_training_goes_on_when_the_process_of_wandb_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A scheduler's SIGTERM goes to all processes of a job, and that one ends at once."""
    with start(tmp_path) as logger:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        (core,) = (int(child) for child in children if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text())
        os.kill(core, signal.SIGTERM)
        while Path(f"/proc/{core}/stat").read_text().split()[2] != "Z":
            time.sleep(0.05)
        for step in range(20):
            logger.log_step({"train/loss": 3.5}, step=step)
        logger.log_best({"val/AP": 0.5})
    warnings = [each.message for each in caplog.records if each.name == "detr.tracking.wandb_logger"]
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B hears no more of this run: ")
    assert "the logger did not end the run" in caplog.text


def test_a_run_that_wandb_ended_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued again it would be ended again, for ever. What the server says is stood in for."""
    logger = start(tmp_path)
    logger._mode = "online"
    monkeypatch.setattr(wandb_signals, "stop_requested", lambda run: True)
    with logger:
        raise Interrupted(signal.SIGTERM)
    recorded = read(logger)
    assert (recorded.preempting, recorded.exit_code) == (False, 0)


def test_both_loggers_take_the_same_calls() -> None:
    assert Logger.__abstractmethods__ <= vars(NullLogger).keys()
    assert Logger.__abstractmethods__ <= vars(WandbLogger).keys()
