"""Runs beside other processes: two in one folder, a busy machine, a reader that goes away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, TINY, Started, only_error, run, run_cold

from detr.files import locked


def step(folder: Path) -> list[str]:
    return [*TINY, "trainer.max_steps=1", f"dataset.root={folder.parent / 'shapes'}", f"hydra.run.dir={folder}"]


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with locked(folder, "training"):
        line = only_error(run("train.py", *step(folder)))
        assert f"{folder}: another training is under way in this folder" in line
        assert [path.name for path in folder.iterdir() if path.stat().st_size] == []
    done = run("train.py", *step(folder))
    assert done.returncode == 0, done.stderr
    before = contents(folder)
    line = only_error(run("train.py", *step(folder), "optimizer.lr=5"))
    assert f"{folder} holds a run already" in line
    assert contents(folder) == before
    refused = run("train.py", *step(folder), "transformer.num_heads=8", "resume=auto")
    assert "transformer.num_heads is 4 in it and 8 here" in only_error(refused)
    assert contents(folder) | {"train.log": b""} == before | {"train.log": b""}  # the log tells of it
    before = contents(folder)
    evaluation = run("evaluate.py", f"checkpoint={folder}/checkpoints/last.pt", f"hydra.run.dir={folder}")
    assert f"{folder} holds a run already" in only_error(evaluation)
    assert contents(folder) | {"evaluate.log": b""} == before | {"evaluate.log": b""}  # empty, as Hydra opens it


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_sweep_in_a_folder_is_refused(tmp_path: Path) -> None:
    words = ["-m", *step(tmp_path / "run")[:-1], "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep"]
    with locked(tmp_path / "sweep", "sweep"):
        assert "another sweep is under way in this folder" in only_error(run("train.py", *words))
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]


def test_a_killed_training_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*step(folder), "trainer.max_steps=1000", "trainer.checkpoint_every_steps=1"]
    training = Started("train.py", *words)
    training.wait_for(lambda: any(folder.glob("checkpoints/step_*.pt")))
    training.kill()
    with locked(folder, "training"):
        pass


@pytest.mark.slow
def test_a_training_whose_reader_goes_away_ends_well(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *step(tmp_path / "run"), "trainer.log_every=1"]
    training = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert training.stdout is not None
    assert training.stderr is not None
    training.stdout.close()  # as `| head` does
    said = training.stderr.read()
    assert training.wait(120) == 0, said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["step"] == 1


SPIN = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1000", "1", None, "4096"]),
        ({"GOMP_SPINCOUNT": "0"}, ["0", "1", None, "4096"]),
        ({"OMP_WAIT_POLICY": "active", KERNELS: "10"}, [None, None, "active", "10"]),
    ],
)
def test_threads_spin_little_and_kernels_are_kept_unless_told(
    given: dict[str, str], expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SPIN, KERNELS):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = run_cold(
        "-c", f"import detr, json, os; print(json.dumps([os.environ.get(name) for name in {(*SPIN, KERNELS)}]))"
    )
    assert json.loads(done.stdout) == expected
