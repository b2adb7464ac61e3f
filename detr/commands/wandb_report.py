"""Make a W&B report of a sweep: AP by setting, curves, classes, images.

detr wandb-report outputs/sweep/DATE                      # saved in the sweep's W&B project, once its runs are there
detr wandb-report outputs/sweep/DATE --json report.json   # what would be uploaded; so without an account, too
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from detr.entry import user_errors
from detr.errors import UserError

REPORT = "wandb_report.json"


class Parser(argparse.ArgumentParser):
    """Answers mistakes in one line, as every other command does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see detr wandb-report --help")


def main() -> None:
    with user_errors():
        report(parser().parse_args())


def parser() -> Parser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="detr wandb-report",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep's folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what would be uploaded instead")
    return parser


def report(arguments: argparse.Namespace) -> None:
    # Here, so that `detr --help` need not wait for torch.
    from detr.files import write_atomically
    from detr.tracking.wandb_report import build_report, content_of, has_account, read_study, upload

    built = build_report(read_study(arguments.sweep))
    if arguments.json is None and has_account():
        print(f"report  {upload(built)}")
        return
    file = arguments.json or arguments.sweep / REPORT
    write_atomically(file, content_of(built) + "\n")
    reason = "" if arguments.json else " (there is no W&B account here: run `wandb login`, or set WANDB_API_KEY)"
    print(f"not uploaded{reason}; what would be is in {file}")
