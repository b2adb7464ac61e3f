"""A W&B report of a sweep: what to look at first when its settings are compared."""

from __future__ import annotations

import importlib
import json
import netrc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detr.config.recorded import Recorded, recorded
from detr.errors import UserError
from detr.tracking.record import RUN
from detr.tracking.rows import METRICS, read_rows
from detr.tracking.runs import trainings_below
from detr.tracking.status import read_status
from detr.tracking.wandb_logger import PROJECT

SERVER = "https://api.wandb.ai"
HEADLINES = ("AP", "AP50", "AP75", "segm/AP", "PQ")  # of the metrics that a sweep has, those with a bar of their own
IMAGES = ("images/worst", "images/predictions", "images/training")
SHOWN_CLASSES = 30


@dataclass(frozen=True)
class Study:
    """Holds what a report of a sweep needs to know of its runs."""

    name: str
    project: str
    entity: str
    groups: list[str]  # of the runs in W&B
    runs: int
    metrics: list[str]  # of a validation, without "val/"
    splits: list[str]  # that checkpoints were evaluated on

    @property
    def headlines(self) -> list[str]:
        return [name for name in HEADLINES if name in self.metrics]

    @property
    def classes(self) -> list[str]:
        """Return the metrics by class, such as AP/cat."""
        return [name for name in self.metrics if name.startswith(("AP/", "PQ/"))][:SHOWN_CLASSES]


def read_study(folder: Path) -> Study:
    """Read what the runs in a sweep's folder left there.

    Raises:
        UserError: there is no run, or none that was logged to W&B.
    """
    runs = [run for run in trainings_below(folder) if (run / RUN).exists()]
    if not runs:
        raise UserError(f"{folder}: there is no run in it or below it; give the folder of a sweep")
    logged = {run: each for run in runs if "project" in ((each := recorded(run)).section("logger") or {})}
    if not logged:
        raise UserError(f"{folder}: its runs were not logged to W&B; train them with logger=wandb")
    loggers = [each.section("logger") for each in logged.values()]
    metrics = {key.partition("/")[2]: None for run in logged for row in read_rows(run / METRICS) for key in _val(row)}
    return Study(
        name=folder.resolve().name,
        project=loggers[0]["project"] or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=loggers[0]["entity"] or "",
        groups=sorted({_group(run, each) for run, each in logged.items()}),
        runs=len(logged),
        metrics=list(metrics),
        splits=sorted({file.stem for run in logged for file in (run / "evaluations").glob("*.json")} - {"val"}),
    )


def build_report(study: Study) -> Any:
    """Return a report of wandb-workspaces: bars and curves by setting, classes, tables and images.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        reports: Any = importlib.import_module("wandb_workspaces.reports.v2")
        filters: Any = importlib.import_module("wandb_workspaces.expr")
    except ImportError:
        raise UserError("a report needs wandb-workspaces; pip install 'detr-lab[report]'") from None

    trainings = [filters.Metric("Group").isin(study.groups), filters.Metric("JobType") == "train"]
    setting = reports.Config("setting")
    spread = {"groupby": setting, "groupby_aggfunc": "mean"}

    def grid(panels: Sequence[Any], name: str = "trainings by setting", groupby: Sequence[str] = ()) -> Any:
        for index, panel in enumerate(panels):
            panel.layout = reports.Layout(x=12 * (index % 2), y=8 * (index // 2), w=12, h=8)
        return reports.PanelGrid(
            runsets=[reports.Runset(name=name, filters=list(trainings), groupby=list(groupby))], panels=list(panels)
        )

    def bars(title: str, metrics: Sequence[str]) -> Any:
        return reports.BarPlot(title=title, metrics=list(metrics), groupby_rangefunc="stddev", **spread)

    def curve(key: str, axis: str) -> Any:
        return reports.LinePlot(title=key, x=axis, y=[key], groupby_rangefunc="stderr", **spread)

    by_setting = ["config.setting"]
    best = [bars(f"{name}, best epoch", [f"best/{name}"]) for name in study.headlines]
    tests = [bars(f"{name}, {split}", [f"{split}/{name}"]) for split in study.splits for name in study.headlines[:1]]
    curves = [curve(f"val/{name}", "epoch") for name in study.headlines]
    losses = [curve("val/loss", "epoch"), curve("train/loss", "step"), curve("train/grad_norm", "step")]
    classes = [bars(name, [f"best/{name}"]) for name in study.classes]
    looks = [reports.MediaBrowser(title=key.rpartition("/")[2], media_keys=[key]) for key in IMAGES]
    return reports.Report(
        project=study.project,
        entity=study.entity,
        title=f"{study.name} by setting"[:128],
        description=f"{study.runs} runs; those of one setting differ by their seed alone",
        width="fluid",
        blocks=[
            reports.H1("Which setting is best"),
            reports.P("Bars are means over seeds with their standard deviation."),
            grid([*best, *tests], groupby=by_setting),
            reports.H1("How they got there"),
            reports.P("Lines are means over seeds, bands their standard error."),
            grid([*curves, *losses], groupby=by_setting),
            reports.H1("Which classes differ"),
            grid(classes, groupby=by_setting),
            reports.H1("What they get wrong"),
            reports.P(
                "Of each run; its own page has tables of classes, precision-recall curves and a confusion matrix."
            ),
            grid(looks, name="trainings"),
        ],
    )


def content_of(report: Any) -> str:
    """Return what would be uploaded, as JSON."""
    return report._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)


def upload(report: Any) -> str:
    """Save a report in W&B, and return its address.

    Raises:
        UserError: W&B cannot be reached or refuses.
    """
    import wandb

    try:
        report.entity = report.entity or wandb.Api().default_entity
        return str(report.save().url)
    except Exception as error:  # of many kinds
        raise UserError(f"W&B does not take the report: {' '.join(str(error).split())}") from error


def has_account() -> bool:
    """Return whether W&B would let one in without asking for a key."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", SERVER)).hostname or ""
    try:
        return "WANDB_API_KEY" in os.environ or netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _group(run: Path, config: Recorded) -> str:
    """As the logger names it, and as it noted it."""
    noted = read_status(run).wandb_group
    if noted:
        return noted
    facts = json.loads((run / RUN).read_text(encoding="utf-8"))
    sweep = facts.get("sweep") or {}
    return str(config.section("logger")["group"] or sweep.get("name") or facts["choices"].get("experiment", ""))


def _val(row: dict[str, Any]) -> Iterator[str]:
    return (key for key in row if key.startswith("val/"))
