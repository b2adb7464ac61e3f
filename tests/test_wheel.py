"""The wheel in an environment of its own, away from any checkout: it has all that it needs to train and evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from command import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's programs: the wheel is installed in it, what the wheel needs is borrowed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


def detr(commands: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [commands / "detr", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done


def test_it_trains_and_evaluates_in_an_empty_folder(commands: Path, tmp_path: Path) -> None:
    detr(commands, tmp_path, "train", "dataset=shapes", "trainer.max_steps=2", "hydra.run.dir=run")
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
    detr(commands, tmp_path, "evaluate", "checkpoint=run/checkpoints/best.pt", "hydra.run.dir=again")
    assert (tmp_path / "again" / "metrics.json").is_file()


def test_configs_and_sweeps_are_those_of_the_wheel(commands: Path, tmp_path: Path) -> None:
    python = [commands / "python", "-c", "from detr.config.compose import CONF; print(CONF)"]
    place = subprocess.run(python, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(place).is_relative_to(commands.parent)
    assert "deformable" in detr(commands, tmp_path, "options", "transformer").stdout
    shown = detr(commands, tmp_path, "train", "-cd", "sweeps", "-cn", "ingredients", "--cfg", "job")
    assert "max_minutes: 1.5" in shown.stdout
