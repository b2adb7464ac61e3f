"""The comparison as one HTML page that needs nothing but itself: style, script, plots and pictures are in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from detr import __version__
from detr.comparison.analyses import mean_costs, reports
from detr.comparison.charts import curves, intervals
from detr.comparison.comparison import Comparison
from detr.comparison.conclusions import Conclusion
from detr.comparison.curves import AXES, plots
from detr.comparison.evaluations import VALIDATION, split_name
from detr.comparison.metrics import NOTHING, moments, number, values
from detr.comparison.pictures import Panel, pictures
from detr.comparison.settings import Setting
from detr.drawing.axes import color
from detr.drawing.page import fill, section
from detr.tracking.words import count

TEMPLATE = Path(__file__).with_name("page.html")
MARKS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "not distinguishable": "≈ not distinguishable",
    "unknown": "no verdict",
}


def page(comparison: Comparison) -> str:
    """Return the whole page."""
    settings = comparison.settings
    epoch = f", each run's {'last' if comparison.last else 'best'} epoch" if comparison.split == VALIDATION else ""
    return fill(
        TEMPLATE,
        scripts=True,
        title=escape(comparison.title),
        subtitle=f"On the {split_name(comparison.split)} split{epoch}; AP in points (× 100)",
        verdicts=_verdicts(comparison),
        intervals=f"<div>{intervals(comparison.conclusions)}</div>",
        notes=_notes(comparison),
        settings="".join(_setting(index, setting) for index, setting in enumerate(settings)),
        differences=_differences(comparison),
        metrics=_metrics(comparison),
        curves=_curves(comparison),
        classes=_classes(comparison),
        errors=_errors(comparison),
        pictures=_pictures(comparison),
        footer=f"Written by detr {escape(__version__)} compare from the folders of the runs.",
    )


def _verdicts(comparison: Comparison) -> str:
    said = {each.sentence() for each in comparison.conclusions}
    others = [line for line in comparison.summary if line not in said]
    return "".join(map(_verdict, comparison.conclusions)) + "".join(f"<p>{_unbroken(line)}.</p>" for line in others)


def _verdict(each: Conclusion) -> str:
    style = each.verdict.split()[0]
    return f'<p class="verdict {style}"><b>{MARKS[each.verdict]}</b>{_unbroken(each.sentence())}</p>'


def _notes(comparison: Comparison) -> str:
    lines = comparison.notes + [f"skipped: {line}" for line in comparison.skipped]
    items = "".join(f"<li>{_unbroken(line)}</li>" for line in lines)
    return f'<ul class="notes" aria-label="notes">{items}</ul>' if items else ""


def _setting(index: int, setting: Setting) -> str:
    folders = "".join(
        f"<li>seed {escape(str(run.seed))}: <code>{escape(run.place)}</code></li>" for run in setting.runs
    )
    baseline = "; the baseline" if index == 0 else ""
    return (
        f'<li>{_chip(index, setting)}<span class="mono">{escape(setting.description)}</span>'
        f"<details><summary>{count(len(setting.runs), 'run')}{baseline}</summary><ul>{folders}</ul></details></li>"
    )


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    rows = []
    for key, found in comparison.differences.items():
        cells = "".join(
            f'<td class="mono{" changed" if value != found[0] else ""}">{escape(value)}</td>' for value in found
        )
        rows.append(f'<tr><th scope="row" class="mono">{escape(key)}</th>{cells}</tr>')
    return section("What differs", _table("config key", comparison.settings, [("", rows)], number=False))


def _metrics(comparison: Comparison) -> str:
    groups = []
    for epoch, last in comparison.epochs.items():
        groups.append((epoch, [_metric(comparison, name, last) for name in comparison.metrics]))
    lengths = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td class=number>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in comparison.lengths.items()
    ]
    table = _table("", comparison.settings, [*groups, ("training", lengths)])
    return section("Metrics", f'<p class="soft">{escape(comparison.legend)}.</p>{table}')


def _metric(comparison: Comparison, name: str, last: bool) -> str:
    cells = "".join(f'<td class="number">{_cell(comparison, each, name, last)}</td>' for each in comparison.settings)
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _cell(comparison: Comparison, setting: Setting, name: str, last: bool) -> str:
    words = moments(setting.runs, name, last=last)
    difference = comparison.difference(setting, name, last=last)
    return (
        words if difference is None else f'{words} <span class="delta">{number(difference, name, signed=True)}</span>'
    )


def _classes(comparison: Comparison) -> str:
    if not comparison.class_names:
        return ""
    means = [np.mean(values(each.runs, name) or 0) for each in comparison.settings for name in comparison.class_names]
    longest, rows = float(max(means)) or 1.0, []
    for name in comparison.class_names:
        cells = "".join(_bar(comparison, index, each, name, longest) for index, each in enumerate(comparison.settings))
        rows.append(f'<tr><th scope="row">{escape(name.removeprefix("AP/"))}</th>{cells}</tr>')
    return section(
        f"AP by class, {next(iter(comparison.epochs))}",
        _table("class", comparison.settings, [("", rows)], number=False),
    )


def _bar(comparison: Comparison, index: int, setting: Setting, name: str, longest: float) -> str:
    width = 100 * float(np.mean(values(setting.runs, name) or 0)) / longest
    return (
        f'<td><div class="bar {color(index)}">'
        f'<div class="track"><div class="fill" style="width:{width:.1f}%"></div></div>'
        f'<span class="number">{_cell(comparison, setting, name, False)}</span></div></td>'
    )


def _errors(comparison: Comparison) -> str:
    """Links to error reports, and what each kind of error costs, where the baseline and another setting have one."""
    found = [reports(setting) for setting in comparison.settings]
    if not any(found):
        return ""
    links = "".join(
        f'<li>{_chip(index, setting)}<a href="{escape(each.page.as_uri())}">seed {escape(str(each.run.seed))}</a></li>'
        for index, (setting, own) in enumerate(zip(comparison.settings, found, strict=True))
        for each in own
    )
    content = f'<p class="soft">Error reports by detr analyse:</p><ul class="settings">{links}</ul>'
    iou = found[0][0].iou if found[0] else "boxes"  # costs by boxes and by masks are not to be compared
    costs = [mean_costs(own, iou) for own in found]
    if not costs[0] or not any(costs[1:]):
        return section("Errors by kind", content)
    rows = []
    for kind, base in costs[0].items():
        cells = [f"{base:.1f}"]
        for own in costs[1:]:
            difference = f' <span class="delta">{own[kind] - base:+.1f}</span>' if own else ""
            cells.append(f"{own[kind]:.1f}{difference}" if own else NOTHING)
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f'<tr><th scope="row">{kind}</th>{numbers}</tr>')
    table = _table("points of AP50 that a kind costs", comparison.settings, [("", rows)])
    return section("Errors by kind", table + content)


def _curves(comparison: Comparison) -> str:
    drawn = {axis: "".join(map(curves, plots(comparison.settings, comparison.metric, axis))) for axis in AXES}
    several = any(len(setting.runs) > 1 for setting in comparison.settings)
    band = " Lines are means over seeds, bands reach from the lowest to the highest seed." if several else ""
    switch = (
        '<fieldset class="axes"><label><input type="radio" name="axis" id="epochs" checked> epochs</label>'
        '<label><input type="radio" name="axis" id="steps"> steps</label></fieldset>'
    )
    legend = " ".join(
        f"{_chip(index, each)} {escape(each.description)}" for index, each in enumerate(comparison.settings)
    )
    blocks = "".join(f'<div class="plots by-{axis}">{figures}</div>' for axis, figures in drawn.items())
    return section("Curves", f'{switch}<p class="soft">{legend}.{band}</p>{blocks}')


def _pictures(comparison: Comparison) -> str:
    found = pictures(comparison.settings, comparison.metric)
    if not found.rows:
        return section("The same images", f'<p class="soft">{escape(found.note)}</p>')
    return section("The same images", f'<p class="soft">{escape(found.note)}</p>{"".join(map(_row, found.rows))}')


def _row(panels: Sequence[Panel]) -> str:
    figures = "".join(
        f'<figure><figcaption title="{escape(each.caption)}">{escape(each.caption)}</figcaption>'
        f'<img src="{each.uri}" alt="{escape(each.description)}"></figure>'
        for each in panels
    )
    return f'<div class="pictures" style="grid-template-columns:repeat({len(panels)},minmax(0,1fr))">{figures}</div>'


def _table(
    first: str, settings: Sequence[Setting], groups: Sequence[tuple[str, list[str]]], *, number: bool = True
) -> str:
    style = ' class="number"' if number else ""
    heads = "".join(f'<th scope="col"{style}>{_chip(index, each)}</th>' for index, each in enumerate(settings))
    body = ""
    for title, rows in groups:
        head = (
            f'<tr class="group"><th colspan="{len(settings) + 1}" scope="rowgroup">{title}</th></tr>' if title else ""
        )
        body += f"<tbody>{head}{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table><thead><tr><th scope="col">{first}</th>{heads}</tr></thead>{body}</table></div>'


def _chip(index: int, setting: Setting) -> str:
    return f'<span class="chip {color(index)}">{setting.letter}</span>'


def _unbroken(sentence: str) -> str:
    """No line ends before a percent sign or within an option."""
    return escape(sentence).replace(" %", "&nbsp;%").replace("--epoch ", "&#8209;&#8209;epoch&nbsp;")
