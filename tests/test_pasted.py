"""Commands that are printed run when they are pasted, whatever folders are called."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import TINY, run
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from run_folders import make_run

from detr.comparison.finding import on_split
from detr.config.compose import load
from detr.errors import UserError
from detr.sweeping import table
from detr.sweeping.plan import Job, Plan
from detr.texts import in_hydra, pasted
from detr.tracking.run_folder import RunFolder
from detr.tracking.status import update_status

FOLDERS = [
    "lr=0.001,b=[1,2]",
    """it's a "run" $HOME""",
    "(x) {y} ${z} \\",
    "ü:smile:[/b]#%",
    "1e-3",
    "null",
    "a;b&c|d`e`",
]
pieces = st.sampled_from([*"ab1.5e-+/ ='\"\\${}()[],:~@#%&*?!;|<>\tü名\n", "${x}", "null", "1e5", "inf"])
names = st.lists(pieces, max_size=8).map("".join).filter(lambda name: name != "???")  # OmegaConf's word for "missing"


def as_read(word: str) -> Any:
    """The value of a shell's word for whoever asks Hydra's config for it."""
    override = OverridesParser.create().parse_override(word)
    container: Any = OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)
    return container["value"]


@given(names)
@example("\\${x}\\")
def test_a_value_comes_back_from_shell_and_hydra(name: str) -> None:
    words = shlex.split(pasted("detr", name, hydra__run__dir=name, seed=1))
    assert words[:2] == ["detr", name]
    assert words[2].startswith("hydra.run.dir=")
    assert as_read(words[2]) == name
    assert as_read(words[3]) == 1


@given(st.recursive(names | st.none() | st.booleans() | st.integers(), st.lists))
def test_lists_come_back(value: Any) -> None:
    assert as_read(f"key={in_hydra([value])}") == [value]


def test_what_need_not_be_quoted_is_not() -> None:
    plain = ["outputs/train/2026-01-02_10-00", "/a.b/c_d@e", "https://a.org/best.pt", "detr_r50"]
    assert [pasted(checkpoint=each) for each in plain] == [f"checkpoint={each}" for each in plain]
    assert pasted(checkpoint="a=b/best.pt") == """'checkpoint="a=b/best.pt"'"""


def not_evaluated(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        on_split(make_run(folder, [0.5]), "test")
    return str(caught.value).partition("do so with ")[2]


def occupied(folder: Path) -> str:
    make_run(folder, [0.5])
    with pytest.raises(UserError) as caught:
        RunFolder(folder).claim()
    return str(caught.value).partition("continue it with train.py ")[2]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    ("said", "key", "below"),
    [(not_evaluated, "checkpoint", "checkpoints/best.pt"), (occupied, "hydra.run.dir", "")],
)
def test_advice(said: Callable[[Path], str], key: str, below: str, name: str, tmp_path: Path) -> None:
    found = {word.partition("=")[0]: word for word in shlex.split(said(tmp_path / name)) if "=" in word}
    assert as_read(found[key]) == str(tmp_path / name / below)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_sweep_ends_with(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(0, f"{name}/0", ("seed=0",)), Job(1, "1", ("seed=1",))]
    plan = Plan(tmp_path / name, "seeds", ["seed"], jobs)
    for number, job in enumerate(jobs):
        make_run(plan.path / job.folder, [0.5], seed=number)
        update_status(plan.path / job.folder, status="finished")
        (plan.path / job.folder / "wandb" / f"offline-run-{number}").mkdir(parents=True)
    table.show(plan, table.job_results(plan))
    said = capsys.readouterr().out
    lines = dict(re.findall(r"^(compare|W&B) +(.*)$", said, re.MULTILINE))
    assert shlex.split(lines["compare"]) == ["detr", "compare", str(plan.path)]
    shell = ["bash", "-c", f"wandb() {{ printf '%s\\0' \"$@\"; }}; {lines['W&B']}"]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split("\0")
    assert sorted(words[:-1]) == sorted(["sync", *(str(file) for file in plan.path.rglob("offline-run-*"))])


@pytest.mark.parametrize("name", [name for name in FOLDERS if "${" not in name])  # which Hydra itself fills in
def test_a_job_gets_the_folder_that_was_planned(name: str) -> None:
    composed = load("train", [f"hydra.sweep.subdir={in_hydra(name)}"])
    assert composed.hydra.sweep.subdir == name


@pytest.mark.slow
def test_a_training_says_how_to_evaluate_it(tmp_path: Path) -> None:
    folder = tmp_path / """lr=0.001, [x] 'y' "z" $HOME ü"""
    shape = [f"dataset.root={tmp_path / 'data'}", "+dataset.counts={train: 8, val: 4, test: 4}", "trainer.max_steps=1"]
    tiny = [each for each in TINY if not each.startswith("+dataset.counts")]
    trained = run("train.py", *tiny, *shape, f"hydra.run.dir={in_hydra(folder)}")
    assert trained.returncode == 0, trained.stderr
    (line,) = re.findall("^evaluate +(detr evaluate .*)$", trained.stdout, re.MULTILINE)
    done = run("-m", *shlex.split(line), f"hydra.run.dir={tmp_path}/e", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e" / "metrics.json").is_file()
