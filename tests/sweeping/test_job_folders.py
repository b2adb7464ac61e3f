"""Every job of a sweep has a folder of its own; a sweep in which two share one is refused before its first job."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from command import only_error, run

from detr.errors import UserError
from detr.sweeping.plan import Job, Plan
from detr.tracking.status import update_status

OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1,2", "hydra.sweep.subdir=lr_${optimizer.lr}"], ["#0 seed=1", "#1 seed=2", "lr_0.001"]),
        (["seed=1,2", "hydra.sweep.subdir=always"], ["#0 seed=1", "#1 seed=2", "in one folder"]),
        (["name=a/../x,x", "hydra.sweep.subdir=${name}"], ["#0 name=a/../x", "#1 name=x", "in one folder"]),
        (["name=a,a/b", "hydra.sweep.subdir=${name}"], ["#0 name=a and", "#1 name=a/b", "one inside the other"]),
        (["seed=1,2", "hydra.sweep.subdir=../${seed}"], ["hydra.sweep.subdir=../1", "no folder below"]),
        (["seed=1,2", "hydra.sweep.subdir=."], ["hydra.sweep.subdir=.", "no folder below"]),
        ([*OPTUNA, "optimizer.lr=interval(1e-4,1e-2)", "hydra.sweep.subdir=s${seed}"], ["trials", "lr=0.0001 and"]),
        ([*OPTUNA, "seed=1,2", "loss=detr,focal", "hydra.sweep.subdir=s${seed}"], ["loss=detr and loss=focal"]),
    ],
)
def test_two_jobs_in_one_folder_are_refused(overrides: list[str], words: list[str], tmp_path: Path) -> None:
    line = only_error(run("train.py", "-m", f"hydra.sweep.dir={tmp_path}/S", *overrides))
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("status.json")), "nothing was begun"
    if "no folder below" not in line:
        (mended,) = shlex.split(line.partition("; give each its own with ")[2])
        assert mended.startswith("hydra.sweep.subdir=")
        assert "${hydra:job.num}" in mended


SCRIPT = """
import os
from detr.entry import entry_point
@entry_point('train')
def main(config):
    print('job', os.path.relpath(config.directory, 'S'), config.values['seed'])
main()
"""


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["seed=1,2", "hydra.sweep.subdir='${seed} of=it'"], {"1 of=it": 1, "2 of=it": 2}),
        (["seed=1,2", "hydra.sweep.subdir=lr_${optimizer.lr}_${hydra:job.num}"], {"lr_0.001_0": 1, "lr_0.001_1": 2}),
        (["seed=1,2", "hydra.sweep.subdir=${hydra:job.override_dirname}/x"], {"seed=1/x": 1, "seed=2/x": 2}),
    ],
)
def test_jobs_apart_run_where_they_should(overrides: list[str], jobs: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    done = run(str(tmp_path / "own.py"), "-m", "hydra.sweep.dir=S", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ran = [line.removeprefix("job ").rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith("job ")]
    assert {folder: int(seed) for folder, seed in ran} == jobs


@pytest.mark.parametrize("folder", ["lr_1", "lr_1/.", "x/../lr_1", "lr_1/deeper"])
def test_a_restart_with_other_jobs_takes_no_folder_of_an_earlier_one(folder: str, tmp_path: Path) -> None:
    Plan(tmp_path, "lr", ["seed"], [Job(0, "lr_1", ("seed=1",))]).write()
    again = Plan.read(tmp_path)
    assert again is not None
    with pytest.raises(UserError, match=r"jobs #0 seed=1 and #1 seed=2 would lie .*; mend it"):
        again.add(Job(1, folder, ("seed=2",)), mend="mend it")


@pytest.mark.parametrize("trace", ["status", "metrics.jsonl", "metrics.json", "checkpoints/last.pt"])
def test_a_folder_with_another_run_is_refused(trace: str, tmp_path: Path) -> None:
    plan = Plan(tmp_path, "lr")
    plan.add(Job(0, "a", ("seed=1",)), mend="")
    if trace == "status":
        update_status(tmp_path / "b", status="finished")
    else:
        (tmp_path / "b" / trace).parent.mkdir(parents=True)
        (tmp_path / "b" / trace).touch()
    with pytest.raises(UserError, match="holds a run that is not of this sweep"):
        plan.add(Job(1, "b", ("seed=2",)), mend="")


@pytest.mark.slow
def test_a_restart_through_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    command = [str(tmp_path / "own.py"), "-m", "hydra.sweep.dir=S", "hydra.sweep.subdir=lr_${optimizer.lr}"]
    assert run(*command, "seed=1", cwd=tmp_path).returncode == 0
    line = only_error(run(*command, "seed=2", cwd=tmp_path))
    assert "#0 seed=1 and #1 seed=2" in line
    assert "job lr_0.001 1" not in run(*command, "seed=1", cwd=tmp_path).stdout, "it is finished"
