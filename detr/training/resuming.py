"""Which checkpoint a run goes on from, and whether it is of the same run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detr import distributed
from detr.data.coco import CocoDetection
from detr.errors import UserError
from detr.tracking.run_folder import RunFolder
from detr.weights.checkpoint import load_checkpoint, newest_intact
from detr.weights.sources import load

log = logging.getLogger(__name__)

# What a checkpoint's weights and its place in an epoch depend on.
MODEL = ("model", "backbone", "neck", "position_embedding", "transformer", "queries", "mask_head")
DATA = "dataset"
PLACES = ("root", "panoptic_root")  # of a data set: the same files may lie somewhere else
SHOWN = 4


def find_checkpoint(resume: str | None, folder: RunFolder) -> tuple[dict[str, Any] | None, str]:
    """The checkpoint to resume from, if any, and where it was found. Every process gets the one that the first found.

    Raises:
        UserError: there is none where `resume` says, or it cannot be resumed from.
    """
    if resume is None:
        return None, ""
    if resume == "auto":
        return _newest(folder)
    found = load(resume).checkpoint
    if found is None or "trainer" not in found:
        raise UserError(f"{resume} has weights but no training state; start from them with init_from={resume}")
    return found, resume


def _newest(folder: RunFolder) -> tuple[dict[str, Any] | None, str]:
    found = newest_intact(folder.checkpoints) if distributed.is_main() else None
    path: Path | None = distributed.from_main(None if found is None else found[0])
    if path is None:
        log.info("resume=auto: no checkpoint in %s; starting afresh", folder.checkpoints)
        return None, ""
    return (load_checkpoint(path) if found is None else found[1]), str(path)


def describe_data(train_set: CocoDetection) -> dict[str, Any]:
    """What a checkpoint remembers of its training images, wherever they lie: a changed data set shows."""
    digest = hashlib.sha256()
    for file, objects in zip(train_set.files, train_set.objects_per_image.tolist(), strict=True):
        digest.update(f"{Path(file).name} {objects}\n".encode())
    return {"images": len(train_set), "objects": int(train_set.objects_per_image.sum()), "digest": digest.hexdigest()}


def check_unchanged(checkpoint: Mapping[str, Any], facts: Mapping[str, Any], source: str) -> None:
    """Refuse to go on with another model or data set than the checkpoint's.

    Args:
        facts: config, classes and data of the run that is to go on, as they go into its checkpoints.

    Raises:
        UserError: with what differs.
    """
    differences = list(_differences(checkpoint, facts))
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise UserError(
            f"{source} is of another run: {'; '.join(differences[:SHOWN])}{more}; give what it had, start a new run "
            f"with init_from={source}, or insist with resume_changed=true"
        )


def _differences(checkpoint: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    theirs, ours = checkpoint["config"], facts["config"]
    for group in (*MODEL, DATA):
        before, now = (_leaves(config.get(group), group) for config in (theirs, ours))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                yield f"{key} is {before.get(key, 'not there')} in it and {now.get(key, 'not there')} here"
    if checkpoint["classes"] != facts["classes"]:
        yield f"it has {len(checkpoint['classes']['names'])} classes, {_first_names(checkpoint)}, not those of the data"
    if "data" in checkpoint and checkpoint["data"] != facts["data"]:
        before, now = checkpoint["data"], facts["data"]
        same = before["images"] == now["images"] and before["objects"] == now["objects"]
        yield (
            f"{DATA}: it has seen {before['images']} training images with {before['objects']} objects, not "
            + ("these, whose files have other names" if same else f"{now['images']} with {now['objects']}")
        )


def _first_names(checkpoint: Mapping[str, Any]) -> str:
    return ", ".join(checkpoint["classes"]["names"][:SHOWN]) + ", …"


def _leaves(node: Any, name: str) -> dict[str, Any]:
    """Dotted key → value, of everything but the places of data sets."""
    if not isinstance(node, Mapping):
        return {name: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        if name != DATA or key not in PLACES:
            found |= _leaves(value, f"{name}.{key}")
    return found
