"""The runs that lie somewhere below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from detr.config.recorded import CONFIG, HYDRA

CARD = "README.md"  # the model card
EVALUATED = f"{HYDRA}/evaluated.yaml"  # of an evaluation: the whole config; a training has none

# What a run keeps in its folder, with no runs in it.
KEPT = {HYDRA, "checkpoints", "predictions", "panoptic", "evaluations", "profile", "wandb", "code"}


def trainings_below(folder: Path) -> list[Path]:
    """Return the folders of trainings in a folder, at any depth and behind links, each once; job 10 after job 9."""
    found = [run for run in _runs(folder, set()) if not is_evaluation(run)]
    return sorted(found, key=lambda run: [(int(part), "") if part.isdecimal() else (-1, part) for part in run.parts])


def is_evaluation(run: Path) -> bool:
    """Return whether the run in a folder is an evaluation of a checkpoint."""
    return (run / EVALUATED).exists()


def _runs(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            inside = [entry.name for entry in entries if entry.is_dir()]
    except OSError:  # not ours to read, or gone meanwhile
        return
    place = (status.st_dev, status.st_ino)
    if place in seen:  # a link that leads back
        return
    seen.add(place)
    a_run = HYDRA in inside and (folder / CONFIG).exists()
    if a_run:
        yield folder
    for name in inside:
        if not (a_run and name in KEPT):
            yield from _runs(folder / name, seen)
