"""Compare runs by their folders: what differs, whether it made a difference, how sure that is.

detr compare outputs/train/DATE outputs/train/DATE   # two runs, or as many as there are; the first is the baseline
detr compare outputs/sweep/DATE                      # all jobs of a sweep; runs that differ by seed are one setting
detr compare RUN… --html comparison.html             # one page with curves, classes and images side by side
detr compare RUN… --split test                       # as evaluated by detr evaluate checkpoint=… split=test
detr compare RUN… --json comparison.json             # every number, for other programs
detr compare wandb:me/detr/3f2a9c1b RUN              # a run in Weights & Biases, when online
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError
from detr.texts import visible

RUNS = "a run's folder, a folder with runs below it such as a sweep's, or a run in W&B: ENTITY/PROJECT/ID or wandb:…"
OPTIONS = ("--metric", "--epoch", "--split", "--html", "--json", "--help")


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
    parser.add_argument("runs", nargs="+", metavar="RUN|SWEEP", help=RUNS)
    parser.add_argument("--metric", default="AP", help="what the conclusion is about (default: %(default)s)")
    parser.add_argument("--epoch", choices=("best", "last"), default="best", help="of each run (default: %(default)s)")
    parser.add_argument(
        "--split",
        choices=("val", "test", "train"),
        default="val",
        help="val: as evaluated during training; else: as `detr evaluate` did last (default: %(default)s)",
    )
    parser.add_argument("--html", type=_path, metavar="FILE", help="write a page that needs nothing but itself")
    parser.add_argument("--json", type=_path, metavar="FILE", help="write all numbers for other programs")
    return parser


def _path(text: str) -> Path:
    """Where a file is to be written; no shell expands the `~` of `--html=~/page.html`."""
    return Path(text).expanduser()


def compare(arguments: argparse.Namespace) -> None:
    # Here, so that `detr --help` need not wait for numpy.
    from detr.comparison.comparison import compare
    from detr.comparison.evaluations import VALIDATION
    from detr.comparison.finding import find_runs
    from detr.comparison.table import show
    from detr.files import write_atomically, write_json
    from detr.tracking.console import Terminal

    if arguments.split != VALIDATION and arguments.epoch == "last":
        raise UserError(f"--epoch last: an evaluation on {arguments.split} has no epochs; leave it out")
    runs, skipped = find_runs(arguments.runs, arguments.split)
    for line in skipped:
        print(f"skipped: {visible(line)}", file=sys.stderr)
    comparison = compare(runs, metric=arguments.metric, last=arguments.epoch == "last", skipped=skipped)
    show(comparison, Terminal())
    if arguments.json:
        from detr.comparison.numbers import numbers

        write_json(arguments.json, numbers(comparison), indent=2)
        print(f"numbers  {arguments.json}")
    if arguments.html:
        from detr.comparison.page import page

        write_atomically(arguments.html, page(comparison))
        print(f"page     {arguments.html}")
