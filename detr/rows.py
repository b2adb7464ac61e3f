"""Rows of metrics.jsonl, and which of them is best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LOSS = "loss"  # the one metric of a validation that is better when lower

Row = dict[str, Any]  # of an epoch: epoch, step, train/…, val/…


def best_row(rows: Sequence[Row], metric: str, *, lower: bool | None = None) -> Row | None:
    """The first row that is best in a metric of the validation; None where no row has it.

    Args:
        metric: as in trainer.monitor, without "val/".
        lower: whether less is better; None: as the metric has it.
    """
    evaluated = [row for row in rows if row.get(f"val/{metric}") is not None]
    choose = min if (metric == LOSS if lower is None else lower) else max
    return choose(evaluated, key=lambda row: row[f"val/{metric}"], default=None)
