"""What a sweep tries of a key: the values of a grid, or the space of a search, in Hydra's notation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from detr.errors import UserError
from detr.sweeping.search import Choice, Interval, Space


def in_order(params: Sequence[Override], typed: Sequence[Override]) -> list[Override]:
    """Return the overrides of a sweep, in the order in which a single run has them.

    All that was typed counts, as in a single run, where mappings of one key are merged and a later value takes an
    earlier one's place. The command line wins over the sweep's file: of the file's, those that it replaces are left
    out. What is replaced is not swept over.

    Args:
        params: of the file.
        typed: on the command line.
    """
    kept = []
    everything = [*params, *typed]
    for index, each in enumerate(everything):
        later = next((other for other in reversed(everything[index + 1 :]) if _replaces(other, each)), None)
        if later is None:
            kept.append(each)
        elif index >= len(params) or (_adds(each) and not _adds(later)):  # what is changed or deleted must be there
            kept.append(_first(each) if each.is_sweep_override() else each)
    return kept


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


def variations(space: Space) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each key that has several values, and two drawings that differ in it alone."""
    first = next(corners(space))
    for key, each in space.items():
        others = [value for value in _edges(each) if value != first[key]]
        if others:
            yield key, first, first | {key: others[0]}


def _replaces(later: Override, each: Override) -> bool:
    """Whether nothing is left of a value; mappings are merged."""
    if (later.key_or_group, later.package) != (each.key_or_group, each.package):
        return False
    values = later.sweep_iterator() if later.is_discrete_sweep() else [later.value()]
    return later.is_delete() or not any(isinstance(value, dict) for value in values)


def _adds(each: Override) -> bool:
    return each.is_add() or each.is_force_add()


def _first(each: Override) -> Override:
    """One of the values of a sweep, whichever: it is replaced."""
    value = next(each.sweep_string_iterator()) if each.is_discrete_sweep() else each.value().start  # type: ignore[union-attr]
    return OverridesParser.create().parse_override(f"{each.get_key_element()}={value}")


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
