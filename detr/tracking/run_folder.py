"""The folder of one run: what lies where, and how rows and files get there."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detr.errors import OccupiedError
from detr.evaluation.metrics import Evaluation
from detr.evaluation.submission import Submission
from detr.files import append_json_line, locked, write_atomically, write_json, write_json_list, write_with
from detr.texts import pasted
from detr.tracking.model_card import write_card
from detr.tracking.record import RUN, RunRecord
from detr.tracking.rows import METRICS, Row, read_rows
from detr.weights.checkpoint import Checkpoint, load_checkpoint, newest_first, save_checkpoint

log = logging.getLogger(__name__)


class RunFolder:
    """Writes `run.json`, `metrics.jsonl`, `checkpoints/`, `evaluations/` and, of the best epoch, `predictions.json`,
    `predictions/`.

    A panoptic evaluation adds `panoptic.json` and `panoptic/`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics = self.path / METRICS
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other process trains here. Raises OccupiedError if one does."""
        return locked(self.path, "training")

    def prepare(self, resume: str | None, *, fresh: bool) -> None:
        """Make sure that the rows in the folder will be those of one run.

        Args:
            resume: as it was asked for.
            fresh: there is no checkpoint to go on from.

        Raises:
            OccupiedError: another run has reported here already.
        """
        if resume is None:
            self.claim()
        elif fresh:
            self.keep_rows(0)

    def claim(self) -> None:
        """Make sure that no training has reported here. Raises OccupiedError if one has."""
        if self.metrics.exists() or any(self.checkpoints.glob("*.pt")):
            raise OccupiedError(
                f"{self.path} holds a run already; choose another hydra.run.dir, or continue it with train.py "
                + pasted(hydra__run__dir=self.path, resume="auto")
            )

    def describe(self, record: RunRecord) -> None:
        """Write run.json, the code's revision, the hardware and the like, and the model card, which has it in words."""
        write_json(self.path / RUN, record.to_dict(), indent=2)
        write_card(self.path)

    def keep_config(self, files: Mapping[str, str]) -> None:
        """Write the config into `.hydra/`, file name → content. Hydra would do so before anything is checked."""
        for name, content in files.items():
            write_atomically(self.path / ".hydra" / name, content)

    def keep_held_out(self, names: Sequence[str]) -> None:
        """Write held_out.txt: the images that `dataset.holdout` kept for validation, a name a line."""
        write_atomically(self.path / "held_out.txt", "".join(f"{name}\n" for name in names))

    def rows(self) -> list[Row]:
        """Return one dictionary an epoch."""
        return read_rows(self.metrics)

    def append(self, row: Mapping[str, float]) -> None:
        """Add an epoch's row; a value that is not finite becomes null, since JSON has no NaN."""
        append_json_line(self.metrics, {key: value if math.isfinite(value) else None for key, value in row.items()})

    def keep_rows(self, steps: int) -> None:
        """Drop the rows after `steps` optimizer steps: the run is resumed there."""
        if self.metrics.exists():
            kept = [row for row in self.rows() if row["step"] <= steps]
            write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def adopt(self, other: RunFolder, best: Mapping[str, float] | None) -> None:
        """Take over rows and best results of the run that is resumed in this new folder.

        Args:
            best: metrics of the best epoch up to where the run is resumed. Results of a later epoch stay behind.
        """
        names = [METRICS]
        kept = load_checkpoint(other.best).trainer if other.best.exists() else None
        if kept is not None and kept["progress"]["best"] == best:
            names += ["checkpoints/best.pt", "predictions.json", "panoptic.json", "panoptic"]
        for name in names:
            source, target = other.path / name, self.path / name
            if source.is_dir() and not target.exists():
                shutil.copytree(source, target)
            elif source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)  # the time, too: it is no newer checkpoint than those of this run

    def save(self, name: str, checkpoint: Checkpoint, **more: Any) -> Path:
        """Write checkpoints/NAME.pt, with what else goes into it, and return its path."""
        path = self.checkpoints / f"{name}.pt"
        save_checkpoint(path, checkpoint, **more)
        return path

    def save_step(self, step: int, checkpoint: Checkpoint, *, keep: int) -> None:
        """Write checkpoints/step_N.pt, and remove all but the newest `keep` of its kind."""
        path = self.save(f"step_{step:08d}", checkpoint)
        log.info("checkpoint of step %d: %s", step, path)
        for old in newest_first(self.checkpoints, "step_*.pt")[keep:]:
            old.unlink(missing_ok=True)

    def save_predictions(
        self,
        predictions: Iterable[Mapping[str, Any]],
        pictures: Iterable[Image.Image],
        submission: Submission | None = None,
    ) -> None:
        """Write predictions.json (COCO results format), predictions/*.jpg and the panoptic submission."""
        write_json_list(self.path / "predictions.json", predictions)
        for index, picture in enumerate(pictures):
            path = self.path / "predictions" / f"{index:03d}.jpg"
            write_with(path, functools.partial(picture.save, format="JPEG", quality=92))
        if submission is not None:
            submission.save(self.path)

    def note_evaluation(self, split: str, facts: Mapping[str, Any]) -> None:
        """Write evaluations/SPLIT.json: what evaluate.py found last of a checkpoint of this run."""
        write_json(self.path / "evaluations" / f"{split}.json", facts, indent=2)

    def save_evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        """Write evaluations/epoch_NNNN.npz: precision and recall for later plots."""
        evaluation.save_precision_recall(self.path / "evaluations" / f"epoch_{epoch:04d}.npz")
