"""A check as one HTML page that needs nothing but itself, and its pictures as files beside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from detr import __version__
from detr.checking.check import Report
from detr.checking.classes import counts_of
from detr.checking.finding import Finding
from detr.checking.records import Records
from detr.checking.sheets import finding_sheet, heat_map
from detr.drawing.page import encoded, fill, section, uri
from detr.files import write_atomically

TEMPLATE = Path(__file__).with_name("page.html")
MOST_CLASSES = 100  # rows of the table
BINS = np.array([0, 8, 16, 32, 64, 128, 256, 512, np.inf])  # pixels, of the sides' geometric mean


def write_report(
    report: Report, folder: Path, *, root: str, augmented: Image.Image | None, labels: Mapping[str, Image.Image]
) -> Path:
    """Write the page and its pictures, and return where the page is.

    Args:
        report: what was found.
        folder: gets check.html and a JPEG for each sheet.
        root: what the data set is called.
        augmented: images as the model receives them.
        labels: title → sheet of likely label errors.
    """
    sheets = {}
    for number, finding in enumerate(report.findings):
        sheet = finding_sheet(finding, report.records.get(finding.split))
        if sheet is not None:
            sheets[number] = _keep(sheet, folder / f"{number:02}_{finding.split}_{finding.check}.jpg")
    label_sheets = [
        f"<h3>{escape(title)}</h3>{_image(_keep(sheet, folder / f'labels_{number}.jpg'), title)}"
        for number, (title, sheet) in enumerate(labels.items())
    ]
    images = sum(map(len, report.records.values()))
    objects = sum(int(each.usable.sum()) for each in report.records.values())
    counts = ", ".join(f"{count} × {severity}" for severity, count in report.counts.items() if count)
    content = fill(
        TEMPLATE,
        title=escape(f"Check of {root}"),
        subtitle=escape(f"{counts or 'nothing found'}; {images:,} images, {objects:,} objects"),
        findings="".join(_finding(each, sheets.get(number)) for number, each in enumerate(report.findings))
        + "".join(f'<p class="soft">{escape(note)}</p>' for note in report.notes),
        labels=section("Likely label errors", "".join(label_sheets)),
        augmented=""
        if augmented is None
        else section(
            "As the model receives them, after augmentation",
            _image(_keep(augmented, folder / "augmented.jpg"), "training images with boxes, augmented"),
        ),
        classes=_classes(report.records),
        sizes=_sizes(report.records),
        centres=_centres(report.records, folder),
        footer=f"Written by detr {escape(__version__)} check.",
    )
    write_atomically(folder / "check.html", content)
    return folder / "check.html"


def _finding(finding: Finding, sheet: str | None) -> str:
    picture = "" if sheet is None else _image(sheet, f"where: {finding.what}")
    head = f"{finding.severity} · {escape(finding.split)} · {finding.check}"
    return f'<div class="finding {finding.severity}"><b>{head}</b><br>{escape(finding.message)}{picture}</div>'


def _classes(splits: Mapping[str, Records]) -> str:
    names = {number: name for records in splits.values() for number, name in records.categories.items()}
    counts = {split: counts_of(records) for split, records in splits.items()}
    ordered = sorted(names, key=lambda number: -sum(each.get(number, 0) for each in counts.values()))
    rows = [(names[number], [each.get(number, 0) for each in counts.values()]) for number in ordered[:MOST_CLASSES]]
    more = f'<p class="soft">and {len(ordered) - MOST_CLASSES} more</p>' if len(ordered) > MOST_CLASSES else ""
    return section("Objects of each class", _bars("class", list(counts), rows) + more)


def _sizes(splits: Mapping[str, Records]) -> str:
    tables = []
    for records in splits.values():
        sides = np.sqrt(records.boxes[records.usable, 2:].prod(axis=1))
        tables.append(np.histogram(sides, BINS)[0].tolist())
    names = [
        f"{low:.0f} to {high:.0f}" if np.isfinite(high) else f"from {low:.0f}" for low, high in itertools.pairwise(BINS)
    ]
    rows = [(name, [table[number] for table in tables]) for number, name in enumerate(names)]
    rows = [(name, values) for name, values in rows if any(values)]
    return section("Sizes of boxes in the files, pixels (√ of width × height)", _bars("size", list(splits), rows))


def _bars(first: str, splits: Sequence[str], rows: Sequence[tuple[str, list[int]]]) -> str:
    """A table with a bar for every number, each split against its own largest."""
    most = [max([values[index] for _, values in rows], default=0) or 1 for index in range(len(splits))]
    head = "".join(f'<th scope="col" colspan="2">{escape(split)}</th>' for split in splits)
    body = ""
    for name, values in rows:
        cells = "".join(
            f'<td class="number">{value:,}</td><td><div class="track"><div class="fill c{index}" '
            f'style="width:{100 * value / most[index]:.1f}%"></div></div></td>'
            for index, value in enumerate(values)
        )
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr><th scope="col">{first}</th>{head}</tr></thead>{body}</table></div>'


def _centres(splits: Mapping[str, Records], folder: Path) -> str:
    figures = ""
    for split, records in splits.items():
        heat = heat_map(records)
        if heat is not None:
            source = _keep(heat, folder / f"centres_{split}.png")
            picture = f'<img class="heat" src="{source}" alt="centres of the boxes of {escape(split)}">'
            figures += f"<figure><figcaption>{escape(split)}</figcaption>{picture}</figure>"
    return section("Where the centres of boxes lie", f'<div class="plots">{figures}</div>' if figures else "")


def _image(source: str, words: str) -> str:
    return f'<img src="{source}" alt="{escape(words)}">'


def _keep(picture: Image.Image, path: Path) -> str:
    """Write a picture; the same comes back for the page."""
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    content = encoded(picture, kind, quality=82)
    write_atomically(path, content)
    return uri(content, kind)
