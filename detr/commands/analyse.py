"""Say what a detector gets wrong: errors by kind, thresholds, calibration, the worst images, on one page.

detr analyse outputs/train/DATE                                # a run: its newest evaluation, else its best epoch
detr analyse outputs/train/DATE split=test                     # as evaluate.py found it last on the test split
detr analyse outputs/evaluate/DATE                             # an evaluation
detr analyse checkpoint=outputs/train/DATE/checkpoints/best.pt split=test    # evaluate first; evaluate.py report=true

A run or an evaluation has its predictions already, and takes seconds. With checkpoint= everything is as with
`detr evaluate`, whose keys may follow. analysis.html and analysis.json are written beside predictions.json.

Arguments of a run are KEY=VALUE:

  split=val        train | val | test; what evaluate.py found last, or for val the best epoch of the training
  iou=boxes        boxes | masks: what overlaps are of; masks where the detector finds some
  output=FOLDER    where the page and its numbers go instead

What each number means, and what to do about it: docs/analysing.md.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError

if TYPE_CHECKING:
    from detr.comparison.data import SplitData
    from detr.comparison.evaluations import Evaluated

KEYS = ("split", "iou", "output")
HELP = "see detr analyse --help"


def main(arguments: Sequence[str] | None = None) -> None:
    """Analyse what the command line names: a checkpoint is evaluated first, a folder holds its predictions."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with user_errors():
        if {"-h", "--help"} & set(given):
            print(inspect.cleandoc(__doc__ or ""))
            return
        if not any(word.startswith("checkpoint=") for word in given):
            folder, options = parse(given)
            analyse(folder, **options)
            return
    from detr.commands.evaluate import main as evaluate

    evaluate([*given, "report=true"])


def parse(given: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """Return the folder that a command line names, and what it says of it.

    Raises:
        UserError: there is not exactly one folder, or a key that does not exist.
    """
    folders = [word for word in given if "=" not in word or Path(word).expanduser().is_dir()]
    if len(folders) != 1 or folders[0].startswith("-"):
        found = f"got {', '.join(folders)}" if folders else "got none"
        raise UserError(f"expected one run's folder, or checkpoint=PATH, {found}; {HELP}")
    options = {}
    for word in given:
        key, _, value = word.partition("=")
        if word == folders[0]:
            continue
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or f"; a run has {', '.join(KEYS)}; checkpoint= has all keys of evaluate.py"
            raise UserError(f"{key}: there is no such key{hint}")
        options[key] = value
    return Path(folders[0]).expanduser(), options


def analyse(folder: Path, *, split: str | None = None, iou: str = "boxes", output: str | None = None) -> None:
    """Analyse the predictions that lie in a folder, write the report and say what is in it.

    Raises:
        UserError: there is no run, it has no predictions, no masks for `iou=masks`, or its data are not what they were.
    """
    # Here, so that `detr --help` need not wait for numpy.
    from detr.analysing.report import report
    from detr.comparison.images import read_predictions
    from detr.data.dataset import Split
    from detr.evaluation.analysis.names import Iou
    from detr.evaluation.results import Results
    from detr.tracking.console import Console

    if split is not None and split not in get_args(Split):
        raise UserError(f"split: expected {', '.join(get_args(Split))}, got {split!r}")
    if iou not in get_args(Iou):
        raise UserError(f"iou: expected {' or '.join(get_args(Iou))}, got {iou!r}")
    place, data = found_in(folder, split)
    predictions = place / "predictions.json"
    rows = read_predictions(predictions, masks=True)
    truth = data.read()
    if not truth.coco["annotations"]:
        raise UserError(f"the {data.split} split of {data} has no annotations: there is nothing to compare with")
    try:
        results = Results.of(rows)
    except (ValueError, TypeError) as error:
        raise UserError(f"{predictions} cannot be read as COCO results ({error})") from error
    if iou == "masks" and rows and not results.has_masks:
        raise UserError(f"iou=masks, but {predictions} has boxes only; evaluator.masks=true evaluates masks, too")
    if not results.boxes.keys() <= {image["id"] for image in truth.images}:
        raise UserError(f"{predictions} has images that {data} does not have")
    target = place if output is None else Path(output).expanduser()
    report(truth.coco, results, truth.files, target, Console(), title=str(folder), split=data.split, iou=iou)  # type: ignore[arg-type]


def found_in(folder: Path, split: str | None) -> tuple[Path, SplitData]:
    """Return where the predictions of a run or an evaluation lie, and what they are of.

    Raises:
        UserError: it is neither, or there are no predictions for the split; with the command that makes them.
    """
    from detr.comparison.data import split_data
    from detr.comparison.evaluations import VALIDATION, read_evaluation
    from detr.comparison.reading import read_run
    from detr.config.recorded import CONFIG

    if not folder.is_dir():
        what = f"a file; give the folder of its run, or checkpoint={folder}" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    if (folder / ".hydra" / "evaluated.yaml").exists():
        return folder, evaluation_data(folder, split)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: not a run: there is no {CONFIG} in it; give a run's own folder, outputs/train/DATE")
    evaluation = newest_evaluation(folder) if split is None else read_evaluation(folder, split)
    best = next((path for name in ("best", "last") if (path := folder / "checkpoints" / f"{name}.pt").exists()), None)
    make = f"; make them with detr analyse checkpoint={best} split={split or VALIDATION}" if best else ""
    if evaluation is None and split not in (None, VALIDATION):
        raise UserError(f"{folder}: there are no predictions on the {split} split{make}")
    place = folder if evaluation is None else evaluation.folder
    if not (place / "predictions.json").exists():
        raise UserError(f"{place}: there are no predictions{make or ': the run did not get to an evaluation'}")
    run = replace(read_run(folder), evaluation=evaluation)
    if evaluation is None and run.trainer.get("overfit_batches"):
        raise UserError(f"{folder}: trainer.overfit_batches evaluates a part of the training split only{make}")
    return place, split_data(run)


def newest_evaluation(folder: Path) -> Evaluated | None:
    """Return what evaluate.py noted last in a run's folder; None where it never was called."""
    from detr.comparison.evaluations import read_evaluation

    files = sorted((folder / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime)
    return read_evaluation(folder, files[-1].stem) if files else None


def evaluation_data(folder: Path, split: str | None) -> SplitData:
    """Return what an evaluation's own folder says of its data.

    Raises:
        UserError: it is of another split.
    """
    from detr.comparison.data import SplitData, as_json
    from detr.config.recorded import noted, recorded

    facts: Mapping = noted(folder)
    own = facts.get("split") or "val"
    if split not in (None, own):
        raise UserError(f"{folder}: an evaluation on {own}, not on {split}")
    source = recorded(folder, folder / ".hydra" / "evaluated.yaml")
    fingerprint = (facts.get("data") or {}).get(own)
    places = (facts.get("code") or {}).get("places", {})
    return SplitData(
        as_json(source.section("dataset")),
        None if fingerprint is None else as_json(fingerprint),
        source.cwd,
        own,
        places,
    )
