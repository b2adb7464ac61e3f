"""The table that a sweep ends with: on the terminal, as sweep.csv and as sweep.md."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rich.console
import rich.table
import yaml

from detr.files import write_atomically
from detr.sweeping.plan import Job, Plan
from detr.tracking.console import Terminal
from detr.tracking.rows import best_row, metric
from detr.tracking.run_folder import RunFolder

Value = float | int | str | None

WIDTH = 160  # characters of a table that goes into a file


@dataclass(frozen=True)
class JobResult:
    """Holds what became of one job."""

    job: Job
    differs: dict[str, str]
    status: str
    error: str | None
    values: dict[str, Value] = field(default_factory=dict)


def job_results(plan: Plan) -> list[JobResult]:
    """Return what became of each job. What is called running was interrupted: the sweep is over."""
    found = []
    for job in plan.jobs:
        state = plan.status(job)
        status = "interrupted" if state.status == "running" else state.status
        found.append(JobResult(job, plan.differing(job), status, state.error, results(plan.path / job.folder)))
    return found


def results(folder: Path) -> dict[str, Value]:
    """Return AP, AP50 and what was monitored of the best epoch; AP of the last epoch, minutes of training.

    Of an evaluation there is what its metrics.json says.
    """
    epochs = RunFolder(folder).rows()
    if not epochs:
        file = folder / "metrics.json"
        metrics = json.loads(file.read_text()) if file.exists() else {}
        return {name: metrics[name] for name in ("AP", "AP50") if name in metrics}
    monitor = monitored(folder)
    best = best_row(epochs, monitor) or {}
    names = dict.fromkeys(["AP", "AP50", monitor])
    last = next((value for row in reversed(epochs) if (value := metric(row, "AP")) is not None), None)
    values: dict[str, Value] = {name: metric(best, name) for name in names}
    return values | {
        "epoch": best.get("epoch"),
        "last AP": last,
        "minutes": epochs[-1]["train/seconds"] / 60,
    }


def monitored(folder: Path) -> str:
    """Return the metric that decided which of a run's epochs is best."""
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    return config["trainer"]["monitor"]


def write(plan: Plan, table: Sequence[JobResult]) -> None:
    """sweep.csv, with full numbers, and sweep.md."""
    header, cells = columns(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "error", "folder"])
    for row, values in zip(table, cells, strict=True):
        writer.writerow(["" if value is None else value for value in (*values, row.error, row.job.folder)])
    write_atomically(plan.path / "sweep.csv", text.getvalue())
    write_atomically(plan.path / "sweep.md", markdown(plan, table))


def markdown(plan: Plan, table: Sequence[JobResult]) -> str:
    """Return a table and, where jobs failed, a list of them."""
    header, cells = columns(table)
    lines = [[shown(name, value) for name, value in zip(header, values, strict=True)] for values in cells]
    parts = [f"# {plan.name}", "", _line(header), _line(["---"] * len(header)), *map(_line, lines)]
    if failed(table):
        parts += ["", "Failed:", "", *(f"- {reason}" for reason in reasons(plan, table))]
    return "\n".join(parts) + "\n"


def show(plan: Plan, table: Sequence[JobResult]) -> None:
    """Show the same on the terminal."""
    header, cells = columns(table)
    shape = rich.table.Table(title=plan.name, title_justify="left")
    for name in header:
        shape.add_column(name, overflow="fold")
    for values in cells:
        shape.add_row(*(shown(name, value) for name, value in zip(header, values, strict=True)))
    console = Terminal(width=None if sys.stdout.isatty() else WIDTH)
    console.print(shape)
    for reason in reasons(plan, table):
        console.print(reason, soft_wrap=True, highlight=False, markup=False)
    console.print(f"table  {plan.path / 'sweep.csv'}, sweep.md", soft_wrap=True, highlight=False)


def failed(table: Sequence[JobResult]) -> list[JobResult]:
    return [row for row in table if row.status == "failed"]


def reasons(plan: Plan, table: Sequence[JobResult]) -> list[str]:
    """Return a line for each job that failed: its number, what set it apart, why, and where its log is."""
    lines = []
    for row in failed(table):
        settings = " ".join(f"{key}={value}" for key, value in row.differs.items())
        logs = sorted((plan.path / row.job.folder).glob("*.log"))
        lines.append(f"#{row.job.number} {settings}: {row.error}; log: {logs[0] if logs else row.job.folder}")
    return lines


def columns(table: Sequence[JobResult]) -> tuple[list[str], list[list[Value]]]:
    """Return the header, and the cells of each row; keys are shortened."""
    keys = dict.fromkeys(key for row in table for key in row.differs)
    names = dict.fromkeys(["AP", "AP50", *(name for row in table for name in row.values)])
    cells: list[list[Value]] = [
        [row.job.number, *(row.differs.get(key) for key in keys), row.status, *(row.values.get(name) for name in names)]
        for row in table
    ]
    return ["job", *short(list(keys)), "status", *names], cells


def short(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key; the whole key where two end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return [last[key] if count[last[key]] == 1 else key for key in keys]


def shown(name: str, value: Value) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if name == "minutes" else f"{value:.3f}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
