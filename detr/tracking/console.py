"""What a run shows on the terminal: progress bars, a line an epoch, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from detr.texts import visible

SUMMARY = ("AP", "AP50", "segm/AP", "segm/AP50", "PQ")  # of an epoch's line
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")  # of the table; metrics files have all


class Terminal(rich.console.Console):
    """Prints text as it is, also in tables: a name with brackets is no markup, one with an escape code no code.

    It goes on in silence when nobody reads any more (`| head`), where rich would end the program.
    """

    def __init__(self, *, quiet: bool = False, width: int | None = None) -> None:
        super().__init__(quiet=quiet, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class SpeedColumn(ProgressColumn):
    """Shows how many images a second are done."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


class Bar:
    """Shows one bar; silent where the output is no terminal."""

    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def advance(self, amount: int = 1) -> None:
        self.progress.advance(self.task, amount)

    def show(self, values: Mapping[str, float]) -> None:
        """Show the losses of the last decoder layer after the bar."""
        shown = [name for name in values if "/" not in name and name != "lr"]
        self.progress.update(self.task, note=" ".join(f"{name} {values[name]:.3g}" for name in shown[:4]))


class Console:
    """Writes to the terminal; `quiet` is for processes that leave it to another."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.rich = Terminal(quiet=quiet)

    @contextmanager
    def epoch(self, epoch: int, batches: int, done: float) -> Iterator[Bar]:
        """Show a bar over the batches of an epoch; `done`: the part of the whole run before it."""
        with self._bar(f"epoch {epoch} ({done:.0%} of the run)", batches) as bar:
            yield bar

    @contextmanager
    def evaluation(self, images: int) -> Iterator[Bar]:
        """Show a bar over the images of an evaluation."""
        with self._bar("evaluating", images) as bar:
            yield bar

    @contextmanager
    def prediction(self, images: int | None) -> Iterator[Bar]:
        """Show a bar over images, and how many a second; `images`: how many there are, None where nobody knows."""
        with self._bar("predicting", images, SpeedColumn()) as bar:
            yield bar

    @contextmanager
    def _bar(self, title: str, total: int | None, *more: ProgressColumn) -> Iterator[Bar]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            *more,
        )
        with RichProgress(
            *columns, console=self.rich, transient=True, disable=self.rich.quiet or not self.rich.is_terminal
        ) as progress:
            yield Bar(progress, progress.add_task(title, total=total, note=""))

    def summary(self, epoch: int, row: Mapping[str, float], better: bool) -> str:
        """Return one line an epoch."""
        parts = [f"epoch {epoch}", f"{row['train/seconds']:.0f} s", f"loss {row['train/loss']:.3f}"]
        shown = [name for name in SUMMARY if f"val/{name}" in row]
        parts += [f"{name} {row[f'val/{name}']:.{1 if name == 'PQ' else 3}f}" for name in shown]
        parts += [f"{row['train/images_per_second']:.0f} images/s"]
        return "  ".join(parts) + ("  (best so far)" if better else "")

    def results(self, title: str, rows: Mapping[str, Mapping[str, float]], per_class: Mapping[str, float]) -> None:
        """Print a table of metrics, a row each, and AP by class."""
        table = Table("", *COLUMNS, title=title, title_justify="left")
        for name, metrics in rows.items():
            table.add_row(name, *(_number(metrics.get(column)) for column in COLUMNS))
        self.rich.print(table)
        if per_class:
            classes = Table("class", "AP", title="AP by class", title_justify="left")
            for name, value in per_class.items():
                classes.add_row(name, _number(value))
            self.rich.print(classes)

    def panoptic(self, metrics: Mapping[str, float]) -> None:
        """Print a table of PQ, SQ and RQ in percent, where there are any."""
        if "PQ" not in metrics:
            return
        qualities = ("PQ", "SQ", "RQ")
        table = Table("", *qualities, title="Panoptic quality, in percent", title_justify="left")
        for group, suffix in {"all": "", "things": "_things", "stuff": "_stuff"}.items():
            values = [metrics.get(f"{quality}{suffix}") for quality in qualities]
            table.add_row(group, *("–" if value is None else f"{value:.1f}" for value in values))
        self.rich.print(table)

    def places(self, places: Mapping[str, Path | str]) -> None:
        """Print where everything lies."""
        width = max(map(len, places))
        for name, place in places.items():
            self.rich.print(f"{name:<{width}}  {place}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
