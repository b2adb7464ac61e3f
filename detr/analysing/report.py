"""An error report as files: a page, and its numbers for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from detr.analysing.page import page
from detr.analysing.pictures import Picture, worst_pictures
from detr.analysing.summary import points, summary
from detr.errors import UserError
from detr.evaluation.analysis.analysis import analyse
from detr.evaluation.analysis.names import NUMBERS, PAGE, Iou
from detr.evaluation.results import Results
from detr.files import write_atomically, write_json
from detr.tracking.console import Console


def report(
    truth: Mapping[str, Any],
    results: Results,
    files: Sequence[str],
    folder: Path,
    console: Console,
    title: str,
    split: str,
    iou: Iou = "boxes",
) -> None:
    """Analyse what was found, write analysis.html and analysis.json into a folder, and print what they come to.

    Args:
        truth: COCO dictionary of the split, all of whose images were looked at.
        results: what was found.
        files: [I] of the images, in the order of the dictionary's.
        folder: to write to.
        console: to print to.
        title: what the boxes are of.
        split: the name of the split.
        iou: what overlaps are of; of masks only where the results have them.

    Raises:
        UserError: the folder cannot be written, or objects have no masks to take overlaps of.
    """
    analysis = analyse(truth, results, iou)
    pictures: dict[str, list[Picture]] = {}
    note = f"Ground truth on the left, boxes with a score of at least {analysis.score:.3f} on the right."
    try:
        pictures = worst_pictures(analysis, truth, results, files)
    except UserError as error:
        note = f"No pictures: {error}."
    write_json(folder / NUMBERS, {"of": title, "split": split} | analysis.to_dict(), indent=1)
    write_atomically(folder / PAGE, page(analysis, pictures, title=title, split=split, note=note))
    table = Table(
        "kind",
        "costs AP50",
        f"errors from {analysis.score:.3f}",
        title=f"What goes wrong, in points, by IoU of {iou}",
        title_justify="left",
    )
    for kind, cost in analysis.costs.items():
        table.add_row(kind, points(cost.ap50), f"{analysis.count(kind):,}")
    console.rich.print(table)
    for line in summary(analysis):
        console.rich.print(line, soft_wrap=True)
    console.places({"error report": folder / PAGE, "its numbers": folder / NUMBERS})
