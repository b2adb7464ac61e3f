"""`detr VERB`, as users meet it."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest
from command import ROOT, only_error, run

from detr.__main__ import main, verbs


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_verb(arguments: list[str], tmp_path: Path) -> None:
    done = run("-m", "detr", *arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert verbs()
    for verb in verbs():
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exprt"], ["exprt", "did you mean export?"]),
        (["fly"], ["fly", "export"]),
        (["export"], ["format"]),
        (["export", "chekpoint=best.pt", "format=official"], ["did you mean checkpoint?"]),
        (["export", "checkpoint=best.pt", "format=oficial"], ["official", "oficial"]),
        (["export", "checkpoint=best.pt", "format=official"], ["no checkpoint at best.pt"]),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = run("-m", "detr", *arguments, cwd=tmp_path)
    line = only_error(done)
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_is_the_same() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["detr"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
