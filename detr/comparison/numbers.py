"""The comparison for other programs: every number that the terminal or the page shows, and those behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from detr.comparison.comparison import Comparison
from detr.comparison.conclusions import Conclusion
from detr.comparison.curves import AXES, Plot, plots
from detr.comparison.evaluations import VALIDATION
from detr.comparison.metrics import points, values
from detr.comparison.naming import is_ignored
from detr.comparison.pictures import look_at
from detr.comparison.reading import Run
from detr.comparison.settings import Setting
from detr.comparison.statistics import spread
from detr.errors import UserError


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Return plain containers. AP is in points (× 100), but in `rows`, which are those of metrics.jsonl."""
    return {
        "title": comparison.title,
        "split": comparison.split,
        "metric": comparison.metric,
        "epoch": "last" if comparison.last else "best",
        "units": comparison.legend,
        "settings": [_setting(comparison, index) for index in range(len(comparison.settings))],
        "differences": comparison.differences,
        "conclusions": [_conclusion(each) for each in comparison.conclusions],
        "curves": [_plot(plot) for axis in AXES for plot in plots(comparison.settings, comparison.metric, axis)],
        "images": _images(comparison),
        "summary": comparison.summary,
        "notes": comparison.notes,
        "skipped": comparison.skipped,
    }


def _setting(comparison: Comparison, index: int) -> dict[str, Any]:
    setting = comparison.settings[index]
    return {
        "name": setting.letter,
        "description": setting.description,
        "overrides": [each for each in setting.runs[0].recorded.overrides if not is_ignored(each)],
        "choices": setting.runs[0].choices,
        "seeds": [run.seed for run in setting.runs],
        "trained": {name: cells[index] for name, cells in comparison.lengths.items()},
        "runs": [_run(comparison, run) for run in setting.runs],
    } | {
        epoch: {name: _moments(comparison, setting, name, last=last) for name in _names(comparison)}
        for epoch, last in _epochs(comparison).items()
    }


def _run(comparison: Comparison, run: Run) -> dict[str, Any]:
    facts = {
        "folder": run.place,
        "seed": run.seed,
        "state": run.state,
        "ended": run.ended,
        "error": run.error,
        "git": run.revision,
        "epochs": run.epochs,
        "steps": run.steps,
        "planned_steps": run.facts.get("steps"),
        "minutes": run.minutes,
        "best_epoch": run.best["epoch"],
    }
    if run.evaluation is not None:
        facts |= {"evaluation": str(run.evaluation.folder), "checkpoint": run.evaluation.checkpoint}
    measured: dict[str, Any] = {
        epoch: {name: points(run, name, last=last) for name in _names(comparison)}
        for epoch, last in _epochs(comparison).items()
    }
    return facts | measured | {"rows": run.rows}


def _names(comparison: Comparison) -> list[str]:
    return [*comparison.metrics, *comparison.class_names]


def _epochs(comparison: Comparison) -> dict[str, bool]:
    """What the metrics are of, and whether it is the last epoch."""
    return {"best": False, "last": True} if comparison.split == VALIDATION else {comparison.split: False}


def _moments(comparison: Comparison, setting: Setting, name: str, *, last: bool) -> dict[str, Any]:
    found = values(setting.runs, name, last=last)
    return {
        "mean": float(np.mean(found)) if found else None,
        "deviation": spread(found) if found else None,
        "n": len(found),
        "difference": comparison.difference(setting, name, last=last),
    }


def _conclusion(each: Conclusion) -> dict[str, Any]:
    interval = each.interval
    return {
        "baseline": each.baseline.letter,
        "other": each.other.letter,
        "verdict": each.verdict,
        "difference": each.difference,
        "interval": None if interval is None else [interval.low, interval.high],
        "level": None if interval is None else interval.level,
        "method": None if interval is None else interval.method,
        "sentence": each.sentence(),
    }


def _plot(plot: Plot) -> dict[str, Any]:
    lines = {
        line.letter: [{plot.axis: at.x, "mean": at.mean, "low": at.low, "high": at.high} for at in line.points]
        for line in plot.lines
    }
    return {"title": plot.title, "axis": plot.axis, "lines": lines}


def _images(comparison: Comparison) -> dict[str, Any]:
    """What is found on each image, those first on which the settings differ most."""
    try:
        sight = look_at(comparison.settings, comparison.metric)
    except UserError as error:
        return {"note": f"no images: {error}", "rows": []}
    rows = [
        {"file": sight.truth.files[index], "objects": len(sight.objects[index].labels)}
        | {each.letter: {"found": each.found[index], "wrong": each.wrong(index)} for each in sight.seen}
        for index in sight.order
    ]
    return {"note": sight.note, "rows": rows}
