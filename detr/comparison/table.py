"""The comparison on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from detr.comparison.comparison import Comparison
from detr.comparison.metrics import NOTHING, number, values
from detr.comparison.settings import Setting
from detr.comparison.statistics import spread


def show(comparison: Comparison, console: Console) -> None:
    """Settings, what differs, metrics, classes, what it amounts to and what to beware of."""
    settings = comparison.settings
    for setting in settings:
        seeds = ", ".join(str(run.seed) for run in setting.runs)
        console.print(f"{setting.letter}  {setting.description}  (seed {seeds})", highlight=False, soft_wrap=True)
    if comparison.differences:
        console.print(_differences(comparison))
    console.print(_metrics(comparison))
    if comparison.class_names:
        console.print(_classes(comparison))
    for line in comparison.summary:
        console.print(line, style="bold", highlight=False, soft_wrap=True)
    for note in comparison.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _differences(comparison: Comparison) -> Table:
    table = _table("What differs", "config key", comparison.settings, justify="left")
    for key, found in comparison.differences.items():
        table.add_row(key, *found)
    return table


def _metrics(comparison: Comparison) -> Table:
    settings = comparison.settings
    several = any(len(setting.runs) > 1 for setting in settings)
    title = "Validation, AP in points (× 100)" + ("; mean ± standard deviation over seeds" if several else "")
    table = _table(title, "", settings)
    for last, epoch in ((False, "best"), (True, "last")):
        for name in comparison.metrics:
            cells = [cell(comparison, setting, name, last=last) for setting in settings]
            table.add_row(f"{name}, {epoch} epoch", *cells)
        table.add_section()
    for name, of in comparison.lengths.items():
        table.add_row(name, *of)
    return table


def _classes(comparison: Comparison) -> Table:
    table = _table("AP by class, best epoch", "class", comparison.settings)
    for name in comparison.class_names:
        cells = [cell(comparison, setting, name) for setting in comparison.settings]
        table.add_row(name.removeprefix("AP/"), *cells)
    return table


def cell(comparison: Comparison, setting: Setting, name: str, *, last: bool = False) -> str:
    """Mean, deviation where there are several runs, difference to the baseline."""
    found = values(setting.runs, name, last=last)
    if not found:
        return NOTHING
    deviation = spread(found)
    words = number(float(np.mean(found)), name) + ("" if deviation is None else f" ± {number(deviation, name)}")
    difference = comparison.difference(setting, name, last=last)
    return words if difference is None else f"{words} ({number(difference, name, signed=True)})"


def _table(title: str, first: str, settings: Sequence[Setting], justify: str = "right") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for setting in settings:
        table.add_column(setting.letter, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table
