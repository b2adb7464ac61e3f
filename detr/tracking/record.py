"""What a run's `run.json`, and its page in W&B, remember of it beside the config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detr.config import Config
from detr.data.dataset import Fingerprint

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Holds facts about one run; those that do not apply are None, and left out of the file."""

    choices: dict[str, str]  # group → option
    overrides: list[str]  # of the command line
    sweep: dict[str, Any] | None = None  # of a job: the sweep's `name`, and the overrides that set it apart, `differs`
    git: str | None = None  # the code's revision
    code: dict[str, Any] | None = None  # of parts that are not detr's: see `detr.tracking.code.Code`
    hardware: dict[str, Any] | None = None
    parameters: dict[str, int] | None = None  # `total` and `trainable`
    processes: int | None = None
    data: dict[str, Fingerprint] | None = None  # split → what tells its images from others
    classes: list[str] | None = None  # by class index
    steps: int | None = None  # optimizer steps of the whole run
    init_from: dict[str, Any] | None = None  # what became of the weights that it started from
    ended: str | None = None  # which limit or signal ended the training, and in which step
    minutes: float | None = None  # of training
    best_step: int | None = None  # optimizer steps before the best evaluation
    intervals: dict[str, tuple[float, float]] | None = None  # metric → 95 % interval over images, at the best epoch
    checkpoint: dict[str, Any] | None = None  # that was evaluated: see `detr.weights.checkpoint.identity`
    split: str | None = None  # on which it was
    images: int | None = None  # of the split

    @classmethod
    def of(cls, config: Config, **facts: Any) -> RunRecord:
        """Return the record of a run from its config and what else is known of it."""
        return cls(choices=config.choices, overrides=config.overrides, sweep=config.sweep, **facts)

    def of_training(self) -> RunRecord:
        """Return how the training was asked for whose checkpoint this evaluation is of; itself where nobody knows."""
        file = Path((self.checkpoint or {}).get("run") or "", RUN)
        if not file.is_file():
            asked = [each for each in self.overrides if each.partition("=")[0] not in ("checkpoint", "split")]
            return RunRecord(choices=self.choices, overrides=asked)
        facts = json.loads(file.read_text(encoding="utf-8"))
        return RunRecord(choices=facts["choices"], overrides=facts["overrides"], sweep=facts.get("sweep"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers."""
        return {name: value for name, value in asdict(self).items() if value is not None}
