"""The tables that a sweep ends with, of jobs and of settings: on the terminal, as sweep.csv and as sweep.md."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rich.console
import rich.table
import yaml

from detr.comparison.metrics import moments
from detr.comparison.naming import short
from detr.comparison.reading import Run, read_run
from detr.comparison.settings import Setting, group
from detr.errors import UserError
from detr.files import write_atomically
from detr.sweeping.notes import was_pruned
from detr.sweeping.plan import Job, Plan
from detr.texts import in_markdown, pasted
from detr.tracking.console import Terminal
from detr.tracking.rows import best_row, metric
from detr.tracking.run_folder import RunFolder
from detr.tracking.words import duration

Value = float | int | str | None

WIDTH = 160  # characters of a table that goes into a file
SETTINGS = "By setting, AP in points (× 100), mean ± standard deviation over seeds"
OFFLINE = "wandb/offline-run-*"  # of a job


@dataclass(frozen=True)
class JobResult:
    """Holds what became of one job."""

    job: Job
    differs: dict[str, str]
    status: str
    error: str | None
    values: dict[str, Value] = field(default_factory=dict)
    ended: str | None = None  # by which limit, and where, if that was before the last step
    run: Run | None = None  # of a training that was evaluated and came to its end


def job_results(plan: Plan) -> list[JobResult]:
    """Return what became of each job. What is called running was interrupted: the sweep is over."""
    return [_job_result(plan, job) for job in plan.jobs]


def _job_result(plan: Plan, job: Job) -> JobResult:
    state, folder = plan.status(job), plan.path / job.folder
    status = "interrupted" if state.status == "running" else "pruned" if was_pruned(state.ended) else state.status
    try:
        run = read_run(folder) if status == "finished" else None
    except UserError:  # an evaluation, or a training without one
        run = None
    return JobResult(job, plan.differing(job), status, state.error, results(folder), short_end(state.ended), run)


def short_end(ended: str | None) -> str | None:
    """Return "trainer.max_steps=9" for "ended by trainer.max_steps=9 in step 9 of 9"; with the step if cut short."""
    found = re.fullmatch(r"(?:ended|stopped) by (.*) in step (\d+) of (\d+)", ended or "")
    if found is None:
        return ended
    reason, step, steps = found.groups()
    return reason if step == steps else f"{reason} in step {step} of {steps}"


def results(folder: Path) -> dict[str, Value]:
    """Return AP, AP50 and what was monitored of the best epoch; AP of the last epoch, steps and minutes of training.

    Of an evaluation there is what its metrics.json says.
    """
    epochs = RunFolder(folder).rows()
    if not epochs:
        file = folder / "metrics.json"
        metrics = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {name: metrics[name] for name in ("AP", "AP50") if name in metrics}
    monitor = monitored(folder)
    best = best_row(epochs, monitor) or {}
    names = dict.fromkeys(["AP", "AP50", monitor])
    last = next((value for row in reversed(epochs) if (value := metric(row, "AP")) is not None), None)
    values: dict[str, Value] = {name: metric(best, name) for name in names}
    return values | {
        "epoch": best.get("epoch"),
        "last AP": last,
        "steps": epochs[-1]["step"],
        "minutes": epochs[-1]["train/seconds"] / 60,
    }


def monitored(folder: Path) -> str:
    """Return the metric that decided which of a run's epochs is best."""
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    return config["trainer"]["monitor"]


def write(plan: Plan, table: Sequence[JobResult]) -> None:
    """sweep.csv, with full numbers, and sweep.md."""
    header, cells = columns(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "ended", "error", "folder"])
    for row, values in zip(table, cells, strict=True):
        last = (row.ended, row.error, row.job.folder)
        writer.writerow(["" if value is None else value for value in (*values, *last)])
    write_atomically(plan.path / "sweep.csv", text.getvalue())
    write_atomically(plan.path / "sweep.md", markdown(plan, table))


