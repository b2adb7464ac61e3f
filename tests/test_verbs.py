"""`detr VERB`, as users meet it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import ROOT

from detr.__main__ import main, verbs


def detr(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "detr", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_verb(arguments: list[str], tmp_path: Path) -> None:
    done = detr(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert verbs()
    for verb in verbs():
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exprt"], ["exprt", "did you mean export?"]),
        (["fly"], ["fly", "export"]),
        (["export"], ["checkpoint"]),
        (["export", "chekpoint=best.pt", "format=official"], ["did you mean checkpoint?"]),
        (["export", "checkpoint=best.pt", "format=oficial"], ["official", "oficial"]),
        (["export", "checkpoint=best.pt", "format=official"], ["no checkpoint at best.pt"]),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = detr(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_is_the_same() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["detr"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
