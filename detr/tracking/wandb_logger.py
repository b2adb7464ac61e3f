"""Reports to Weights & Biases."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from detr.data.loader import TrainLoader
from detr.errors import Interrupted, UserError, in_words
from detr.evaluation.examples import first_seen
from detr.evaluation.validation import Outcome
from detr.tracking import wandb_artifacts, wandb_environment, wandb_media
from detr.tracking.identity import NAME_LENGTH, run_config, run_group, run_tags, run_title
from detr.tracking.logger import JobType, Logger
from detr.tracking.record import RunRecord
from detr.tracking.status import read_status, update_status
from detr.tracking.wandb_environment import Address, Name, Tag, under_agent
from detr.tracking.wandb_signals import ended_by_wandb

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]
Tables = Literal["end", "epoch", "never"]

PROJECT = "detr"

# W&B makes a section of its workspace from what stands before the first slash.
AXES = {"step": ["train/*"], "epoch": ["val/*", "train_epoch/*", "classes/*", "images/*", "tables/*"]}
RENAMED = {r"^train/": "train_epoch/", r"^val/((?:segm/)?(?:AP|PQ)/)": r"classes/\1"}  # in the rows of epochs


@dataclass(frozen=True)
class Identity:
    """Holds what a run is called and where it belongs."""

    name: str
    group: str
    tags: list[str]
    job_type: JobType


class WandbLogger(Logger):
    """Logs to a run in Weights & Biases. Offline, everything is written to the run's folder, to be synced later.

    wandb counts its own steps and drops what comes with a lower one, and an offline run cannot be continued by it.
    So its steps are not used: every row carries `step` or `epoch`, declared as axes, and a resumed run is a further
    folder with the same id, which syncing joins.
    """

    def __init__(
        self,
        *,
        project: Address | None = None,
        entity: Address | None = None,
        mode: Mode = "offline",
        name: Name | None = None,
        group: Name | None = None,
        tags: Sequence[Tag] = (),
        notes: str | None = None,
        images: int = 8,
        tables: Tables = "end",
        artifact: bool = True,
    ) -> None:
        """Only takes notes; `start` opens the run.

        Args:
            project: the W&B project; None: of an evaluation that of its training, else WANDB_PROJECT, else detr.
            entity: the team or user whose project it is; None: your default one, of an evaluation that of its training.
            mode: offline needs no account; disabled does nothing at all.
            name: of the run; None: WANDB_NAME, but not in a sweep, else the experiment's name and the overrides.
            group: runs that belong together; None: WANDB_RUN_GROUP, else the sweep's name, of a single run the
                experiment's.
            tags: beside WANDB_TAGS and those for experiment, sweep, data set, backbone, transformer, queries and loss.
            notes: what the run is for, in your words.
            images: how many to show: predictions each time, the worst, and augmented ones of the training.
            tables: AP by class, precision-recall curves, confusion of classes and the worst images: of the best epoch
                at the end, of each epoch, or never.
            artifact: whether checkpoints, config, own code and data set are kept as artifacts; data by reference only.
        """
        self._project = project
        self._entity = entity
        self._mode = mode
        self._name = name
        self._group = group
        self._tags = tuple(tags)
        self._notes = notes
        self._images = images
        self._tables = tables
        self._artifact = artifact
        self._run: Any = None
        self._run_id: str | None = None
        self._directory: Path | None = None
        self._url: str | None = None
        self._resumed = False
        self._sweep = False  # whether it is one of several jobs
        self._lost = False  # wandb's own process
        self._parent = os.getppid()  # under an agent: the agent
        self._shown: tuple[Outcome, int] | None = None  # whose tables come at the end
        self._training: tuple[str, Identity] | None = None  # of an evaluation: the run that it belongs to
        self._tests: dict[str, float] = {}  # what that run's summary is to get

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
        directory.mkdir(parents=True, exist_ok=True)
        own = config.get("logger") or {}  # of an evaluation: its training's
        self._project = self._project or own.get("project") or wandb_environment.project() or PROJECT
        self._entity = self._entity or own.get("entity")
        self._directory = directory
        self._sweep = record.sweep is not None
        own_name, more_tags = wandb_environment.name(sweep=self._sweep), wandb_environment.tags()
        if job_type == "train":
            training, identity = record, self._identity(run_name, record)
            identity = replace(identity, name=self._name or own_name or identity.name)
            content = run_config(config, record)
            run_id = run_id or read_status(directory).wandb_id
        else:
            training = record.of_training()
            content = run_config(config, record, training=training, run_name=run_name)
            belongs = WandbLogger(**{name: own[name] for name in ("name", "group", "tags") if name in own})
            trained, trained_id = belongs._identity(run_name, training), (record.checkpoint or {}).get("wandb_id")
            self._training = (trained_id, trained) if trained_id else None
            identity = Identity(
                name=self._name or own_name or f"{trained.name[:NAME_LENGTH]} {record.split}",
                group=self._group or trained.group,
                tags=[*self._tags, *trained.tags],
                job_type="eval",
            )
        self._resumed = run_id is not None
        identity = replace(identity, tags=list(dict.fromkeys([*identity.tags, *more_tags])))
        taken = None if self._training is None else self._training[0]
        run_id = wandb_environment.run_id(run_id, sweep=self._sweep, taken=taken)
        self._run = self._open(run_id, identity, known=self._resumed, config=content, notes=self._notes)
        self._run_id = self._run.id
        self._define_axes()
        if job_type == "train" and self._mode != "disabled":
            update_status(directory, wandb_id=self._run_id, wandb_group=identity.group)
        if self._mode == "online":
            self._url = self._run.url
            log.info("W&B: %s", self._url)
        self._log_sources(config, record, training.choices.get("dataset", "data"))

    def log_samples(self, loader: TrainLoader) -> None:
        if self._images and not self._resumed:
            pictures = [wandb_media.boxed_image(example) for example in first_seen(loader, self._images)]
            self._log({"images/training": pictures, "epoch": 0})

    def log_step(self, metrics: Mapping[str, float], step: int) -> None:
        self._log({**metrics, "step": step})

    def log_epoch(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        renamed = dict(metrics)
        for pattern, name in RENAMED.items():
            renamed = {re.sub(pattern, name, key): value for key, value in renamed.items()}
        self._log({**renamed, "epoch": epoch, "step": step})

    def log_outcome(self, outcome: Outcome, epoch: int, *, best: bool) -> None:
        pictures = [wandb_media.boxed_image(example) for example in outcome.examples[: self._images]]
        if pictures:
            self._log({"images/predictions": pictures, "epoch": epoch})
        if self._tables == "epoch":
            self._log_tables(outcome, epoch)
        elif self._tables == "end" and (best or self._shown is None):
            self._shown = outcome, epoch

    def log_best(self, metrics: Mapping[str, float]) -> None:
        self._summarise({f"best/{name.removeprefix('val/')}": value for name, value in metrics.items()})

    def log_summary(self, facts: Mapping[str, float | str]) -> None:
        self._summarise(facts)

    def log_evaluation(self, metrics: Mapping[str, float], split: str) -> None:
        named = {f"{split}/{name}": value for name, value in metrics.items()}
        self._summarise(named)
        if split != "val":  # which the training has itself
            self._tests |= named

    def log_checkpoint(self, path: Path, name: str = "model") -> None:
        if self._artifact:
            self._run.log_artifact(wandb_artifacts.model(path, name, self._run_id), aliases=["best"])

    def interrupt(self, number: int) -> bool:
        if self._run is None:
            return False
        asked = self._mode == "online" and self._ended_by_wandb(number)
        if asked:
            log.info("W&B asked for the end of the run")
        elif number != signal.SIGINT:  # who asks for the end gets it
            self._run.mark_preempting()
        return asked

    def finish(self, exit_code: int = 0) -> None:
        if self._run is None:
            return
        if exit_code == 0 and self._shown is not None:
            self._log_tables(*self._shown)
        run, self._run, self._shown = self._run, None, None
        run.finish(exit_code=exit_code)
        agent = under_agent() and not self._sweep  # under which wandb opens no other run than the agent's
        if self._training is not None and self._tests and self._mode != "disabled" and not agent:
            self._tell_training(*self._training)

    @property
    def run_id(self) -> str | None:
        return self._run_id

    @property
    def place(self) -> str | None:
        if self._url is not None or self._directory is None:
            return self._url
        ids = [self._run_id] if self._training is None else [self._run_id, self._training[0]]
        parts = [part for run_id in ids for part in sorted(self._directory.glob(f"wandb/offline-run-*-{run_id}"))]
        return shlex.join(["wandb", "sync", *map(str, parts)]) if parts else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._run is not None and error is not None and not isinstance(error, Interrupted):
            said = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            with contextlib.suppress(Exception):
                self._run.write_logs(said)  # the program says it later, when the run is over
        return super().__exit__(kind, error, trace)

    def _identity(self, run_name: str, record: RunRecord) -> Identity:
        """Of a training."""
        return Identity(
            name=self._name or run_title(run_name, record),
            group=self._group or wandb_environment.group() or run_group(run_name, record),
            tags=run_tags(self._tags, record),
            job_type="train",
        )

    def _open(self, run_id: str | None, identity: Identity, *, known: bool, **more: Any) -> Any:
        """A run of wandb's; `known`: it may go on. Raises UserError if it cannot be reached or does not let one in."""
        import wandb  # takes a second, and only this class needs it

        agent = under_agent() and not self._sweep  # it says which run it is, and wandb hears of it
        try:
            with wandb_environment.alone(sweep=self._sweep), wandb_environment.without_launch():
                return wandb.init(
                    project=self._project,
                    entity=self._entity,
                    mode=self._mode,
                    dir=self._directory,
                    id=None if agent else run_id or wandb_environment.new_id(),
                    resume="allow" if self._mode == "online" and (known or agent or self._sweep) else None,
                    name=identity.name,
                    group=identity.group,
                    tags=identity.tags,
                    job_type=identity.job_type,
                    reinit="finish_previous",
                    settings=wandb.Settings(silent=True, console="off", capture_loggers={"root": "INFO"}),
                    **more,
                )
        except wandb.errors.Error as error:
            raise UserError(_one_line(error)) from error

    def _define_axes(self) -> None:
        for axis, names in AXES.items():
            self._run.define_metric(axis)
            for name in names:
                self._run.define_metric(name, step_metric=axis)

    def _log_sources(self, config: Mapping[str, Any], record: RunRecord, choice: str) -> None:
        """Keep config and own code, and say which data set and, of an evaluation, which checkpoint goes in."""
        if not self._artifact or self._mode == "disabled" or self._directory is None:
            return
        try:
            code = None if self._resumed else wandb_artifacts.code(self._directory, self._run_id)
            if code is not None:
                self._run.log_artifact(code)
            data = wandb_artifacts.data(config, record, choice)
            if data is not None:
                self._use(data)
            path = Path((record.checkpoint or {}).get("path", ""))
            if self._training is not None and path.name == wandb_artifacts.BEST and path.is_file():
                self._use(wandb_artifacts.model(path, "model", self._training[0]))
        except Exception as error:  # of many kinds, and none is worth a training
            log.warning("W&B does not keep what the run is made from: %s", in_words(error))

    def _use(self, artifact: Any) -> None:
        """Declare what the run takes in: one with the same content is the same version, whoever logs it."""
        # What use_artifact calls: that refuses offline, and online waits until the artifact is there.
        self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def _log(self, row: Mapping[str, Any]) -> None:
        with self._going_on():
            self._run.log(dict(row))

    def _summarise(self, facts: Mapping[str, Any]) -> None:
        with self._going_on():
            self._run.summary.update(dict(facts))

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """A training goes on when wandb's own process is gone, which schedulers end together with everything else."""
        try:
            yield
        except OSError as error:
            if not self._lost:
                log.warning("W&B hears no more of this run: %s", in_words(error))
            self._lost = True

    def _log_tables(self, outcome: Outcome, epoch: int) -> None:
        try:
            if outcome.evaluation is not None:
                self._log({**wandb_media.tables_of(outcome, outcome.evaluation, self._images), "epoch": epoch})
        except Exception as error:  # an image that is gone, say
            log.warning("W&B gets no tables of epoch %d: %s", epoch, in_words(error))

    def _tell_training(self, run_id: str, identity: Identity) -> None:
        """Put the metrics of an evaluation into the summary of the training, which is taken up for it."""
        run = self._open(run_id, identity, known=True)
        run.summary.update(self._tests)
        run.finish()

    def _ended_by_wandb(self, number: int) -> bool:
        try:
            return ended_by_wandb(self._run, number, self._parent)
        except Exception as error:  # a question that wandb has no public words for
            log.warning("W&B does not say whether it ends the run: %s", in_words(error))
            return False


def _one_line(error: Exception) -> str:
    problem = f"Weights & Biases does not start: {in_words(error).rstrip('.')}"
    if re.search(r"Invalid project|Run ID|Sweep ID|[Tt]ag", problem):
        return f"{problem}; mend what logger or the environment (WANDB_…) says of it"
    return (
        f"{problem}; run `wandb login` or set WANDB_API_KEY, "
        "or work offline with logger.mode=offline (WANDB_MODE=offline), or without it: logger=none"
    )
