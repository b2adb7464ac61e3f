"""The wheel in an environment of its own, away from any checkout: it has all that it needs to train and evaluate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from command import ROOT
from extending import FILES, write_data, write_files

pytestmark = pytest.mark.slow

# The configs of docs/extending.md, each of another kind; but callbacks, which are no option of a group.
OPTIONS = [
    path
    for path in (Path(name).relative_to("conf") for name in FILES if name.startswith("conf/"))
    if len(path.parts) > 1 and path.parts[0] != "callbacks"
]


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


def detr(
    commands: Path, folder: Path, *words: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (variables or {})
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


def test_own_parts_of_every_kind_train_evaluate_resume_sweep_and_compare(commands: Path, tmp_path: Path) -> None:
    """docs/extending.md in an empty folder: fourteen kinds of own parts in one experiment, and a sweep of one's own."""
    write_files(tmp_path)
    write_data(tmp_path)

    def own(*words: str) -> subprocess.CompletedProcess[str]:
        return detr(commands, tmp_path, *words, variables={"PYTHONPATH": "."})

    ours = ["-cd", "conf", "experiment=ours", "dataset=lines", "trainer.max_minutes=null", "trainer.max_steps=8"]
    often = ["trainer.checkpoint_every_steps=3", "trainer.keep_last=9", "trainer.log_every=1"]
    own("train", *ours, *often, "hydra.run.dir=whole")
    chosen = json.loads((tmp_path / "whole" / "run.json").read_text())["choices"]
    assert {f"{path.parent}={path.stem}" for path in OPTIONS} <= {
        f"{group}={option}" for group, option in chosen.items()
    }

    own("train", *ours, *often, "resume=whole/checkpoints/step_00000003.pt", "hydra.run.dir=rest")
    whole, rest = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("whole", "rest")
    )
    assert [name for name, value in whole.items() if not torch.equal(value, rest[name])] == []
    steps = [(tmp_path / name / "steps.csv").read_text().splitlines() for name in ("whole", "rest")]
    assert steps[0][4:] == steps[1][1:]  # below the head, from step 4

    own("evaluate", "checkpoint=whole/checkpoints/best.pt", "split=test", "hydra.run.dir=tested")
    assert {"AP", "counted"} <= json.loads((tmp_path / "tested" / "metrics.json").read_text()).keys()

    few = ["seed=0,1", "trainer.max_steps=2", "trainer.max_minutes=null", "logger=none", "hydra.sweep.dir=sweep"]
    own("train", "-cd", "conf", "-cn", "decoders", "experiment=ours", "dataset=lines", *few)
    own("compare", "sweep", "--metric", "counted", "--json", "compared.json", "--html", "compared.html")
    compared = json.loads((tmp_path / "compared.json").read_text())
    assert compared["differences"]["transformer.decoder._target_"][1] == "mylab.uncertain.UncertainDecoder"
    assert [each["verdict"] for each in compared["conclusions"]] == ["not distinguishable"]
