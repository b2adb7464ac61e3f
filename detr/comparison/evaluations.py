"""What evaluate.py found of a run's checkpoint, as it noted it in the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr.errors import UserError

VALIDATION = "val"  # the split that training evaluates itself

# Overrides of an evaluation that change where things are or how fast they go, but no number.
PLACES = ("dataset.root", "dataloader.num_workers", "paths", "logger", "hydra", "trainer.device")


@dataclass(frozen=True)
class Evaluated:
    """Holds the evaluation of a checkpoint on a split."""

    split: str
    metrics: dict[str, float]
    folder: Path  # with predictions.json
    checkpoint: str  # the file's name
    overrides: list[str]  # that may have changed the numbers
    data: dict[str, Any] | None  # what tells the split's images from others

    @property
    def config(self) -> Path:
        """Return the file with the whole config of the evaluation."""
        return self.folder / ".hydra" / "evaluated.yaml"


def split_name(split: str) -> str:
    """Return what a split is called in sentences."""
    return "validation" if split == VALIDATION else split


def read_evaluation(run: Path, split: str) -> Evaluated | None:
    """Return the newest evaluation of a run on a split; None where there is none.

    Raises:
        UserError: the file is no record of an evaluation.
    """
    path = run / "evaluations" / f"{split}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Evaluated(
            split=split,
            metrics={name: float(value) for name, value in facts["metrics"].items()},
            folder=Path(facts["folder"]),
            checkpoint=Path(facts["checkpoint"]["path"]).name,
            overrides=[each for each in facts["overrides"] if not each.lstrip("+~").startswith(PLACES)],
            data=facts["data"],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the record of an evaluation ({error!r})") from error
