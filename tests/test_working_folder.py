"""Relative paths begin where a command was given, whatever Hydra makes of its folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, only_error, run

from detr.tracking.status import read_status

SCRIPT = """
import os
from pathlib import Path
from detr.entry import entry_point
@entry_point('train')
def main(config):
    print('in', os.getcwd(), Path(config.values['dataset']['root']).exists(), Path(config.values['resume']).exists())
main()
"""


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["hydra.job.chdir=true"],
        ["hydra.job.chdir=true", "hydra.run.dir=some/where", "--config-dir=own", "experiment=quickstart"],
        ["-m", "seed=1,2", "hydra.job.chdir=true", "hydra.sweep.dir=S"],
        ["-m", "seed=1,2", "hydra.job.chdir=true", "hydra.sweep.dir=S", "hydra.output_subdir=null"],
    ],
)
def test_chdir_changes_no_path(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    for name in ("data", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "last.pt").touch()
    done = run("own.py", *flags, "dataset.root=data", "resume=last.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    jobs = 2 if "-m" in flags else 1
    assert done.stdout.count(f"in {tmp_path} True True\n") == jobs
    assert done.stdout.count(f"hydra.job.chdir=true does nothing here: relative paths begin in {tmp_path}") == (
        jobs if "hydra.job.chdir=true" in flags else 0
    )


@pytest.mark.parametrize("key", ["resume", "init_from"])
def test_what_is_missing_is_missing_with_chdir_too(key: str, tmp_path: Path) -> None:
    places = [f"paths.output_root={tmp_path}/outputs", f"paths.data_root={tmp_path}/data"]
    assert "gone.pt" in only_error(run("train.py", *TINY, *places, "hydra.job.chdir=true", f"{key}=gone.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["null", "cfg", ".hydra"])
def test_a_sweep_needs_no_folder_of_hydras(folder: str, tmp_path: Path) -> None:
    data = [f"dataset.root={tmp_path / 'data'}", "+dataset.counts={train: 8, val: 4, test: 4}", "trainer.max_steps=1"]
    tiny = [each for each in TINY if not each.startswith("+dataset.counts")]
    command = ["train.py", "-m", *tiny, *data, "seed=1,2", f"hydra.output_subdir={folder}"]
    done = run(*command, f"hydra.sweep.dir={tmp_path}/S")
    assert done.returncode == 0, done.stderr
    assert [read_status(tmp_path / "S" / job).status for job in "01"] == ["finished"] * 2
    assert "detr compare" in done.stdout.splitlines()[-1]
