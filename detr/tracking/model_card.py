"""The model card: README.md in the folder of every run, made from what the run has written there so far."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detr.config.recorded import recorded
from detr.errors import UserError, in_words
from detr.files import write_atomically
from detr.structures import Classes
from detr.texts import in_markdown
from detr.tracking.record import RUN, RunRecord
from detr.tracking.rows import METRICS, Row, best_row, read_rows
from detr.tracking.runs import CARD, EVALUATED
from detr.tracking.status import RunStatus, read_status
from detr.tracking.words import count, duration

log = logging.getLogger(__name__)

MARKER = "<!-- Written by detr, and written again while the run goes on: remove this line to keep what you change. -->"
CLASSES = 100  # names; of more there is the number
FIRST = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "PQ", "SQ", "RQ")  # of the metrics


def write_card(folder: Path) -> None:
    """Write README.md of a run from run.json, its config, its metrics and its status; a README of the user's stays.

    What goes wrong is a warning: the run itself matters more.
    """
    try:
        if is_ours(folder / CARD):
            write_atomically(folder / CARD, card(folder))
    except Exception as error:
        log.warning("%s could not be written: %s", folder / CARD, in_words(error))


def carry_card(checkpoint: str, exported: Path) -> Path | None:
    """Write the model card of a checkpoint's run beside an exported file: detector.onnx gets detector.md.

    Args:
        checkpoint: as it was given to the command; one that does not lie in a run's folder has no card.
        exported: the file, or the folder of those that were written.

    Returns:
        The file that was written; None where there is no card, or where a text of the user's has its place.
    """
    source = Path(checkpoint).absolute().parent.parent / CARD
    target = exported.with_name(f"{exported.name if exported.is_dir() else exported.stem}.md")
    if not source.is_file() or not is_ours(source) or not is_ours(target):
        return None
    content = source.read_text(encoding="utf-8")
    of = f"Exported from `{Path(checkpoint).name}` of this run: {in_markdown(exported.name)}."
    write_atomically(target, content.replace(MARKER, f"{MARKER}\n\n{of}", 1))
    log.info("model card: %s", target)
    return target


def is_ours(path: Path) -> bool:
    """Return whether a card may be written there: nothing is there yet, or a card that nobody has taken over."""
    try:
        return MARKER in path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
    except OSError:
        return False


def card(folder: Path) -> str:
    """Return the model card of the run in a folder, as Markdown that begins with Hugging Face's fields."""
    facts = json.loads((folder / RUN).read_text(encoding="utf-8"))
    record = RunRecord(**facts)
    config = recorded(folder, None if record.checkpoint is None else folder / EVALUATED)
    training = record if record.checkpoint is None else record.of_training()
    name = str(config.config.get("name") or "${")
    name = training.choices.get("experiment", "detr") if "${" in name else name
    license_name = config.section("license")
    tags = ["object-detection", "detection-transformer"]
    fields = {"library_name": "detr", "pipeline_tag": "object-detection", "tags": tags}
    fields |= {} if license_name is None else {"license": str(license_name)}
    if record.checkpoint is None:
        opening = f"A detection transformer, {_state(record, read_status(folder))}."
        numbers = _training_metrics(read_rows(folder / METRICS), config.section("trainer.monitor") or "AP", record)
    else:
        opening = f"An evaluation of {in_markdown(record.checkpoint['path'])} on the {record.split} split."
        numbers = _metrics(_read_metrics(folder / "metrics.json"), record.intervals or {})
    parts = [
        ["---", yaml.safe_dump(fields, sort_keys=False).rstrip(), "---", MARKER],
        [f"# {in_markdown(name)}", "", opening],
        ["## Metrics", "", *numbers],
        ["## Data", "", *_data(record)],
        ["## Configuration", "", *_configuration(record)],
        ["## Training" if record.checkpoint is None else "## Made with", "", *_made(record)],
        *([["## Use", "", *_use(folder)]] if record.checkpoint is None else []),
        ["## Licence", "", "not said" if license_name is None else in_markdown(license_name)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _state(record: RunRecord, status: RunStatus) -> str:
    if status.status == "failed":
        return f"whose training failed: {in_markdown(status.error)}"
    if status.status == "finished":
        return f"whose training is over: {in_markdown(record.ended)}"
    return "in training" if record.ended is None else f"not yet trained to its end: {in_markdown(record.ended)}"


def _training_metrics(rows: Sequence[Row], monitor: str, record: RunRecord) -> list[str]:
    best = best_row(rows, monitor)
    if best is None:
        return ["None yet." if record.ended is None else "The validation split was not evaluated."]
    named = {key.removeprefix("val/"): value for key, value in best.items() if key.startswith("val/")}
    of = f"On the validation split, after epoch {best['epoch']}, the best by {in_markdown(monitor)}:"
    return [of, "", *_metrics(named, record.intervals or {})]


def _metrics(named: Mapping[str, float | None], intervals: Mapping[str, Sequence[float]]) -> list[str]:
    """A table, with intervals where there are any; AP by class after it."""
    rows = {name: value for name, value in named.items() if value is not None and not name.startswith("AP/")}
    if not rows:
        return ["None: there are no annotations."]
    order = [name for name in FIRST if name in rows] + [name for name in rows if name not in FIRST and "/" not in name]
    cells = [[name, f"{rows[name]:.3f}", _between(intervals.get(name))] for name in order]
    lines = _table(["metric", "value", "95 % over images"] if intervals else ["metric", "value"], cells)
    classes = {name.removeprefix("AP/"): value for name, value in named.items() if name.startswith("AP/")}
    by_class = [[name, "–" if value is None else f"{value:.3f}"] for name, value in classes.items()]
    return lines + (["", *_table(["class", "AP"], by_class)] if 0 < len(by_class) <= CLASSES else [])


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _data(record: RunRecord) -> list[str]:
    data: Mapping[str, Any] = record.data or {}
    rows = [[split, f"{each['images']:,}", f"{each['objects']:,}", each["digest"]] for split, each in data.items()]
    lines = _table(["split", "images", "objects", "digest"], rows)
    names = [name for name in record.classes or [] if name != Classes.HOLE]
    listed = f": {in_markdown(', '.join(names))}" if len(names) <= CLASSES else ""
    plural = "class" if len(names) == 1 else "classes"
    return lines + ([] if record.classes is None else ["", f"{len(names)} {plural}{listed}."])


def _configuration(record: RunRecord) -> list[str]:
    choices = [[group, option] for group, option in record.choices.items()]
    given = ["Overrides:", "", *(f"- {in_markdown(each)}" for each in record.overrides)] if record.overrides else []
    return [*_table(["group", "option"], choices), "", *given, *([""] if given else []), "The whole is in `.hydra/`."]


def _made(record: RunRecord) -> list[str]:
    return [f"- {name}: {in_markdown(value)}" for name, value in _facts(record)]


def _facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    """What a run is made with, as far as it is known."""
    hardware = record.hardware or {}
    if record.parameters:
        total, trainable = record.parameters["total"], record.parameters["trainable"]
        yield "parameters", f"{total / 1e6:.1f} million, {trainable / 1e6:.1f} million of them trained"
    if record.init_from:
        yield "started from", str(record.init_from.get("source", "other weights"))
    if record.steps is not None:
        yield "steps", f"{record.steps:,}"
    if record.minutes is not None:
        yield "time", f"{duration(record.minutes)} of training"
    if hardware:
        cores = count(hardware["cpu_cores"], "core")
        devices = hardware.get("devices") or []
        yield "hardware", "; ".join([*devices, f"{hardware['cpu']}, {cores}"])
        yield "software", f"Python {hardware['python']}, PyTorch {hardware['torch']}"
    if record.processes is not None and record.processes > 1:
        yield "processes", str(record.processes)
    if record.git is not None:
        yield "code", record.git


def _use(folder: Path) -> list[str]:
    """How to load it, from the run's folder."""
    name = "best" if (folder / "checkpoints" / "best.pt").exists() else "last"
    return [
        "In this folder:",
        "",
        "```bash",
        f"detr evaluate checkpoint=checkpoints/{name}.pt",
        "```",
        "",
        "```python",
        "from detr import Detector",
        "",
        f'detector = Detector.load("checkpoints/{name}.pt")',
        'detector("image.jpg").draw().save("found.png")',
        "```",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cut = [[in_markdown(cell) for cell in row[: len(header)]] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *cut)]


def _read_metrics(path: Path) -> dict[str, float]:
    """Of an evaluation, without what is nested."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be read ({problem})") from problem
    numbers = {name: value for name, value in found.items() if isinstance(value, float | int)}
    return numbers | {f"AP/{name}": value for name, value in (found.get("per_class") or {}).items()}
