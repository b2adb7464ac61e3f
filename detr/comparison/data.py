"""What a run was validated on: whether it is the same for two runs, and the ground truth itself."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detr.comparison.reading import Run
from detr.errors import UserError


@dataclass(frozen=True)
class Truth:
    """Holds the ground truth of a split: of I images."""

    coco: dict[str, Any]  # as the data set gives it to evaluators
    files: list[str]  # [I] in the order of `images`

    def __len__(self) -> int:
        return len(self.images)

    @property
    def images(self) -> list[dict[str, Any]]:
        """Return each image's id, height and width."""
        return self.coco["images"]

    @cached_property
    def categories(self) -> dict[int, str]:
        """Return id → name, in the order of the ids."""
        return {each["id"]: each["name"] for each in sorted(self.coco["categories"], key=lambda each: each["id"])}

    @cached_property
    def objects(self) -> dict[int, list[dict[str, Any]]]:
        """Return image id → its annotations, without crowds."""
        found = defaultdict(list)
        for annotation in self.coco["annotations"]:
            if not annotation["iscrowd"]:
                found[annotation["image_id"]].append(annotation)
        return found


@dataclass(frozen=True)
class ValidationData:
    """Holds the validation split of a run, as its folder tells it."""

    section: str  # `dataset` of the config, as JSON
    fingerprint: str | None  # what the run noted of the images and their annotations, as JSON; None: nothing
    cwd: Path  # where relative paths start

    def same(self, other: ValidationData) -> bool:
        """Return whether two runs had the same split: by what they recorded of it, else by the config."""
        if self.fingerprint is not None and other.fingerprint is not None:
            return self.fingerprint == other.fingerprint
        return self.section == other.section

    def __str__(self) -> str:
        return str(json.loads(self.section).get("root", "the data set"))

    def read(self) -> Truth:
        """Build the data set again, and return the ground truth of its validation split.

        Raises:
            UserError: the files are gone or broken, or are not what they were.
        """
        from detr.config import build  # with the torch that a table need not wait for

        section = json.loads(self.section)
        if not (self.cwd / section.get("root", ".")).is_dir():
            raise UserError(f"{self.cwd / section['root']} is gone")
        try:
            with contextlib.chdir(self.cwd) if self.cwd.is_dir() else contextlib.nullcontext():
                split = build(section).split("val", transform=None)
        except OSError as error:
            raise UserError(f"{self.cwd}: {error.strerror or error}") from error
        if self.fingerprint not in (None, as_json(vars(split.fingerprint()))):
            raise UserError(f"the images or annotations of {self} have changed since")
        return Truth(split.ground_truth(), [str(self.cwd / file) for file in split.files])


def validation_data(run: Run) -> ValidationData:
    """Return the validation split of a run.

    Raises:
        UserError: the recorded config has no data set.
    """
    section: Any = run.recorded.section("dataset")
    if not isinstance(section, dict):
        raise UserError(f"{run.folder}: its config has no dataset")
    noted = run.facts.get("data", {}).get("val")
    return ValidationData(as_json(section), None if noted is None else as_json(noted), run.recorded.cwd)


def as_json(value: Any) -> str:
    """Return a text that is the same for equal values."""
    return json.dumps(value, sort_keys=True)
