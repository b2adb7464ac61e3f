"""Compare runs by their folders: what differs, whether it made a difference, how sure that is.

detr compare outputs/train/DATE outputs/train/DATE   # two runs, or as many as there are; the first is the baseline
detr compare outputs/sweep/DATE                      # all jobs of a sweep; runs that differ by seed are one setting
detr compare RUN… --html comparison.html             # one page with curves, classes and images side by side
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError

OPTIONS = ("--metric", "--epoch", "--html", "--json", "--help")


class Parser(argparse.ArgumentParser):
    """Answers mistakes in one line, as every other command does."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        raise UserError(f"{message}{did_you_mean(unknown, OPTIONS) if unknown else ''}; see detr compare --help")


def main() -> None:
    with user_errors():
        compare(parser().parse_args())


def parser() -> Parser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="detr compare",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN|SWEEP", help="a run's folder, or a folder with runs below it")
    parser.add_argument("--metric", default="AP", help="what the conclusion is about (default: %(default)s)")
    parser.add_argument("--epoch", choices=("best", "last"), default="best", help="of each run (default: %(default)s)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs nothing but itself")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers for other programs")
    return parser


def compare(arguments: argparse.Namespace) -> None:
    # Here, so that `detr --help` need not wait for numpy.
    from detr.comparison.comparison import compare
    from detr.comparison.reading import find_runs
    from detr.comparison.table import show
    from detr.files import write_atomically, write_json

    runs, skipped = find_runs(arguments.runs)
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    comparison = compare(runs, metric=arguments.metric, last=arguments.epoch == "last", skipped=skipped)
    show(comparison, Console())
    if arguments.json:
        write_json(arguments.json, comparison.to_dict(), indent=2)
        print(f"numbers  {arguments.json}")
    if arguments.html:
        from detr.comparison.page import page

        write_atomically(arguments.html, page(comparison))
        print(f"page     {arguments.html}")
