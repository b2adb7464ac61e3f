"""Which checkpoint a run goes on from, and whether it is of the same run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detr import distributed
from detr.config.references import contains, dotted, leaves, reached
from detr.errors import UserError
from detr.structures import Classes
from detr.texts import pasted
from detr.tracking.run_folder import RunFolder
from detr.weights.checkpoint import Checkpoint, Recipe, load_checkpoint, newest_intact
from detr.weights.sources import load

log = logging.getLogger(__name__)

PLACES = ("root", "panoptic_root")  # of a data set: the same files may lie somewhere else
FREE = (
    "backbone.checkpointing",
    "backbone.weights",
    "transformer.decoder.eval_layers",
    "dataset._target_",
    "dataset.holdout_seed",
    "dataset.cache",
)  # do not change a training; which images it is of, their fingerprint says
SHOWN = 4


def find_checkpoint(resume: str | None, folder: RunFolder) -> tuple[Checkpoint | None, str]:
    """Return the checkpoint to resume from, if any, and where it was found; every process gets what the first found.

    Raises:
        UserError: there is none where `resume` says, or it cannot be resumed from.
    """
    if resume is None:
        return None, ""
    if resume == "auto":
        return _newest(folder)
    found = load(resume).checkpoint
    if found is None or found.trainer is None:
        raise UserError(f"{resume} has weights but no training state; start from them with {pasted(init_from=resume)}")
    return found, resume


def _newest(folder: RunFolder) -> tuple[Checkpoint | None, str]:
    found = newest_intact(folder.checkpoints) if distributed.is_main() else None
    path: Path | None = distributed.from_main(None if found is None else found[0])
    if path is None:
        log.info("resume=auto: no checkpoint in %s; starting afresh", folder.checkpoints)
        return None, ""
    return (load_checkpoint(path) if found is None else found[1]), str(path)


def check_unchanged(before: Recipe, now: Recipe, source: str) -> None:
    """Refuse to continue with another model or data set than the checkpoint's.

    Raises:
        UserError: with what differs.
    """
    differences = list(_differences(before, now))
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UserError(
            f"{source} belongs to another run: {'; '.join(differences[:SHOWN])}{more}; set what it had, start a new "
            f"run with {pasted(init_from=source)}, or insist with resume_changed=true"
        )


def _differences(before: Recipe, now: Recipe) -> Iterator[str]:
    theirs, ours = _settings(before.config), _settings(now.config)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            yield f"{key} is {theirs.get(key, 'not there')} in it and {ours.get(key, 'not there')} here"
    if before.classes != now.classes:
        yield f"it has {before.classes.num_classes} classes, {_first_names(before.classes)}, not those of the data"
    if before.data != now.data:
        same = (before.data.images, before.data.objects) == (now.data.images, now.data.objects)
        yield (
            f"dataset: it has seen {before.data.images} training images with {before.data.objects} objects, not "
            + ("these, which are others" if same else f"{now.data.images} with {now.data.objects}")
        )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value of what the weights and the place in an epoch depend on: the model, all it refers to, the data."""
    places = {("dataset", place) for place in PLACES}
    found: dict[str, Any] = {}
    for start in [*reached(config, ("model",)), ("dataset",)]:
        if contains(config, start):
            node: Any = config
            for key in start:
                node = node[key]
            found |= {dotted(path): value for path, value in leaves(node, start) if path not in places}
    return {key: value for key, value in found.items() if key not in FREE}


def _first_names(classes: Classes) -> str:
    return ", ".join(classes.names[:SHOWN]) + ", …"
