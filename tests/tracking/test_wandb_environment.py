"""W&B's environment variables and limits: what each does, and that a line says where one is set aside."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import TINY, only_error, run
from wandb_file import RecordedRun, read_run

from detr.config import check, compose
from detr.errors import UserError
from detr.tracking.record import RunRecord
from detr.tracking.status import read_status
from detr.tracking.wandb_logger import WandbLogger
from detr.tracking.wandb_report import read_study

pytestmark = pytest.mark.usefixtures("wandb_at_home")

RECORD = RunRecord(choices={"experiment": "quickstart"}, overrides=["seed=1"])
JOB = replace(RECORD, sweep={"name": "train seeds", "differs": ["seed=1"]})
VARIABLES = {
    "WANDB_RUN_ID": "fixed",
    "WANDB_RESUME": "must",
    "WANDB_NAME": "one name",
    "WANDB_SWEEP_ID": "s1",
    "WANDB_RUN_GROUP": "theirs",
    "WANDB_PROJECT": "elsewhere",
    "WANDB_TAGS": "x,y",
}


def logged(folder: Path, record: RunRecord, run_id: str | None = None, **options: Any) -> RecordedRun:
    import wandb

    kind = "train" if record.checkpoint is None else "eval"
    logger = WandbLogger(**options)
    logger.start(
        directory=folder,
        config={},
        run_name="quickstart",
        record=record,
        run_id=run_id,
        job_type=kind,  # type: ignore[arg-type]
    )
    logger.finish()
    wandb.teardown()
    return read_run(sorted(folder.glob(f"wandb/offline-run-*-{logger.run_id}"))[-1])


def aside(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {each.getMessage().partition("=")[0] for each in caplog.records if "is set aside" in each.getMessage()}


@pytest.mark.parametrize("variables", [VARIABLES, {"WANDB_RUN_ID": "fixed"}, {"WANDB_NAME": "one name"}])
def test_jobs_of_a_sweep_are_runs_of_their_own(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    jobs = [logged(tmp_path / str(number), JOB).run for number in range(2)]
    ids = [each.run_id for each in jobs]
    assert len({*ids, "fixed"}) == 3
    assert [each.display_name for each in jobs] == ["quickstart seed=1"] * 2
    assert {each.sweep_id for each in jobs} == {""}
    assert {each.run_group for each in jobs} == {variables.get("WANDB_RUN_GROUP", "train seeds")}
    assert aside(caplog) == variables.keys() & {"WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_SWEEP_ID"}
    caplog.clear()
    again = logged(tmp_path / "0", JOB).run
    assert again.run_id == ids[0], "a job that is started again goes on under its own id"


def test_a_single_run_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUN_ID", "NAME", "RUN_GROUP", "PROJECT", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", VARIABLES[f"WANDB_{name}"])
    found = logged(tmp_path / "a", RECORD).run
    assert (found.run_id, found.display_name, found.run_group) == ("fixed", "one name", "theirs")
    assert (found.project, list(found.tags)) == ("elsewhere", ["quickstart", "x", "y"])
    assert read_status(tmp_path / "a").wandb_group == "theirs"
    own = logged(tmp_path / "b", RECORD, name="mine", group="ours", project="here", tags=["t"]).run
    assert (own.display_name, own.run_group, own.project) == ("mine", "ours", "here"), "the command line wins"
    assert list(own.tags) == ["t", "quickstart", "x", "y"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WANDB_RUN_ID": "fixed"}, {"WANDB_RUN_ID"}),
        ({"WANDB_RUN_ID": "before", "WANDB_RESUME": "never"}, {"WANDB_RESUME"}),
        ({"WANDB_RUN_ID": "before"}, set()),
    ],
)
def test_a_run_that_goes_on_has_the_id_of_its_checkpoint(
    variables: dict[str, str],
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert logged(tmp_path, RECORD, "before").run.run_id == "before"
    assert aside(caplog) == expected


def test_an_evaluation_does_not_write_over_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "training")
    record = replace(RECORD, checkpoint={"wandb_id": "training", "path": "best.pt"}, split="test")
    assert logged(tmp_path, record).run.run_id not in ("training", "")
    assert aside(caplog) == {"WANDB_RUN_ID"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PROJECT", "a/b"),
        ("NAME", "n" * 129),
        ("RUN_GROUP", "g" * 129),
        ("TAGS", f"fine,{'t' * 65}"),
        ("RUN_ID", "a:b"),
    ],
)
def test_what_wandb_does_not_take_of_the_environment(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"WANDB_{variable}", value)
    with pytest.raises(UserError) as caught:
        logged(tmp_path, RECORD)
    assert "login" not in str(caught.value)
    assert "WANDB_" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("logger.project=a/b", ["logger.project: expected a name", "/ \\ # ? % :", "'a/b'"]),
        (f"logger.project={'p' * 129}", ["logger.project: expected a name of at most 128 characters"]),
        ('logger.project="a:b"', ["logger.project"]),
        ("logger.entity=us/detr", ["logger.entity: expected a name"]),
        (f"logger.name={'n' * 129}", ["logger.name: expected a name of 1 to 128 characters"]),
        (f"logger.group={'g' * 129}", ["logger.group: expected a name of 1 to 128 characters"]),
        (f"logger.tags=[fine,{'t' * 65}]", ["logger.tags[1]: expected a tag of 1 to 64 characters"]),
        ("logger.tags=['']", ["logger.tags[0]: expected a tag"]),
    ],
)
def test_names_that_wandb_does_not_take_are_refused_with_the_config(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check(compose([override]))
    for word in words:
        assert word in str(caught.value)
    assert "login" not in str(caught.value)


@pytest.mark.parametrize("override", [f"logger.name={'n' * 128}", "logger.project=a.b-c_d", "logger.tags=[a b,c/d]"])
def test_names_that_it_takes(override: str) -> None:
    check(compose([override]))


def test_a_sweep_is_refused_before_its_first_job(tmp_path: Path) -> None:
    line = only_error(run("train.py", "-m", "seed=1,2", "logger.project=a/b", f"hydra.sweep.dir={tmp_path}/S"))
    assert "logger.project: expected a name" in line
    assert not (tmp_path / "S").exists()


@pytest.mark.slow
def test_a_sweep_with_an_id_in_the_environment(tmp_path: Path) -> None:
    data = [f"dataset.root={tmp_path / 'data'}", "+dataset.counts={train: 8, val: 4, test: 4}", "trainer.max_steps=1"]
    tiny = [each for each in TINY if not each.startswith(("logger", "+dataset.counts"))]
    variables = {name: VARIABLES[name] for name in ("WANDB_RUN_ID", "WANDB_NAME")} | {"WANDB_MODE": "offline"}
    words = ["train.py", "-m", *tiny, *data, "seed=1,2", f"hydra.sweep.dir={tmp_path}/S"]
    done = run(*words, variables=variables)
    assert done.returncode == 0, done.stderr
    ids = [read_status(tmp_path / "S" / job).wandb_id for job in "01"]
    assert len({*ids, "fixed", None}) == 4
    assert "WANDB_RUN_ID=fixed is set aside" in (tmp_path / "S" / "1" / "train.log").read_text()
    assert read_study(tmp_path / "S").groups == ["train S"]


def test_a_run_does_not_import_what_launches_jobs(tmp_path: Path) -> None:
    """In a process of its own, since others may have imported it here. wandb is afterwards what it was."""
    code = """
import sys
import wandb
from wandb.sdk.wandb_run import Run
from detr.tracking.wandb_environment import without_launch
before = Run._detect_and_apply_job_inputs
with without_launch():
    run = wandb.init(dir=sys.argv[1], mode="offline", settings=wandb.Settings(silent=True, console="off"))
assert "wandb.sdk.launch" not in sys.modules and Run._detect_and_apply_job_inputs is before
run.log({"a": 1})
run.finish()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
