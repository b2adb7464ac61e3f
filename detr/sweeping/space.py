"""What a sweep tries of a key: the values of a grid, or the space of a search, in Hydra's notation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from detr.errors import UserError
from detr.sweeping.search import Choice, Interval, Space


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return every combination of the values, as override texts; the last key changes first.

    Raises:
        UserError: a space without single values.
    """
    return [list(each) for each in itertools.product(*map(_texts, overrides))]


def space_of(override: Override) -> Choice | Interval:
    """Return what a search draws from. A range ends before its stop, as in a grid."""
    value = override.value()
    tags: set[str] = getattr(value, "tags", set())
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        integer = "int" in tags or (isinstance(value.start, int) and isinstance(value.end, int))
        return Interval(value.start, value.end, log="log" in tags, integer=integer)
    if isinstance(value, RangeSweep) and "log" not in tags:
        numbers = sorted(value.range())
        integer = all(isinstance(number, int) for number in numbers)
        return Interval(numbers[0], numbers[-1], step=abs(value.step), integer=integer)
    return Choice(tuple(override.sweep_string_iterator()))


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield drawings that have, together, each option and each bound at least once."""
    edges = {key: _edges(each) for key, each in space.items()}
    for index in range(max(map(len, edges.values()))):
        yield {key: values[index % len(values)] for key, values in edges.items()}


def _texts(override: Override) -> list[str]:
    text = override.input_line or ""
    if not override.is_sweep_override():
        return [text]
    if not override.is_discrete_sweep():
        raise UserError(f"{text}: a grid takes single values; to search in an interval add hydra/sweeper=optuna")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _edges(each: Choice | Interval) -> Sequence[Any]:
    if isinstance(each, Choice):
        return each.values
    if each.integer:
        return [int(each.low), int(each.high)]
    # The bounds may be whole numbers, which pass where an integer is wanted; what lies between does not.
    between = each.low + (each.step or 0.618 * (each.high - each.low))
    return [each.low, between, each.high]
