"""What a run was validated on: whether it is the same for two runs, and the ground truth itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr.comparison.reading import Run
from detr.data.annotations import Annotations, read_annotations
from detr.errors import UserError


@dataclass(frozen=True)
class ValidationData:
    """The validation split of a run, as its config names it."""

    images: tuple[str, ...]  # folders
    annotations: tuple[str, ...]  # files that boxes are evaluated against; empty where the config names none
    recipe: str  # what else decides which images there are
    content: str | None  # hash of the annotation files; None where they are gone

    def same(self, other: ValidationData) -> bool:
        """By content where both are still there, else by name."""
        if self.recipe != other.recipe:
            return False
        if self.content is not None and other.content is not None:
            return self.content == other.content
        return self.annotations == other.annotations

    def __str__(self) -> str:
        return ", ".join(self.annotations) or "unknown"

    def read(self) -> Annotations:
        """The ground truth.

        Raises:
            UserError: the files are gone or broken, or the config does not name them.
        """
        if not self.annotations:
            raise UserError("the config names no annotations of boxes for the validation split")
        there = all(Path(folder).is_dir() for folder in self.images)  # only pictures need them
        folders = self.images if there else [str(Path(file).parent) for file in self.annotations]
        return read_annotations(folders, self.annotations)


def validation_data(run: Run) -> ValidationData:
    """The validation split of a run. Paths start where the run was started.

    Raises:
        UserError: the recorded config has no validation split.
    """
    dataset: Any = run.recorded.section("dataset")
    split = dataset.get("val") if isinstance(dataset, dict) else None
    if not split:
        raise UserError(f"{run.folder}: its config has no dataset.val")
    overfit = run.trainer.get("overfit_batches")
    if overfit:  # then batches of the training split are evaluated
        split = dataset["train"]
    # A panoptic split's boxes are those of its instances; those made from segments are not on the disk.
    annotations = split.get("instances") if "segments" in split else split["annotations"]
    named = annotations or split["annotations"]
    cwd = run.recorded.cwd
    files = _absolute(named, cwd)
    return ValidationData(
        images=_absolute(split["images"], cwd),
        annotations=files if annotations else (),
        recipe=json.dumps([dataset.get("counts"), overfit, dataset.get("categories")], sort_keys=True),
        content=_hash(files),
    )


def _absolute(paths: str | list[str], cwd: Path) -> tuple[str, ...]:
    return tuple(str(cwd / path) for path in ([paths] if isinstance(paths, str) else paths))


def _hash(files: Iterable[str]) -> str | None:
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(Path(file).read_bytes())
    except OSError:
        return None
    return digest.hexdigest()
