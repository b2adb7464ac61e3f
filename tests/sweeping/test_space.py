"""Hydra's notation for what a sweep tries."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from detr.errors import UserError
from detr.sweeping.search import Choice, Interval
from detr.sweeping.space import combinations, corners, space_of


def parsed(*texts: str) -> list:
    return OverridesParser.create().parse_overrides(list(texts))


@pytest.mark.parametrize(
    "texts",
    [
        ["a=1,2", "b=x,y,z", "c=3"],
        ["a=range(1,4)", "b=choice(u,v)", "+d=[1,2],[3]"],
        ["a=range(0.1,0.4,0.1)"],
        ["a=1"],
    ],
)
def test_combinations_are_those_of_hydras_own_sweeper(texts: list[str]) -> None:
    assert combinations(parsed(*texts)) == BasicSweeper.split_arguments(parsed(*texts), None)[0]


def test_a_deletion_is_no_value() -> None:
    assert combinations(parsed("~a", "b=1,2")) == [["~a", "b=1"], ["~a", "b=2"]]


def test_a_grid_takes_no_interval() -> None:
    with pytest.raises(UserError, match=r"^a=interval\(1,2\): .*hydra/sweeper=optuna"):
        combinations(parsed("a=interval(1,2)"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(1,2)", Interval(1.0, 2.0)),
        ("a=int(interval(1,6))", Interval(1, 6, integer=True)),
        ("a=tag(int,interval(1,6))", Interval(1, 6, integer=True)),
        ("a=tag(log,interval(1e-4,1e-2))", Interval(1e-4, 1e-2, log=True)),
        ("a=tag(log,int,interval(4,64))", Interval(4, 64, log=True, integer=True)),
        ("a=range(1,5)", Interval(1, 4, step=1, integer=True)),
        ("a=range(50,301,50)", Interval(50, 300, step=50, integer=True)),
        ("a=range(5,1,-2)", Interval(3, 5, step=2, integer=True)),
        ("a=choice(x,y)", Choice(("x", "y"))),
        ("a=1,2", Choice(("1", "2"))),
        ("a=[1,2],[3,4]", Choice(("[1,2]", "[3,4]"))),
    ],
)
def test_spaces(text: str, expected: Choice | Interval) -> None:
    (override,) = parsed(text)
    assert space_of(override) == expected


def test_a_range_is_the_same_in_a_grid_and_in_a_search() -> None:
    (override,) = parsed("a=range(0.1,0.5,0.1)")
    space = space_of(override)
    assert isinstance(space, Interval)
    assert [space.low, space.high] == pytest.approx([0.1, 0.4])
    assert space.step == pytest.approx(0.1)


def test_corners_have_every_option_and_every_bound() -> None:
    space = {"a": Choice(("x", "y", "z")), "b": Interval(1, 6, integer=True), "c": Choice(("u",))}
    seen = list(corners(space))
    assert {each["a"] for each in seen} == {"x", "y", "z"}
    assert {each["b"] for each in seen} == {1, 6}
    assert {each["c"] for each in seen} == {"u"}
    numbers = [each["d"] for each in corners({"d": Interval(8.0, 64.0)})]
    assert (numbers[0], numbers[-1]) == (8, 64)
    assert 8 < numbers[1] < 64
    assert not numbers[1].is_integer(), "an integer that is searched as a number is found out"
