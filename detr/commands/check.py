"""Check a data set: every mistake in all its splits, how bad it is, where, and what to do.

detr check dataset=custom dataset.root=DATA                    # what train.py takes; any data set
detr check dataset=custom dataset.root=DATA pixels=false       # without decoding the images
detr check dataset=custom dataset.root=DATA --json found.json  # for other programs; exit status 0, or 1 for findings
detr check dataset=custom dataset.root=DATA output=report      # with pictures, and a page that needs nothing but itself
detr check dataset=custom dataset.root=DATA output=report fix=true               # and a corrected copy
detr check dataset=custom dataset.root=DATA output=report checkpoint=best.pt     # likely label errors, by a detector
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr.config import Config
from detr.entry import entry_point, user_errors
from detr.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

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
        file[:] = [Path(value).absolute()]
    return rest


def _check(config: Config, json_file: Path | None = None) -> bool:
    # Here: torch takes seconds, which --help and a typo need not wait for.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from detr.checking.check import check
    from detr.checking.page import write_report
    from detr.checking.settings import settings_of
    from detr.checking.table import show
    from detr.config import build
    from detr.files import write_json
    from detr.tracking.console import Terminal

    values = config.values
    if values["fix"] and values["output"] is None:
        raise UserError("fix=true writes a corrected copy: say where to with output=FOLDER")
    console = Terminal()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.monotonic()
    data, settings = build(values["dataset"]), settings_of(values)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def progress(title: str, total: int) -> Callable[[int], object]:
            task = bars.add_task(title, total=total)
            return lambda done: bars.advance(task, done)

        report = check(data, settings, pixels=values["pixels"], progress=progress)
    report.seconds = time.monotonic() - started
    show(report, console)
    if json_file is not None:
        write_json(json_file, report.to_dict(), indent=2)
    if values["output"] is not None:
        page = write_report(
            report, Path(values["output"]), root=values["dataset"]["root"], augmented=augmented(data, values), labels={}
        )
        console.print(Text(f"page   {page}"), soft_wrap=True)
    return report.failed(strict=values["strict"])


def augmented(data: DataSet, values: Mapping[str, Any]) -> Image | None:
    """Return a sheet of training images as the model will receive them; None where they cannot be read."""
    from detr.checking.check import quiet
    from detr.checking.sheets import augmented_sheet
    from detr.config import build

    try:
        with quiet():
            images = data.split("train", transform=build(values["augmentation"]["train"]), seed=values["seed"])
        return augmented_sheet(images)
    except UserError:
        return None  # the findings have it
