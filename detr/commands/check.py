"""Check a data set: every mistake in all its splits, how bad it is, where, and what to do.

detr check dataset=custom dataset.root=DATA                    # what train.py takes; any data set
detr check dataset=custom dataset.root=DATA pixels=false       # without decoding the images
detr check dataset=custom dataset.root=DATA --json found.json  # for other programs; exit status 0, or 1 for findings
detr check dataset=custom dataset.root=DATA output=report      # with pictures, and a page that needs nothing but itself
detr check dataset=custom dataset.root=DATA output=report fix=true               # and a corrected copy
detr check dataset=custom dataset.root=DATA output=report checkpoint=best.pt     # likely label errors, by a detector
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detr.config import Config
from detr.entry import entry_point, user_errors
from detr.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from detr.checking.check import Progress, Report
    from detr.config.containers import Section
    from detr.data.dataset import DataSet

FOUND = 1  # exit status


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what the command line says; the exit status says whether something was found."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    file: list[Path] = []
    with user_errors():
        given = _without_json(given, file)

    @entry_point("check")
    def check(config: Config) -> None:
        if _check(config, *file):
            sys.exit(FOUND)

    check(given)


def _without_json(given: list[str], file: list[Path]) -> list[str]:
    """The command line without `--json FILE`, which goes to `file`: Hydra knows no flags but its own."""
    rest = []
    words = iter(given)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--json":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("-") or (not equals and "=" in value):
            raise UserError("--json: expected a file; write --json FILE")
        file[:] = [Path(value).expanduser().absolute()]
    return rest


def _check(config: Config, json_file: Path | None = None) -> bool:
    """Check, and show and write what was found; whether a pipeline should stop comes back."""
    # Here: torch takes seconds, which --help and a typo need not wait for.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from detr.checking.check import check, order
    from detr.checking.settings import settings_of
    from detr.checking.table import show
    from detr.config import build_a
    from detr.data.dataset import DataSet
    from detr.files import write_json
    from detr.tracking.console import Terminal

    values = config.values
    if values["fix"] and values["output"] is None:
        raise UserError("fix=true writes a corrected copy: say where to with output=FOLDER")
    console = Terminal()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    sheets: dict[str, Image] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def progress(title: str, total: int) -> Callable[[int], object]:
            task = bars.add_task(title, total=total)
            return lambda done: bars.advance(task, done)

        data, settings = build_a(DataSet, values["dataset"]), settings_of(values)
        report = check(data, settings, pixels=values["pixels"], progress=progress)
        if values["checkpoint"] is not None:
            sheets = label_errors(report, values, progress)
            order(report)
    report.seconds = time.monotonic() - started
    show(report, console)
    if json_file is not None:
        write_json(json_file, report.to_dict(), indent=2)
    if values["output"] is not None:
        for line in write(report, data, values, sheets):
            console.print(line, soft_wrap=True)
    return report.failed(strict=values["strict"])


def label_errors(report: Report, values: Section, progress: Progress) -> dict[str, Image]:
    """Add likely label errors of every split that a training accepts to a report, and return a sheet of each split.

    Raises:
        UserError: the checkpoint cannot be read, or is of other classes.
    """
    from detr.assembly import assemble_evaluation
    from detr.checking.check import quiet
    from detr.checking.label_errors import Detected, label_findings
    from detr.checking.records import Records
    from detr.checking.sheets import label_sheet
    from detr.config import check
    from detr.inference.recipes import config_of
    from detr.weights.sources import load

    weights = load(values["checkpoint"])
    theirs, _ = check(config_of(weights, [], []))
    theirs = theirs.changed(dataset=values["dataset"])
    sheets = {}
    for name, records in list(report.records.items()):
        if not records.annotated:
            continue
        if any(each.severity == "error" and each.split in ("train", name) for each in report.findings):
            report.notes.append(f"{name}: not looked at by the detector, since a training would refuse it")
            continue
        with quiet():
            model, validation = assemble_evaluation(theirs, weights, name)  # type: ignore[arg-type]
        outcome = validation(model, progress(f"{name}: detecting", len(records)))  # type: ignore[arg-type]
        assert outcome is not None
        found, images = outcome.results, validation.loader.dataset
        detected = [
            Detected(found.boxes[number], found.scores[number], found.categories[number]) for number in images.image_ids
        ]
        read = Records.of(name, images.annotations)  # type: ignore[attr-defined]
        findings = list(label_findings(read, detected))
        report.findings += findings
        sheet = label_sheet(findings, read)
        if sheet is not None:
            sheets[name] = sheet
    return sheets


def write(report: Report, data: DataSet, values: Section, sheets: Mapping[str, Image]) -> Iterator[str]:
    """Write pictures, the page and, where it is asked for, a corrected copy; yield what to tell of it."""
    from detr.assembly import build_variations
    from detr.checking.check import quiet
    from detr.checking.copying import write_copy
    from detr.checking.page import write_report
    from detr.checking.sheets import augmented_sheet
    from detr.config import build

    output, augmented = Path(values["output"]), None
    variations = build_variations(values)
    try:
        with quiet():
            images = data.split("train", transform=build(values["augmentation"]["train"]), seed=values["seed"])
        augmented = augmented_sheet(images, variations)
    except UserError:
        pass  # the findings have it
    page = write_report(report, output, root=values["dataset"]["root"], augmented=augmented, labels=sheets)
    yield f"page   {page}"
    if values["fix"]:
        lines, overrides = write_copy(report, data, output)
        yield from (f"fixed  {line}" for line in lines)
        yield f"copy   use it with {shlex.join(overrides)}"
