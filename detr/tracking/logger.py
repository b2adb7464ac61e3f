"""Where a run reports to: Weights & Biases, or nowhere. Both are spoken to in the same words."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from PIL import Image

from detr.errors import Interrupted, UserError
from detr.evaluation.examples import KEPT_SCORE, Boxes, Example, Segments
from detr.tracking.record import RunRecord

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]
JobType = Literal["train", "eval"]

NAME_LENGTH = 120  # characters of a run's name; W&B takes 128

# What a run's name leaves out: it is said already, or says nothing about the experiment.
UNNAMED_OVERRIDES = ("experiment", "name", "resume", "paths", "logger", "hydra", "dataloader.num_workers")

TAGGED_CHOICES = ("dataset", "backbone", "transformer", "queries", "loss")  # groups whose option becomes a tag


class Logger(ABC):
    """Takes reports of the training loop. As a context manager it ends the run, as failed on an exception."""

    images: int = 0  # how many examples `log_images` wants

    @abstractmethod
    def start(
        self,
        *,
        directory: Path,
        config: Mapping[str, Any],
        run_name: str,
        record: RunRecord,
        run_id: str | None = None,
        job_type: JobType = "train",
    ) -> None:
        """Open the run.

        Args:
            directory: the run's folder; the logger's files go to a folder of their own inside.
            config: the resolved config in plain containers, complete.
            run_name: of the experiment; the run is called by it and what was overridden.
            record: what else to keep; name, group and tags of the run come from it.
            run_id: of the run that is resumed, as its checkpoint says.
            job_type: what kind of run this is.

        Raises:
            UserError: the service cannot be reached or does not let one in.
        """

    @abstractmethod
    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one optimizer step, named "train/…"; their axis is `step`."""

    @abstractmethod
    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Log metrics of one epoch; the axis of "val/…" is `epoch`.

        Means over the epoch that are named "train/…" are kept as "train_epoch/…", apart from those of single steps.
        """

    @abstractmethod
    def log_images(self, examples: Sequence[Example], epoch: int) -> None:
        """Log predictions beside the ground truth; the first `images` of `examples`."""

    @abstractmethod
    def log_best(self, metrics: Mapping[str, float]) -> None:
        """Put the metrics of the best epoch so far into the run's summary: "val/AP" becomes "best/AP"."""

    @abstractmethod
    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        """Put facts about the whole training into the run's summary."""

    @abstractmethod
    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        """Put the metrics of an evaluation into the run's summary: "AP" of the test split becomes "test/AP"."""

    @abstractmethod
    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        """Keep the file as an artifact; it must stay in its place until it is uploaded."""

    @abstractmethod
    def preempt(self) -> None:
        """Note that the run will be ended from outside, which is no failure: it is to go on."""

    @abstractmethod
    def finish(self, exit_code: int = 0) -> None:
        """End the run, as failed if the code is not 0. Ending it twice is ending it once."""

    @property
    def run_id(self) -> str | None:
        """Return the id to be kept in the checkpoint and given to `start` on resuming."""
        return None

    @property
    def directory(self) -> Path | None:
        """Return where the run's own files lie; `wandb sync DIRECTORY` uploads an offline run."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Interrupted):
                self.preempt()
            self.finish(exit_code=0 if kind is None else 1)
        except Exception as problem:  # what was trained is on the disk, and what went wrong before counts more
            log.warning("the logger did not end the run: %s", " ".join(str(problem).split()))


class NullLogger(Logger):
    """Says nothing to nobody."""

    def start(
        self,
        *,
        directory: Path,
        config: Mapping[str, Any],
        run_name: str,
        record: RunRecord,
        run_id: str | None = None,
        job_type: JobType = "train",
    ) -> None:
        pass

    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        pass

    def log_images(self, examples: Sequence[Example], epoch: int) -> None:
        pass

    def log_best(self, metrics: Mapping[str, float]) -> None:
        pass

    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        pass

    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        pass

    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        pass

    def preempt(self) -> None:
        pass

    def finish(self, exit_code: int = 0) -> None:
        pass


class WandbLogger(Logger):
    """Logs to a run in Weights & Biases. Offline, everything is written to the run's folder, to be synced later.

    wandb counts its own steps and drops what comes with a lower one, and an offline run cannot be continued by it.
    So its steps are not used: every row carries `step` or `epoch`, declared as axes, and a resumed run is a further
    folder with the same id, which syncing joins.
    """

    def __init__(
        self,
        *,
        project: str,
        mode: Mode = "offline",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        images: int = 8,
        artifact: bool = True,
    ) -> None:
        """Only takes notes; `start` opens the run.

        Args:
            project: the W&B project.
            mode: offline needs no account; disabled does nothing at all.
            name: of the run; None: the experiment's name and the overrides.
            group: runs that belong together; None: the sweep's name, of a single run the experiment's.
            tags: beside those for data set, backbone, transformer, queries and loss.
            images: how many examples to log each time.
            artifact: whether checkpoints are kept as artifacts.
        """
        self._project = project
        self._mode = mode
        self._name = name
        self._group = group
        self._tags = tuple(tags)
        self._artifact = artifact
        self._run: Any = None
        self._run_id: str | None = None
        self._directory: Path | None = None
        self.images = images

    def start(
        self,
        *,
        directory: Path,
        config: Mapping[str, Any],
        run_name: str,
        record: RunRecord,
        run_id: str | None = None,
        job_type: JobType = "train",
    ) -> None:
        import wandb  # takes a second, and only this class needs it

        directory.mkdir(parents=True, exist_ok=True)
        sweep = record.sweep or {}
        try:
            self._run = wandb.init(
                project=self._project,
                mode=self._mode,
                dir=directory,
                id=run_id,
                resume="allow" if self._mode == "online" and run_id else None,
                name=self._name or describe(run_name, sweep.get("differs", record.overrides)),
                group=self._group or sweep.get("name", run_name),
                tags=_tags(self._tags, record.choices),
                job_type=job_type,
                config={**config, "info": record.to_dict()},
                reinit="finish_previous",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise UserError(_one_line(error)) from error
        self._run_id = self._run.id
        # Without a run, wandb names a folder that it never makes.
        folder = Path(self._run.dir).parent
        self._directory = folder if folder.exists() else None
        self._define_axes()

    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        renamed = {re.sub(r"^train/", "train_epoch/", name): value for name, value in metrics.items()}
        self._run.log({**renamed, "epoch": epoch, "step": step})

    def log_images(self, examples: Sequence[Example], epoch: int) -> None:
        pictures = [_boxed_image(example) for example in examples[: self.images]]
        if pictures:
            self._run.log({"val/predictions": pictures, "epoch": epoch})

    def log_best(self, metrics: Mapping[str, float]) -> None:
        self._run.summary.update({f"best/{name.removeprefix('val/')}": value for name, value in metrics.items()})

    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(facts))

    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        self._run.summary.update({f"{split}/{name}": value for name, value in metrics.items()})

    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        if not self._artifact:
            return
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{name}-{self._run_id}"), type="model")
        # Immutable: without a copy in wandb's cache, which for a large model and many runs would fill the disk.
        artifact.add_file(str(path), policy="immutable")
        self._run.log_artifact(artifact, aliases=["best"])

    def preempt(self) -> None:
        if self._run is not None:
            self._run.mark_preempting()

    def finish(self, exit_code: int = 0) -> None:
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None

    @property
    def run_id(self) -> str | None:
        return self._run_id

    @property
    def directory(self) -> Path | None:
        return self._directory

    def _define_axes(self) -> None:
        for axis, names in {"step": ["train/*"], "epoch": ["val/*", "train_epoch/*"]}.items():
            self._run.define_metric(axis)
            for name in names:
                self._run.define_metric(name, step_metric=axis)


def describe(run_name: str, overrides: Sequence[str]) -> str:
    """Return a run's name: the experiment's and what sets this run apart, each key without the path to it.

    "detr_r50_coco" with ["transformer.d_model=128", "logger=none"] is "detr_r50_coco d_model=128".
    """
    kept = [override.lstrip("+") for override in overrides]
    kept = [override for override in kept if not _unnamed(override.lstrip("~").partition("=")[0])]
    words = [re.sub(r"^[^=]*?([^.=@]+)(@[^=]*)?=", r"\1=", override) for override in kept]
    name = " ".join([run_name, *words])
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _unnamed(key: str) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in UNNAMED_OVERRIDES)


def _tags(configured: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """Without repetition; W&B takes 1 to 64 characters each."""
    chosen = [str(choices[group]) for group in TAGGED_CHOICES if choices.get(group)]
    return [tag[:64] for tag in dict.fromkeys([*configured, *chosen]) if tag]


def _one_line(error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"Weights & Biases does not start: {reason}; run `wandb login` or set WANDB_API_KEY, "
        "or work offline with logger.mode=offline (WANDB_MODE=offline), or without it: logger=none"
    )


def _boxed_image(example: Example) -> Any:
    import wandb

    boxes = {
        "ground_truth": _wandb_boxes(example.truth, example.names, example.image),
        "predictions": _wandb_boxes(example.predicted.above(KEPT_SCORE), example.names, example.image),
    }
    masks = None
    if example.segments is not None:
        masks = {
            kind: _wandb_mask(segments, example.names)
            for kind, segments in zip(("true_segments", "segments"), example.segments, strict=True)
        }
    # JPEG: a thirtieth of the size of PNG.
    return wandb.Image(example.image.convert("RGB"), boxes=boxes, masks=masks, caption=example.caption, file_type="jpg")


def _wandb_mask(segments: Segments, names: Sequence[str]) -> dict[str, Any]:
    """wandb's own format: the class of each pixel, counted from 1, so that 0 is void; it has room for 255."""
    classes = np.array([0, *(label + 1 for label in segments.labels)])
    present = sorted(set(segments.labels))
    return {
        "mask_data": classes[segments.ids],
        "class_labels": {0: "void", **{label + 1: names[label] for label in present}},
    }


def _wandb_boxes(boxes: Boxes, names: Sequence[str], image: Image.Image) -> dict[str, Any]:
    """wandb's own format: corners relative to the image, a score where there is one."""
    width, height = image.size
    data = []
    for index, (label, (left, top, right, bottom)) in enumerate(zip(boxes.labels, boxes.corners, strict=True)):
        corners = {"minX": left / width, "maxX": right / width, "minY": top / height, "maxY": bottom / height}
        entry: dict[str, Any] = {"position": corners, "class_id": label, "box_caption": names[label]}
        if boxes.scores is not None:
            score = boxes.scores[index]
            entry |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        data.append(entry)
    return {"box_data": data, "class_labels": dict(enumerate(names))}
