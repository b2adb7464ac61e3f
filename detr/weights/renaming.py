"""Other names for our weights: tables of patterns that are read in both directions, see `detr.texts.name_rule`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from detr.errors import UserError
from detr.texts import name_rule

Table = Sequence[tuple[str, str]]  # pairs of their pattern and ours

COUNTER = "num_batches_tracked"  # of batch norm; a frozen one has no use for it, and some files have it


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return None


@dataclass(frozen=True)
class Renaming:
    """Applies a table as two functions."""

    table: Table
    prefix: str = ""  # of every name on their side
    _forward: list[tuple[re.Pattern[str], str]] = field(init=False, repr=False)
    _backward: list[tuple[re.Pattern[str], str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [(self.prefix + theirs, ours) for theirs, ours in self.table]
        object.__setattr__(self, "_forward", [name_rule(theirs, ours) for theirs, ours in rows])
        object.__setattr__(self, "_backward", [name_rule(ours, theirs) for theirs, ours in rows])

    def ours(self, name: str) -> str | None:
        """Return our name for theirs; None if the table has none."""
        return _rename(name, self._forward)

    def theirs(self, name: str) -> str | None:
        """Return their name for ours; None if the table has none."""
        return _rename(name, self._backward)


def renamed(weights: Mapping[str, Tensor], rename: Callable[[str], str | None], complaint: str) -> dict[str, Tensor]:
    """Return all weights under other names, without batch norm's counters.

    Raises:
        UserError: the complaint, its %s replaced by the name without another.
    """
    result = {}
    for name, tensor in weights.items():
        if name.endswith(COUNTER):
            continue
        other = rename(name)
        if other is None:
            raise UserError(complaint % name)
        result[other] = tensor
    return result
