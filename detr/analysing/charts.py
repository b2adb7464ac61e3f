"""Plots of an error report as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from detr.drawing.axes import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, color, grid
from detr.evaluation.analysis.analysis import ClassAnalysis
from detr.evaluation.analysis.calibration import Calibration

RECALLS = np.linspace(0, 1, 101)


def precision_recall(classes: Sequence[ClassAnalysis]) -> str:
    """Return precision over recall of the classes with most objects, a dot at each one's best F1; with a legend."""
    shown = sorted((each for each in classes if each.objects), key=lambda each: -each.objects)[:COLORS]
    across, up = _axes()
    lines = ""
    for index, each in enumerate(shown):
        reached = np.flatnonzero(each.precision > 0)
        points = " ".join(f"{across(RECALLS[at])},{up(float(each.precision[at]))}" for at in reached)
        lines += f'<polyline class="{color(index)}" points="{points}"><title>{escape(each.name)}</title></polyline>'
        if each.best is not None:
            place = f'cx="{across(each.best.recall)}" cy="{up(each.best.precision)}"'
            lines += f'<circle class="dot {color(index)}" {place} r="4"/>'
    legend = " ".join(
        f'<span class="key {color(index)}">{escape(each.name)}</span>' for index, each in enumerate(shown)
    )
    more = f" and {len(classes) - len(shown)} more classes" if len(classes) > len(shown) else ""
    return _figure("Precision over recall, IoU 0.5", grid(across, up, "recall") + lines, f"{legend}{more}")


def reliability(calibration: Calibration) -> str:
    """Return how many boxes are right over their scores, against a diagonal on which scores are to be trusted."""
    across, up = _axes()
    bars = ""
    for each in calibration.bins:
        if each.right is None or each.confidence is None:
            continue
        left, top = across(each.low) + 1, up(each.right)
        words = f"{each.boxes:,} boxes, mean score {each.confidence:.2f}, {100 * each.right:.0f} % right"
        bars += (
            f'<rect class="bin" x="{left}" y="{top}" width="{across(each.high) - left - 1:.1f}" '
            f'height="{up(0) - top:.1f}"><title>{words}</title></rect>'
            f'<circle class="dot c1" cx="{across(each.confidence)}" cy="{top}" r="3"/>'
        )
    diagonal = f'<line class="ideal" x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}"/>'
    note = "bars and dots below the line: scores are too high; above it: too low"
    return _figure("How many boxes are right, by score", grid(across, up, "score") + bars + diagonal, note)


def _axes() -> tuple[Scale, Scale]:
    return Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP)


def _figure(title: str, content: str, legend: str) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}</svg>'
    return f'<figure><figcaption>{escape(title)}</figcaption>{svg}<p class="soft">{legend}</p></figure>'
