"""Error reports that `detr analyse` wrote of runs: where they are, and where settings go wrong differently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detr.comparison.images import AGREES
from detr.comparison.reading import Run
from detr.comparison.settings import Setting
from detr.evaluation.analysis.names import KINDS, NUMBERS, PAGE


@dataclass(frozen=True)
class Reported:
    """Holds the error report of a run."""

    run: Run
    page: Path
    iou: str  # what its overlaps are of: boxes or masks
    costs: dict[str, float]  # kind of error → what it costs of AP50, in points


def reports(setting: Setting) -> list[Reported]:
    """Return the reports of a setting's runs, of those that have one of the numbers that are compared."""
    return [report for run in setting.runs if (report := report_of(run)) is not None]


def report_of(run: Run) -> Reported | None:
    """Return the report beside a run's predictions; None where there is none, or it is of other predictions."""
    folder = run.folder if run.evaluation is None else run.evaluation.folder
    if folder is None:
        return None
    try:
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        iou = content.get("iou", "boxes")
        same = abs(content["AP"] - run.metrics()["segm/AP" if iou == "masks" else "AP"]) < AGREES
        costs = {kind: 100 * float(content["errors"][kind]["AP50_cost"]) for kind in KINDS}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Reported(run, (folder / PAGE).resolve(), iou, costs) if same else None


def mean_costs(found: Sequence[Reported], iou: str) -> dict[str, float]:
    """Return kind → what it costs by IoU of boxes or masks, as a mean over runs; nothing where there are none."""
    costs = [each.costs for each in found if each.iou == iou]
    return {kind: float(np.mean([each[kind] for each in costs])) for kind in KINDS} if costs else {}
