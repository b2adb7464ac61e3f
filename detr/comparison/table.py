"""The comparison on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from detr.comparison.comparison import Comparison
from detr.comparison.evaluations import VALIDATION
from detr.comparison.metrics import SHOWN, moments, number
from detr.comparison.settings import Setting
from detr.tracking.console import Terminal

MAX_COLUMNS = 6


def show(comparison: Comparison, console: Terminal) -> None:
    """Print settings, what differs, metrics, classes, the conclusions and the notes."""
    settings = comparison.settings
    for setting in settings:
        console.print(f"{setting.letter}  {setting.description}  ({setting.seeding})", soft_wrap=True)
    for table in _lying(comparison) if len(settings) > MAX_COLUMNS else _standing(comparison):
        console.print(table)
    console.print(comparison.legend, style="dim", soft_wrap=True)
    for line in comparison.summary:
        console.print(line, style="bold", soft_wrap=True)
    for note in comparison.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _standing(comparison: Comparison) -> list[Table]:
    """A column a setting."""
    tables = [_differences(comparison)] if comparison.differences else []
    return [*tables, _metrics(comparison), *([_classes(comparison)] if comparison.class_names else [])]


def _lying(comparison: Comparison) -> list[Table]:
    """A row a setting, for more of them than a terminal is wide; what differs is in the list of settings."""
    names = [name for name in comparison.metrics if name in SHOWN]
    title, tables = _title(comparison), []
    for epoch, last in comparison.epochs.items():
        table = Table("", *names, title=f"{title}, {epoch}", title_justify="left")
        for setting in comparison.settings:
            table.add_row(setting.letter, *(cell(comparison, setting, name, last=last) for name in names))
        tables.append(table)
    return tables


def _differences(comparison: Comparison) -> Table:
    table = _table("What differs", "config key", comparison.settings, justify="left")
    for key, found in comparison.differences.items():
        table.add_row(key, *found)
    return table


def _metrics(comparison: Comparison) -> Table:
    settings = comparison.settings
    table = _table(_title(comparison), "", settings)
    for epoch, last in comparison.epochs.items():
        table.add_row(Text(epoch, "bold"))
        for name in comparison.metrics:
            table.add_row(name, *(cell(comparison, setting, name, last=last) for setting in settings))
        table.add_section()
    for name, of in comparison.lengths.items():
        table.add_row(name, *of)
    return table


def _classes(comparison: Comparison) -> Table:
    table = _table(f"AP by class, {next(iter(comparison.epochs))}", "class", comparison.settings)
    for name in comparison.class_names:
        cells = [cell(comparison, setting, name) for setting in comparison.settings]
        table.add_row(name.removeprefix("AP/"), *cells)
    return table


def _title(comparison: Comparison) -> str:
    return "Validation" if comparison.split == VALIDATION else "Evaluation"


def cell(comparison: Comparison, setting: Setting, name: str, *, last: bool = False) -> str:
    """Return the setting's value and, after it, the difference to the baseline."""
    difference = comparison.difference(setting, name, last=last)
    behind = "" if difference is None else f" ({number(difference, name, signed=True)})"
    return moments(setting.runs, name, last=last) + behind


def _table(title: str, first: str, settings: Sequence[Setting], justify: str = "right") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for setting in settings:
        table.add_column(setting.letter, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table
