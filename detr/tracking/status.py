"""What became of a run: `status.json` in its folder, for sweeps, comparisons and whoever starts it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from detr.files import write_json

STATUS = "status.json"

State = Literal["waiting", "running", "finished", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """Says what became of a run. One that is "running" though nobody works on it was interrupted."""

    status: State = "waiting"
    error: str | None = None  # one line
    ended: str | None = None  # which limit ended the training, and in which step
    wandb_id: str | None = None  # of the run in W&B, which goes on under it
    wandb_group: str | None = None


def read_status(folder: Path) -> RunStatus:
    """Return the status of the run in a folder; "waiting" where nothing was written yet."""
    file = folder / STATUS
    return RunStatus(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else RunStatus()


def update_status(folder: Path, **changes: Any) -> None:
    """Write what has changed of a run's status; the rest stays as it is."""
    write_json(folder / STATUS, asdict(replace(read_status(folder), **changes)))
