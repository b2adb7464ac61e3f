"""What a run was evaluated on: whether it is the same for two runs, and the ground truth itself."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detr.comparison.evaluations import VALIDATION
from detr.comparison.reading import Run
from detr.config.recorded import recorded
from detr.errors import UserError, in_words


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
class SplitData:
    """Holds the split that a run's metrics are of, as its folder tells it."""

    section: str  # `dataset` of the config, as JSON
    fingerprint: str | None  # what the run noted of the images and their annotations, as JSON; None: nothing
    cwd: Path  # where relative paths start
    split: str = VALIDATION
    places: dict[str, str] = field(default_factory=dict, hash=False)  # where own code lay: top-level module → folder

    def same(self, other: SplitData) -> bool:
        """Return whether two runs had the same split: by what they recorded of it, else by the config."""
        if self.fingerprint is not None and other.fingerprint is not None:
            return self.fingerprint == other.fingerprint
        return self.section == other.section

    def __str__(self) -> str:
        section = json.loads(self.section)
        return str(section.get("root") or section.get("_target_") or "the data set")

    def read(self) -> Truth:
        """Build the data set again, and return the ground truth of the split.

        Raises:
            UserError: the files are gone or broken, or are not what they were; or the data set is one of the user's
                own that cannot be built here.
        """
        from detr.config.build import MissingModuleError, build  # with the torch that a table need not wait for

        section = json.loads(self.section)
        root = section.get("root")
        if isinstance(root, str) and not (self.cwd / root).is_dir():
            raise UserError(f"{self.cwd / root} is gone")
        try:
            with contextlib.chdir(self.cwd) if self.cwd.is_dir() else contextlib.nullcontext():
                split = build(section).split(self.split, transform=None)
                fingerprint, truth = as_json(vars(split.fingerprint())), split.ground_truth()
                files = [str(self.cwd / file) for file in split.files]
        except MissingModuleError as error:
            raise error.lay_in(self.places) from error
        except UserError:
            raise
        except Exception as error:  # whatever a class of the user's raises
            raise UserError(f"{section.get('_target_')} cannot be built here ({in_words(error)})") from error
        if self.fingerprint not in (None, fingerprint):
            raise UserError(f"the images or annotations of {self} have changed since")
        return Truth(truth, files)


def split_data(run: Run) -> SplitData:
    """Return the split that a run's metrics are of.

    Raises:
        UserError: the recorded config has no data set.
    """
    source, noted = run.recorded, run.facts.get("data", {}).get(VALIDATION)
    split = VALIDATION
    if run.evaluation is not None:
        split, noted = run.evaluation.split, run.evaluation.data
        if run.evaluation.config.exists():  # the data may have lain elsewhere
            source = recorded(run.evaluation.folder, run.evaluation.config)
    try:
        section: Any = source.section("dataset")
    except UserError:  # it refers to what is not here; there will be no images
        section = source.config["dataset"]
    if not isinstance(section, dict):
        raise UserError(f"{run.place}: its config has no dataset")
    places = (run.facts.get("code") or {}).get("places", {})
    return SplitData(as_json(section), None if noted is None else as_json(noted), source.cwd, split, places)


def as_json(value: Any) -> str:
    """Return a text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, default=str)
