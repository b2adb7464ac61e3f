"""Sweeps whose jobs run in other processes, by joblib and by submitit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import joblib
import pytest
from command import TINY, run_cold

from detr.tracking.run_folder import RunFolder
from detr.tracking.status import read_status

pytestmark = pytest.mark.slow

TINY_SWEEP = [each for each in TINY if not each.startswith("transformer.num_heads")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An override; the data set has been generated, which two jobs would do at once."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    from detr.data.shapes.dataset import generate

    generate(root, {"train": 40, "val": 12, "test": 12})
    return f"dataset.root={root}"


def sweep(folder: Path, data: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", *TINY_SWEEP, data, "trainer.max_epochs=1", *overrides, f"hydra.sweep.dir={folder}"]
    return run_cold("train.py", *arguments, timeout=900)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_two_jobs_of_which_one_fails(launcher: str, data: str, tmp_path: Path) -> None:
    done = sweep(tmp_path, data, f"hydra/launcher={launcher}", "transformer.num_heads=4,64")
    assert done.returncode == 2
    assert "error: 1 of 2 jobs failed (#1)" in done.stderr.splitlines()[-1]
    assert [read_status(tmp_path / name).status for name in "01"] == ["finished", "failed"]
    assert len(RunFolder(tmp_path / "0").rows()) == 1
    assert "Traceback" in (tmp_path / "1" / "train.log").read_text()
    assert (tmp_path / "sweep.md").read_text().count("| finished |") == 1
    if launcher == "joblib":  # submitit's jobs have files of their own
        lines = done.stdout.splitlines()
        own = [line for line in lines if " detr.training" in line or " detr.tracking" in line or " detr.run" in line]
        assert own
        assert all(line.startswith(("#0 transformer.num_heads=4  ", "#1 transformer.num_heads=64  ")) for line in own)
        assert sum("└" in line for line in lines) == 1, "the table of the sweep, and no other"

    again = sweep(tmp_path, data, f"hydra/launcher={launcher}", "transformer.num_heads=4,8,64")
    assert "of 3 jobs 1 finished already, 1 begun, 1 new" in again.stdout
    assert [read_status(tmp_path / name).status for name in "012"] == ["finished", "failed", "finished"]
    assert len(RunFolder(tmp_path / "0").rows()) == 1


def test_joblib_gives_each_worker_a_gpu_and_its_share_of_the_cores(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    done = sweep(tmp_path, data, "trainer.device=cpu", "hydra/launcher=joblib", "transformer.num_heads=4,8")
    assert done.returncode == 0, done.stderr
    logs = [(tmp_path / name / "train.log").read_text() for name in "01"]
    assert {gpu for gpu in "56" for log in logs if f"GPU {gpu}, " in log} == {"5", "6"}
    share = max(1, joblib.cpu_count() // 2)
    assert all(f"OMP_NUM_THREADS={share}\n" in log for log in logs)


def test_a_search_with_joblib(data: str, tmp_path: Path) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
    done = sweep(tmp_path, data, *search, "transformer.num_heads=4", "hydra/launcher=joblib")
    assert done.returncode == 0, done.stderr
    assert [read_status(tmp_path / name).status for name in "012"] == ["finished"] * 3


def test_a_worker_that_is_killed_is_a_failed_job(data: str, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "from detr.entry import entry_point\n"
        "@entry_point('train')\n"
        "def main(config):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "main()\n"
    )
    folder = tmp_path / "sweep"
    done = run_cold(str(script), "-m", "seed=1,2", "hydra/launcher=joblib", f"hydra.sweep.dir={folder}", timeout=900)
    assert done.returncode == 2
    assert "2 of 2 jobs failed" in done.stderr.splitlines()[-1]
    assert str(read_status(folder / "0").error).startswith("ended without a message")
