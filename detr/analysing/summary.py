"""What an analysis comes to in a few sentences."""

from __future__ import annotations

from detr.evaluation.analysis.analysis import Analysis
from detr.evaluation.analysis.names import MISSED

TELLING = 0.05  # mean difference of score and share of right boxes that is worth a word


def summary(analysis: Analysis) -> list[str]:
    """Return the sentences, most important first."""
    if not analysis.costs:
        return ["The split has no objects: there is nothing to find."]
    if analysis.best is None:
        return [f"No box finds an object: {analysis.objects:,} objects, {analysis.boxes:,} boxes."]
    return [_costliest(analysis), _threshold(analysis), *_trust(analysis)]


def points(value: float | None) -> str:
    """Return a number from 0 to 1 in points."""
    return "–" if value is None else f"{100 * value:.1f}"


def percent(value: float) -> str:
    """Return a share as CSS has it."""
    return f"{100 * value:.1f}%"


def _costliest(analysis: Analysis) -> str:
    kind, worst = max(analysis.costs.items(), key=lambda each: each[1].ap50)
    if not worst.ap50:
        return f"No kind of error costs anything: AP50 is {points(analysis.ap50)}."
    what = "missed objects" if kind == MISSED else f"{kind} errors"
    return (
        f"Most is lost to {what}: AP50 would be {points((analysis.ap50 or 0) + worst.ap50)} without them, and is "
        + (f"{points(analysis.ap50)}.")
    )


def _threshold(analysis: Analysis) -> str:
    best = analysis.best
    assert best is not None
    return (
        f"Cut at a score of {best.score:.3f} for the best F1, {points(best.f1)}: {points(best.precision)} % of the "
        f"boxes are right then, and {points(best.recall)} % of the objects are found."
    )


def _trust(analysis: Analysis) -> list[str]:
    error, bins = analysis.calibration.error, analysis.calibration.bins
    if error is None or error < TELLING:
        return []
    boxes = sum(each.boxes for each in bins)
    gap = sum(each.boxes * ((each.confidence or 0) - (each.right or 0)) for each in bins) / boxes
    if abs(gap) < TELLING:
        return [f"Scores are no probabilities: they are {points(error)} points off in the mean, up or down."]
    return [
        f"Scores are too {'high' if gap > 0 else 'low'} to be probabilities, by {points(abs(gap))} points in the mean."
    ]
