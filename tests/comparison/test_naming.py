"""What settings are called, by whatever tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import make_run

from detr.comparison.naming import MAX_VALUE, Described, name_settings, short
from detr.comparison.settings import group

MANY = {f"loss.terms.key{index}": "1" for index in range(9)}  # that come with a choice


def described(*overrides: str, config: dict[str, str] | None = None, **choices: str) -> Described:
    return Described(config or {}, choices, overrides)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (  # a choice that was left to the default has its name all the same
            [described("seed=1", loss="detr"), described("seed=1", "loss=focal", config=MANY, loss="focal")],
            ["loss=detr", "loss=focal"],
        ),
        (  # what they have in common is not said, where they lie is not either
            [
                described("dataset.root=x", "optimizer.lr=1e-3", "logger.group=a", config={"optimizer.lr": "0.001"}),
                described("dataset.root=x", "optimizer.lr=1e-4", "name=b", config={"optimizer.lr": "0.0001"}),
            ],
            ["optimizer.lr=0.001", "optimizer.lr=0.0001"],
        ),
        ([described("~loss.terms.giou"), described()], ["~loss.terms.giou", "no overrides"]),
        ([described("+x=1"), described("+x=2", "resume=auto")], ["x=1", "x=2"]),
        # nothing on the command line differs, but the shipped configs have changed
        ([described(config={"a.b": "1"}), described(config={"a.b": "2"})], ["a.b=1", "a.b=2"]),
        ([described(loss="detr", config=MANY), described(loss="focal")], ["loss=detr", "loss=focal"]),
        ([described(config=MANY), described()], None),
        ([described("seed=3", experiment="quickstart")], ["experiment=quickstart"]),
        ([described("loss=focal", "seed=3", loss="focal")], ["loss=focal"]),
    ],
)
def test_names(settings: list[Described], names: list[str] | None) -> None:
    assert name_settings(settings) == names


@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.integers(1, 100))
def test_names_differ_wherever_overrides_do(values: list[int], length: int) -> None:
    """However long keys and values are."""
    key = "a." + "k" * length
    settings = [described(f"{key}={'v' * length}{value}", f"other={index}") for index, value in enumerate(values)]
    names = name_settings(settings)
    assert names is not None
    assert len(set(names)) == len(values)


def test_long_values_are_cut_where_that_leaves_them_apart() -> None:
    settings = [described(f"data.files=[{name},{'x' * 90}]", config={}) for name in ("one", "two")]
    names = name_settings(settings)
    assert names is not None
    assert all(len(name) <= len("files=") + MAX_VALUE for name in names)
    assert names[0].startswith("files=[one,")


def test_keys_are_shortened_where_that_is_clear() -> None:
    assert short(["optimizer.lr", "backbone", "a.seed", "b.seed"]) == ["lr", "backbone", "a.seed", "b.seed"]


def test_runs_are_called_by_their_choices(tmp_path: Path) -> None:
    """Those of a group differ in many keys."""
    other = {"loss": {"terms": {f"key{index}": index for index in range(9)}}}
    runs = [
        make_run(tmp_path / "a", [0.4], facts={"choices": {"loss": "detr", "experiment": "quickstart"}}),
        make_run(
            tmp_path / "b",
            [0.5],
            config=other,
            overrides=["loss=focal"],
            facts={"choices": {"loss": "focal", "experiment": "quickstart"}},
        ),
    ]
    assert [each.description for each in group(runs).settings] == ["loss=detr", "loss=focal"]


def test_without_a_name_there_is_the_folder(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.4]), make_run(tmp_path / "b", [0.5], config={"model": {**MANY}})]
    assert [each.description for each in group(runs).settings] == [str(tmp_path / "a"), str(tmp_path / "b")]
