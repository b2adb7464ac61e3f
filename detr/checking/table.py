"""What a check found, on the terminal."""

from __future__ import annotations

from rich.text import Text

from detr.checking.check import Report
from detr.checking.finding import Severity
from detr.texts import visible
from detr.tracking.console import Terminal

STYLES: dict[Severity, str] = {"error": "bold red", "damage": "yellow", "hint": "cyan"}
MEANING = {"error": "training would stop", "damage": "it would learn something wrong", "hint": "worth a look"}


def show(report: Report, console: Terminal) -> None:
    """Print each finding in one line, the worst first, and how many there are."""
    for each in report.findings:
        head = Text(f"{each.severity:<6} ", STYLES[each.severity])
        head.append(f"{each.split:<5} ", "default")
        head.append(f"{each.check}  ", "bold default")
        head.append(visible(each.message), "not bold default")
        console.print(head, soft_wrap=True)
    for note in report.notes:
        console.print(f"note   {note}", style="dim", soft_wrap=True)
    images = sum(map(len, report.records.values()))
    objects = sum(int(each.usable.sum()) for each in report.records.values())
    counts = [
        f"{report.counts[severity]} × {severity} ({MEANING[severity]})"
        for severity in STYLES
        if report.counts[severity]
    ]
    found = ", ".join(counts) or "nothing found"
    console.print(f"{found}; {images} images, {objects} objects, {report.seconds:.1f} s", soft_wrap=True)
