"""When everything is composed twice to find out whether it is a sweep, and when it need not be."""

from __future__ import annotations

import pytest
from hydra._internal.hydra import Hydra

from detr.config import hydra_internals
from detr.config.hydra_internals import _mode_unset, _plain, parse_arguments


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ([], True),
        (["experiment=small_data", "seed=2", "hydra.run.dir=out"], True),
        (["-m", "seed=1,2"], False),
        (["-cn", "other"], False),
        (["-cd", "sweeps"], False),
        (["-cp", "own"], False),
        (["hydra.mode=MULTIRUN"], False),
        (["+hydra.mode=MULTIRUN"], False),
        (["hydra={mode: MULTIRUN}"], False),
        (["hydra/launcher=joblib"], False),
        (["hydra.searchpath=[own]"], False),
    ],
)
def test_only_a_command_that_cannot_be_a_sweep_is_plain(words, plain):
    assert _plain(parse_arguments(words)) is plain


def test_nor_may_a_config_make_it_one(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    monkeypatch.setattr(hydra_internals, "CONF", tmp_path)
    assert not _plain(parse_arguments(["experiment=mine"]))


def test_hydra_is_as_before():
    before = Hydra.get_mode
    with _mode_unset():
        assert Hydra.get_mode(None, "train", []) is None
    assert Hydra.get_mode is before
