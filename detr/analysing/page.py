"""An error report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from detr import __version__
from detr.analysing.charts import precision_recall, reliability
from detr.analysing.pictures import Picture
from detr.analysing.summary import percent, points, summary
from detr.drawing.axes import color
from detr.drawing.page import fill, section
from detr.evaluation.analysis.analysis import Analysis, ClassAnalysis
from detr.evaluation.analysis.calibration import LEAST
from detr.evaluation.analysis.names import KINDS
from detr.evaluation.metrics import AREAS
from detr.tracking.words import count

TEMPLATE = Path(__file__).with_name("page.html")
MOST_CLASSES = 100  # rows of the table
LARGEST_MATRIX = 20  # classes; of more, the pairs that are taken for each other most often are listed
MEANING = {
    "classification": "on an object (IoU from 0.5), of another class",
    "localisation": "of the right class, but too far off (IoU 0.1 to 0.5)",
    "both": "of another class, and too far off",
    "duplicate": "on an object that a surer box has found already",
    "background": "on nothing (IoU below 0.1)",
    "missed": "an object that no box finds, nor nearly finds",
}


def page(analysis: Analysis, pictures: Mapping[str, Sequence[Picture]], *, title: str, split: str, note: str) -> str:
    """Return the whole page.

    Args:
        analysis: what is said.
        pictures: of the worst images of each kind of error.
        title: what was analysed.
        split: on which split it was.
        note: on the pictures.
    """
    best = analysis.best
    facts = {
        "AP": points(analysis.ap["all"]),
        "AP50": points(analysis.ap50),
        **{f"AP {size}": points(analysis.ap[size]) for size in AREAS[1:]},
        "best threshold": "–" if best is None else f"{best.score:.3f}",
        "F1 there": "–" if best is None else points(best.f1),
        "calibration error": points(analysis.calibration.error),
    }
    return fill(
        TEMPLATE,
        title=f"Error report of {escape(title)}",
        subtitle=f"On the {escape(split)} split: {count(analysis.images, 'image')}, "
        f"{count(analysis.objects, 'object')}; AP and F1 in points (× 100), by IoU of {analysis.iou}",
        facts="".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items()),
        summary="".join(f"<p>{escape(line)}</p>" for line in summary(analysis)),
        errors=_errors(analysis),
        curves=_curves(analysis),
        classes=_classes(analysis),
        confusion=_confusion(analysis),
        groups=_groups(analysis),
        pictures=_pictures(pictures, note),
        footer=f"Written by detr {escape(__version__)} analyse. Kinds of errors: TIDE, Bolya et al. 2020.",
    )


def _errors(analysis: Analysis) -> str:
    if not analysis.costs:
        return ""
    largest = max(cost.ap50 for cost in analysis.costs.values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{kind}</th><td>{_bar(cost.ap50, largest, 1)}</td>'
        f'<td class="number">{analysis.count(kind):,}</td><td class="number">{cost.count:,}</td>'
        f'<td class="means">{MEANING[kind]}</td></tr>'
        for kind, cost in analysis.costs.items()
    )
    head = (
        '<th scope="col">kind</th><th scope="col">AP50 that it costs</th>'
        f'<th scope="col" class="number">from a score of {analysis.score:.3f}</th>'
        '<th scope="col" class="number">of all scores</th><th scope="col">a box …</th>'
    )
    explained = (
        '<p class="soft">AP50 would rise by this much if this kind of error alone were mended. The costs do not add '
        "up: what is lost to one kind may be lost to another, too.</p>"
    )
    return section("What goes wrong", f"{_table(head, rows)}{explained}")


def _curves(analysis: Analysis) -> str:
    explained = (
        '<p class="soft">A dot on a curve is the best F1 of the class. Calibration is of boxes with a score of at '
        f"least {LEAST:g}.</p>"
    )
    plots = precision_recall(analysis.classes) + reliability(analysis.calibration)
    return section("Thresholds and scores", f'<div class="plots">{plots}</div>{explained}')


def _classes(analysis: Analysis) -> str:
    shown = sorted(analysis.classes, key=lambda each: -each.objects)[:MOST_CLASSES]
    largest = max((each.ap["all"] or 0.0 for each in shown), default=0.0) or 1.0
    names = ["objects", *AREAS[1:], "AP50", "best threshold", "F1", "precision", "recall"]
    head = '<th scope="col">class</th><th scope="col">AP</th>'
    head += "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    rows = "".join(_class(each, largest) for each in shown)
    more = len(analysis.classes) - len(shown)
    note = f'<p class="soft">and {more} more, see analysis.json</p>' if more else ""
    return section("Classes", _table(head, rows) + note)


def _class(each: ClassAnalysis, largest: float) -> str:
    best = ["–"] * 4
    if each.best is not None:
        best = [f"{each.best.score:.3f}", *map(points, (each.best.f1, each.best.precision, each.best.recall))]
    cells = [f"{each.objects:,}", *(points(each.ap[size]) for size in AREAS[1:]), points(each.ap50), *best]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(each.name)}</th><td>{_bar(each.ap["all"], largest, 0)}</td>{numbers}</tr>'


def _confusion(analysis: Analysis) -> str:
    score = f"of at least {analysis.score:.3f}, the threshold of the best F1"
    if len(analysis.classes) > LARGEST_MATRIX:
        return section(
            "Classes taken for each other", _confused_pairs(analysis) + f'<p class="soft">Boxes {score}.</p>'
        )
    names = [*analysis.names, "background"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    shares = analysis.confusion / np.maximum(1, analysis.confusion.sum(axis=1, keepdims=True))
    rows = ""
    for true, name in enumerate(names):
        cells = "".join(
            f'<td class="{color(2 if true == found else 1)}" style="--part:{percent(0.8 * shares[true, found])}">'
            f"{number:,}</td>"
            for found, number in enumerate(analysis.confusion[true].tolist())
        )
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    table = _table(f"<th>true \\ found</th>{head}", rows, "matrix")
    explained = (
        f'<p class="soft">Objects by row, as which they are found by column, with boxes {score}. The last column has '
        "missed objects, the last row boxes that find none of their own; colours are shares of a row.</p>"
    )
    return section("Confusion matrix", table + explained)


def _confused_pairs(analysis: Analysis) -> str:
    confused = analysis.confusion[:-1, :-1].copy()
    np.fill_diagonal(confused, 0)
    order = np.argsort(-confused, axis=None, kind="stable")[:LARGEST_MATRIX]
    pairs = [(int(at) // len(confused), int(at) % len(confused)) for at in order]
    rows = "".join(
        f'<tr><th scope="row">{escape(analysis.names[true])}</th><td>{escape(analysis.names[found])}</td>'
        f'<td class="number">{confused[true, found]:,}</td></tr>'
        for true, found in pairs
        if confused[true, found]
    )
    head = '<th scope="col">is</th><th scope="col">found as</th><th scope="col" class="number">objects</th>'
    return _table(head, rows) if rows else "<p>None is.</p>"


def _groups(analysis: Analysis) -> str:
    largest = max((group.ap or 0.0 for group in analysis.groups), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{group.fewest}{f" to {group.most}" if group.most > group.fewest else ""}</th>'
        f"<td>{_bar(group.ap, largest, 2)}</td>"
        f'<td class="number">{points(group.ap50)}</td><td class="number">{group.images:,}</td></tr>'
        for group in analysis.groups
    )
    head = '<th scope="col">objects in an image</th><th scope="col">AP</th>'
    head += '<th scope="col" class="number">AP50</th><th scope="col" class="number">images</th>'
    return section("AP over the number of objects in an image", _table(head, rows)) if rows else ""


def _pictures(pictures: Mapping[str, Sequence[Picture]], note: str) -> str:
    blocks = ""
    for kind in KINDS:
        figures = "".join(
            f'<figure class="picture"><img src="{each.uri}" alt="{escape(each.caption)}">'
            f"<figcaption>{escape(each.caption)}</figcaption></figure>"
            for each in pictures.get(kind, ())
        )
        blocks += f"<h3>{kind.capitalize()}</h3>{figures}" if figures else ""
    explained = f'<p class="soft">{escape(note)}</p>' if note else ""
    return section("The worst images of each kind", explained + blocks if explained or blocks else "")


def _table(head: str, rows: str, style: str = "") -> str:
    return f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>{rows}</table></div>'


def _bar(value: float | None, largest: float, index: int) -> str:
    width = percent((value or 0.0) / largest)
    return (
        f'<div class="bar {color(index)}"><div class="track"><div class="fill" style="width:{width}"></div></div>'
        f"<span>{points(value)}</span></div>"
    )
