"""Sweeps as a user meets them: real processes, one of which is killed, and what they leave behind."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest
from command import TINY, Started, run
from torchrun import own_errors, torchrun
from wandb_file import RecordedRun, read_run

from detr.sweeping.plan import Plan
from detr.tracking.run_folder import RunFolder
from detr.tracking.status import read_status

VARIED = ("logger", "transformer.d_model", "transformer.num_heads")
TINY_SWEEP = [each for each in TINY if not each.startswith(VARIED)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"dataset.root={tmp_path_factory.mktemp('data') / 'shapes'}"


GRID = ["transformer.d_model=32,64", "transformer.num_heads=4,64"]  # 64 heads of 32 channels cannot be
FAILED = 1  # the job of these two


def sweep(folder: Path, data: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", *TINY_SWEEP, data, "trainer.max_epochs=1", *overrides, f"hydra.sweep.dir={folder}"]
    return run("train.py", *arguments, timeout=900)  # a minute, where nothing else is going on


@pytest.fixture(scope="module")
def swept(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """2 × 2 jobs, of which one fails: the folder, and the process that has ended."""
    folder = tmp_path_factory.mktemp("sweeps") / "heads"
    return folder, sweep(folder, data, *GRID)


def test_three_results_and_one_failure(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = swept
    states = [read_status(folder / str(number)) for number in range(4)]
    assert [state.status for state in states] == ["finished", "failed", "finished", "finished"]
    assert [len(RunFolder(folder / str(number)).rows()) for number in range(4)] == [1, 0, 1, 1]
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 1 of 4 jobs failed (#1): see ")
    assert "Traceback" not in done.stderr + done.stdout, "a mistake in a value is told in one line"
    log = (folder / "1" / "train.log").read_text()
    assert "Traceback" in log
    assert str(states[FAILED].error) in log


def test_the_table(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = swept
    with open(folder / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["d_model"], row["num_heads"]) for row in rows] == [
        ("32", "4"),
        ("32", "64"),
        ("64", "4"),
        ("64", "64"),
    ]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "finished"]
    for number, row in enumerate(rows):
        epochs = RunFolder(folder / str(number)).rows()
        assert row["AP50"] == (str(epochs[0]["val/AP50"]) if epochs else "")
    document = (folder / "sweep.md").read_text()
    assert document.count("| finished |") == 3
    assert f"log: {folder}/1/train.log" in document
    assert f"log: {folder}/1/train.log" in done.stdout
    assert "│ failed" in done.stdout


def test_nothing_leaks_from_job_to_job(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    for number in (0, 2, 3):
        log = (folder / str(number) / "train.log").read_text()
        assert log.count("epoch 1 ") == 1
        assert [other for other in range(4) if f"{folder}/{other}" in log] == [number]


def test_wandb_has_four_runs_in_one_group(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    runs = [only_run(folder / str(number)) for number in range(4)]
    assert {each.run.run_group for each in runs} == {"train heads"}
    assert {each.run.job_type for each in runs} == {"train"}
    assert len({each.run.run_id for each in runs}) == 4
    assert [each.run.display_name for each in runs] == [
        "quickstart d_model=32 num_heads=4",
        "quickstart d_model=32 num_heads=64",
        "quickstart d_model=64 num_heads=4",
        "quickstart d_model=64 num_heads=64",
    ]
    assert [each.exit_code for each in runs] == [0, 1, 0, 0]
    for number, each in enumerate(runs):
        transformer, (width, heads) = each.config["transformer"], ((32, 32, 64, 64)[number], (4, 64)[number % 2])
        assert each.config["setting"] == f"transformer.d_model={width} transformer.num_heads={heads}"
        assert (transformer["d_model"], transformer["num_heads"]) == (width, heads)
        assert {"train heads", "quickstart", "shapes", "efficientnet_lite0", "distinct"} <= set(each.run.tags)
        if number != FAILED:
            (row,) = RunFolder(folder / str(number)).rows()
            (epoch,) = [logged for logged in each.history if "val/AP" in logged]
            assert (epoch["val/AP50"], epoch["epoch"]) == (row["val/AP50"], 1)
            assert each.axes["val/*"] == "epoch"
            assert each.summary["best/AP50"] == each.summary["val/AP50"] == row["val/AP50"]


def only_run(job: Path) -> RecordedRun:
    (directory,) = (job / "wandb").glob("offline-run-*")
    return read_run(directory)


@pytest.mark.slow
def test_an_evaluation_of_several_checkpoints_is_a_sweep_with_runs_of_its_own(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = swept
    checkpoints = [folder / name / "checkpoints" / "best.pt" for name in "03"]
    values = ",".join(map(str, checkpoints))
    done = run(
        "evaluate.py", "-m", f"checkpoint={values}", "split=test", "logger=wandb", f"hydra.sweep.dir={tmp_path}/e"
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "e" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        metrics = json.loads((tmp_path / "e" / str(number) / "metrics.json").read_text())
        assert (row["checkpoint"], row["AP50"]) == (str(checkpoints[number]), str(metrics["AP50"]))
        training = only_run(checkpoints[number].parents[1])
        parts = [read_run(part) for part in (tmp_path / "e" / str(number) / "wandb").glob("offline-run-*")]
        own, told = sorted(parts, key=lambda part: part.run.job_type)
        assert (own.run.job_type, own.run.run_group) == ("eval", "train heads"), "that of its training"
        assert (told.run.run_id, told.run.display_name) == (training.run.run_id, training.run.display_name)
        assert own.summary["test/AP50"] == told.summary["test/AP50"] == metrics["AP50"]
        assert own.config["setting"] == training.config["setting"]


@pytest.mark.slow
def test_started_again_it_does_what_is_left(swept: tuple[Path, subprocess.CompletedProcess[str]], data: str) -> None:
    folder, _ = swept
    before = {number: (folder / str(number) / "train.log").read_text() for number in range(4)}
    again = sweep(folder, data, *GRID)
    assert again.returncode == 2
    assert "of 4 jobs 3 finished already, 1 begun, 0 new" in again.stdout
    after = {number: (folder / str(number) / "train.log").read_text() for number in range(4)}
    assert [number for number in range(4) if before[number] != after[number]] == [FAILED]
    more = sweep(folder, data, "transformer.d_model=32", "transformer.num_heads=4,8")
    assert "of 2 jobs 1 finished already, 0 begun, 1 new" in more.stdout
    assert [job.folder for job in plan(folder).jobs] == ["0", "1", "2", "3", "4"]
    assert read_status(folder / "4").status == "finished"
    assert "#1" in (folder / "sweep.md").read_text(), "the table is of all jobs of the folder"


def plan(folder: Path) -> Plan:
    found = Plan.read(folder)
    assert found is not None
    return found


SEARCH = ["logger=none", "transformer.d_model=32", "transformer.num_heads=4", "trainer.max_epochs=1"]
SEARCH += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]


@pytest.mark.slow
def test_a_search_that_is_killed_runs_the_remaining_trials_only(data: str, tmp_path: Path) -> None:
    import optuna

    folder = tmp_path / "search"
    arguments = ["-m", *TINY_SWEEP, data, *SEARCH, f"hydra.sweep.dir={folder}"]
    started = Started("train.py", *arguments)
    started.wait_for(lambda: read_status(folder / "1").status == "running")  # one is done, the second is under way
    started.kill()
    begun = plan(folder).jobs
    logs = [(folder / str(number) / "train.log").read_text() for number in range(1)]
    assert [read_status(folder / str(number)).status for number in range(2)] == ["finished", "running"]

    done = run("train.py", *arguments, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "of 3 trials 1 done already, 1 begun" in done.stdout
    assert done.stdout.count("HYDRA] job ") == 2, "the second again, and the third"
    assert [(folder / str(number) / "train.log").read_text() for number in range(1)] == logs
    jobs = plan(folder).jobs
    assert jobs[:2] == begun
    assert len({job.overrides for job in jobs}) == len(jobs) == 3
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        (row,) = RunFolder(folder / str(trial.number)).rows()
        assert trial.value == row["val/AP"]
    assert (folder / "sweep.md").read_text().count("| finished |") == 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.lrr=1,2"], "optimizer.lrr: there is no such key; did you mean optimizer.lr?"),
        (["seed=1,abc"], "seed: expected an integer, got 'abc'"),
        (["backbone=resnet18,resnt50"], "did you mean resnet50?"),
        (["optimizer.lr=interval(1,2)"], "hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna", "optimizer.lrr=interval(1,2)"], "did you mean optimizer.lr?"),
        (["hydra/sweeper=optuna", "transformer.d_model=interval(8,64)"], "transformer.d_model: expected an integer"),
        (["hydra/sweeper=optuna", "seed=1"], "nothing to search"),
        (["hydra/sweeper=optuna", "seed=1,2", "hydra.sweeper.n_trial=3"], "did you mean hydra.sweeper.n_trials?"),
    ],
)
def test_mistakes_are_told_before_the_first_job(overrides: list[str], expected: str, tmp_path: Path) -> None:
    done = run("train.py", "-m", *overrides, f"paths.output_root={tmp_path}/outputs")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert not list(tmp_path.rglob("*")), "nothing was begun"


@pytest.mark.slow
def test_a_search_under_torchrun_is_refused(tmp_path: Path) -> None:
    done = torchrun("train.py", "-m", "hydra/sweeper=optuna", "seed=1,2", f"paths.output_root={tmp_path}/outputs")
    assert done.returncode != 0
    (line,) = own_errors(done)
    assert "hydra/launcher=joblib" in line
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.slow
def test_a_metric_that_the_validation_does_not_have(data: str, tmp_path: Path) -> None:
    done = sweep(tmp_path / "search", data, *SEARCH, "hydra.sweeper.n_trials=1", "hydra.sweeper.metric=AP5O")
    assert done.returncode == 2
    assert "the validation has no AP5O; it has AP, AP50" in done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "search" / "0" / "status.json").read_text())["status"] == "finished"
