"""Rows of metrics.jsonl, and which of them is best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detr.errors import UserError
from detr.evaluation.names import LOSS

METRICS = "metrics.jsonl"

Row = dict[str, Any]  # of an epoch: epoch, step, train/…, val/…


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none where there is no file. A last line that was cut off is left out.

    Raises:
        UserError: the file cannot be read, or a line is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path}: cannot be read ({problem})") from problem
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("}") and number == len(lines):
            break  # being written, or the run was killed meanwhile
        try:
            row = json.loads(line)
            rows.append(row | {"epoch": int(row["epoch"]), "step": int(row["step"])})
        except (ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path}: line {number} is not a row of an epoch ({problem!r})") from problem
    return rows


def metric(row: Row, name: str) -> float | None:
    """Return a validation metric of a row; None where it is missing."""
    value = row.get(f"val/{name}")
    return None if value is None else float(value)


def best_row(rows: Sequence[Row], name: str, *, lower: bool | None = None) -> Row | None:
    """Return the first row that is best in a metric of the validation; None where no row has it.

    Args:
        rows: one an epoch.
        name: of the metric as in trainer.monitor, without "val/".
        lower: whether less is better; None: as the metric has it.
    """
    defined = [row for row in rows if metric(row, name) is not None]
    choose = min if (name == LOSS if lower is None else lower) else max
    return choose(defined, key=lambda row: row[f"val/{name}"], default=None)
