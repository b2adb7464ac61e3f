"""Rows of metrics.jsonl, and which of them is best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LOSS = "loss"  # the one metric of a validation that is better when lower

UNDEFINED = -1.0  # COCO's mark for what has no ground truth

Row = dict[str, Any]  # of an epoch: epoch, step, train/…, val/…


def metric(row: Row, name: str) -> float | None:
    """A validation metric of a row; None where it is missing or undefined."""
    value = row.get(f"val/{name}")
    if value is None or (value == UNDEFINED and name != LOSS):
        return None
    return float(value)


def best_row(rows: Sequence[Row], name: str, *, lower: bool | None = None) -> Row | None:
    """The first row that is best in a metric of the validation; None where no row has it.

    Args:
        name: of the metric as in trainer.monitor, without "val/".
        lower: whether less is better; None: as the metric has it.
    """
    defined = [row for row in rows if metric(row, name) is not None]
    choose = min if (name == LOSS if lower is None else lower) else max
    return choose(defined, key=lambda row: row[f"val/{name}"], default=None)