def markdown(plan: Plan, table: Sequence[JobResult]) -> str:
    """Return the tables and, where jobs failed, a list of them."""
    parts = [f"# {in_markdown(plan.name)}", "", *_lines(by_job(table))]
    settings = by_setting(table)
    if settings:
        parts += ["", f"{SETTINGS}:", "", *_lines(settings)]
    if failed(table):
        parts += ["", "Failed:", "", *(f"- {in_markdown(reason)}" for reason in reasons(plan, table))]
    return "\n".join(parts) + "\n"


def show(plan: Plan, table: Sequence[JobResult]) -> None:
    """Show the same on the terminal, and how to go on from there."""
    console = Terminal(width=None if sys.stdout.isatty() else WIDTH)
    for title, rows in ((plan.name, by_job(table)), (SETTINGS, by_setting(table))):
        shape = rich.table.Table()
        for name in rows[0] if rows else ():
            shape.add_column(name, overflow="fold")
        for values in rows[1:]:
            shape.add_row(*values)
        if rows:
            console.print(title, style="italic", soft_wrap=True)
            console.print(shape)
    lines = [*reasons(plan, table), f"table    {plan.path / 'sweep.csv'}, sweep.md"]
    if any(row.run for row in table):
        lines.append(f"compare  {pasted('detr', 'compare', plan.path)}")
    depths = sorted({len(Path(row.job.folder).parts) for row in table})
    offline = [pattern for depth in depths if any(plan.path.glob(pattern := f"{depth * '*/'}{OFFLINE}"))]
    if offline:
        lines.append(f"W&B      {' '.join(['wandb sync', *(f'{pasted(plan.path)}/{each}' for each in offline)])}")
    for line in lines:
        console.print(line, soft_wrap=True)


def by_job(table: Sequence[JobResult]) -> list[list[str]]:
    """Return a header and a row for each job; why jobs ended is only said where it is not the same for all."""
    header, cells = columns(table)
    rows = [[shown(name, value) for name, value in zip(header, values, strict=True)] for values in cells]
    header = ["time" if name == "minutes" else name for name in header]
    if len({row.ended for row in table if row.ended is not None}) > 1:
        header = [*header, "ended by"]
        rows = [[*cells, row.ended or "–"] for cells, row in zip(rows, table, strict=True)]
    return [header, *rows]


def by_setting(table: Sequence[JobResult]) -> list[list[str]]:
    """Return a header and a row for each setting; nothing where every job has one of its own."""
    runs = [row.run for row in table if row.run is not None]
    try:
        settings = group(runs).settings if runs else []
    except UserError:  # of a program with other configs than train.py
        settings = []
    if all(len(setting.runs) == 1 for setting in settings):
        return []
    names = dict.fromkeys(["AP", "AP50", *(run.monitor for run in runs)])
    return [["setting", "seeds", *names, "last AP"], *(_setting(setting, list(names)) for setting in settings)]


def _setting(setting: Setting, names: list[str]) -> list[str]:
    metrics = [moments(setting.runs, name) for name in names]
    return [setting.description, str(len(setting.runs)), *metrics, moments(setting.runs, "AP", last=True)]


def failed(table: Sequence[JobResult]) -> list[JobResult]:
    return [row for row in table if row.status == "failed"]


def reasons(plan: Plan, table: Sequence[JobResult]) -> list[str]:
    """Return a line for each job that failed: its number, what set it apart, why, and where its log is."""
    lines = []
    for row in failed(table):
        logs = sorted((plan.path / row.job.folder).glob("*.log"))
        lines.append(f"{plan.label(row.job)}: {row.error}; log: {logs[0] if logs else row.job.folder}")
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


def shown(name: str, value: Value) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return duration(value) if name == "minutes" else f"{value:.3f}"


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """As Markdown, the header first."""
    first, *others = ([in_markdown(cell) for cell in row] for row in rows)
    return [f"| {' | '.join(cells)} |" for cells in (first, ["---"] * len(first), *others)]
