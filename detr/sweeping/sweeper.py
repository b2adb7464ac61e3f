"""Hydra's sweepers: all jobs are checked before the first one starts, a failed one stops no other, a table ends it all.

A sweep that is started again in the folder of an earlier one (`hydra.sweep.dir=FOLDER`) leaves out the jobs that are
finished and resumes the others.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from detr import distributed
from detr.config.check import check
from detr.config.home import typed_at_home
from detr.config.hydra_internals import register_sweeper, replace_basic_sweeper
from detr.errors import Interrupted, UserError, in_words
from detr.files import locked
from detr.sweeping.jobs import JobComposer
from detr.sweeping.notes import Pruner, was_pruned
from detr.sweeping.plan import Job, Plan
from detr.sweeping.search import Direction, Search, Space, as_overrides
from detr.sweeping.space import combinations, corners, in_order, space_of, variations
from detr.texts import in_hydra, pasted
from detr.tracking.status import update_status
from detr.tracking.words import count

log = logging.getLogger(__name__)


def register() -> None:
    """Make the sweepers known to Hydra: the grid in the place of its own, Optuna's as conf/hydra/sweeper has it."""
    for sweeper in (GridSweeper, OptunaSweeper):
        register_sweeper(sweeper)
    replace_basic_sweeper(GridSweeper, params=None, max_batch_size=None)


class _Sweeper(Sweeper):
    """Holds what both kinds have in common."""

    retries = True  # whether failed jobs are run again when the sweep is
    prunes = False  # whether jobs may be stopped early

    def __init__(self, *, params: dict[str, Any] | None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        check(OmegaConf.create({"hydra": {"sweeper": OmegaConf.to_container(config.hydra.sweeper)}}))
        fill_in_workers(config)
        self.folder = Path(config.hydra.sweep.dir)
        self.again = pasted(hydra__sweep__dir=self.folder)
        self.jobs = JobComposer(hydra_context.config_loader, config)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.one_by_one = config.hydra.runtime.choices["hydra/launcher"] == "basic"
        self.workers: int | None = config.hydra.launcher.get("n_jobs")

    def sweep(self, arguments: list[str]) -> None:
        parser = OverridesParser.create(config_loader=self.jobs.loader)
        params = [f"{key}={value if isinstance(value, str) else in_hydra(value)}" for key, value in self.params.items()]
        overrides = in_order(parser.parse_overrides([*map(typed_at_home, params)]), parser.parse_overrides(arguments))
        swept = [each.key_or_group for each in overrides if each.is_sweep_override()]
        self.plan = Plan.read(self.folder) or Plan(self.folder, f"{self.jobs.config_name} {self.folder.name}")
        self.plan.keys = list(dict.fromkeys([*self.plan.keys, *swept]))
        self.prepare(overrides)
        stopped = False
        with locked(self.folder, "sweep"):
            try:
                with terminable():
                    self.run()
            except (KeyboardInterrupt, Interrupted):
                stopped = True
                raise
            finally:
                failed = self.report()
                if stopped:
                    log.warning("the sweep is stopped; the same command with %s goes on", self.again)
        if failed:
            raise UserError(failed)

    @abstractmethod
    def prepare(self, overrides: list[Override]) -> None:
        """Find out everything that is wrong with the sweep, before its first job."""

    @abstractmethod
    def run(self) -> None:
        """Run all jobs that are left to do."""

    def job(self, overrides: Sequence[str]) -> Job:
        """Return the job with these overrides, of this sweep or of an earlier one in its folder; else a new one."""
        own = self.jobs.own(overrides)
        found = self.plan.find(own)
        number = self.plan.next_number if found is None else found.number
        folder = self.jobs.folder(number, own)
        if found is None:
            found = Job(number, folder, tuple(own))
            self.plan.add(found, mend=self.jobs.numbered)
        return found

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run jobs that are not finished; a launcher that runs one at a time gets one at a time."""
        todo = [job for job in dict.fromkeys(jobs) if self.plan.status(job).status != "finished"]
        self.plan.write()
        if self.one_by_one:
            logging.getLogger(type(self.launcher).__module__).setLevel(logging.WARNING)  # it would say it all again
            for job in todo:
                self.launch_together([job])
        elif todo:
            self.launch_together(todo)

    def launch_together(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            log.info("job %s  in %s", self.plan.label(job), self.folder / job.folder)
        overrides = [[*job.overrides, *self.jobs.additions(job.folder, pruning=self.prunes)] for job in jobs]
        reason = None
        try:
            self.launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:  # a launcher's own: a process that was killed, a node that went away
            log.exception("the launcher failed")
            reason = in_words(error)
        for job in jobs:
            if self.plan.status(job).status in ("waiting", "running"):
                killed = f"ended without a message: {(reason or 'killed?')[:200]}"
                update_status(self.folder / job.folder, status="failed", error=killed)

    def report(self) -> str | None:
        """Show and write the table, and return what to say in the end if jobs failed."""
        if not self.plan.jobs:
            return None
        from detr.sweeping import table  # needs torch, which a mistake need not wait for

        found = table.job_results(self.plan)
        table.write(self.plan, found)
        table.show(self.plan, found)
        failed = [f"#{each.job.number}" for each in found if each.status == "failed"]
        if not failed:
            return None
        advice = f"; the same command with {self.again} tries them again" if self.retries else ""
        which, where = ", ".join(failed), self.folder / "sweep.md"
        return f"{len(failed)} of {count(len(found), 'job')} failed ({which}): see {where}{advice}"


class GridSweeper(_Sweeper):
    """Runs every combination of the values."""

    def __init__(self, *, params: dict[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        super().__init__(params=params)
        self.max_batch_size = max_batch_size

    def prepare(self, overrides: list[Override]) -> None:
        self.all = [self.job(each) for each in combinations(overrides)]
        states = Counter(self.plan.status(job).status for job in self.all)
        if states["waiting"] < len(self.all):
            begun, jobs = states["running"] + states["failed"], count(len(self.all), "job")
            log.info("of %s %d finished already, %d begun, %d new", jobs, states["finished"], begun, states["waiting"])

    def run(self) -> None:
        size = self.max_batch_size or len(self.all)
        for start in range(0, len(self.all), size):
            self.launch(self.all[start : start + size])


class OptunaSweeper(_Sweeper):
    """Runs trials that learn from those before them. Optuna keeps its study in the sweep's folder."""

    retries = False  # Optuna has noted the failure, and draws elsewhere

    def __init__(
        self,
        *,
        params: dict[str, Any] | None = None,
        n_trials: int = 20,
        n_jobs: int | None = None,
        metric: str = "AP",
        direction: Direction = "maximize",
        seed: int = 42,
        startup_trials: int = 8,
        pruner: Pruner | None = None,
    ) -> None:
        super().__init__(params=params)
        self.pruner, self.prunes = pruner, pruner is not None
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.metric, self.direction = metric, direction
        self.seed, self.startup_trials = seed, startup_trials

    def prepare(self, overrides: list[Override]) -> None:
        if distributed.world_size() > 1:
            raise UserError(
                "hydra/sweeper=optuna does not run under torchrun, where one trial that fails ends them all; start the "
                "search without it and let a launcher run several trials at a time: hydra/launcher=joblib, or "
                "hydra/launcher=submitit_slurm hydra.sweeper.n_jobs=4"
            )
        searched = [each for each in overrides if each.is_sweep_override()]
        space: Space = {each.get_key_element(): space_of(each) for each in searched}
        if len(space) < len(searched):
            twice, _ = Counter(each.get_key_element() for each in searched).most_common(1)[0]
            raise UserError(f"{twice} is searched twice, which hydra/sweeper=optuna cannot; give all its values once")
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to search; give spaces: 'optimizer.lr=interval(1e-4,1e-2)'"
            )
        if self.prunes:
            self.jobs.check_pruning()
        self.overrides = overrides
        for values in corners(space):
            self.jobs.folder(self.plan.next_number, self.drawn(values))
        self.check_folders(space)
        self.at_once = self.n_jobs or self.workers or 1
        self.search = Search(
            self.folder,
            space=space,
            direction=self.direction,
            seed=self.seed,
            startup_trials=self.startup_trials,
            at_once=self.at_once,
            pruner=self.pruner,
        )

    def run(self) -> None:
        trials = self.search.open_trials()
        if len(self.search):
            done = len(self.search) - len(trials)
            log.info("of %s %d done already, %d begun", count(self.n_trials, "trial"), done, len(trials))
        while trials or len(self.search) < self.n_trials:
            room = min(self.at_once - len(trials), self.n_trials - len(self.search))
            trials += [self.search.ask() for _ in range(room)]
            jobs = [self.job(self.drawn(trial.values)) for trial in trials]
            for trial, job in zip(trials, jobs, strict=True):
                note = self.search.note(trial, self.metric)
                if note is not None:
                    note.write(self.folder / job.folder)
            self.launch(jobs)
            for trial, job in zip(trials, jobs, strict=True):
                self.search.tell(trial, self.value(job), pruned=was_pruned(self.plan.status(job).ended))
            trials = []
        best = self.search.best()
        if best is not None:
            log.info("best %s %.4f: %s", self.metric, best[1], " ".join(as_overrides(best[0].values)))

    def drawn(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial."""
        texts = dict(zip(values, as_overrides(values), strict=True))
        return [texts.get(each.get_key_element(), each.input_line or "") for each in self.overrides]

    def check_folders(self, space: Space) -> None:
        """Raise UserError where trials could share a folder: nobody knows them yet."""
        number = self.plan.next_number
        for key, one, other in variations(space):
            first, second = (self.jobs.folder(number + step, self.drawn(one)) for step in (0, 1))
            if first != second:
                return  # by number
            if first == self.jobs.folder(number, self.drawn(other)):
                names = " and ".join(as_overrides({key: each[key]})[0] for each in (one, other))
                raise UserError(
                    f"trials with {names} would lie in one folder, {self.folder / first}; {self.jobs.numbered}"
                )

    def value(self, job: Job) -> float | None:
        """Return the metric of a job's best epoch; None where the job failed.

        Raises:
            UserError: the validation has no such metric.
        """
        from detr.tracking.rows import best_row
        from detr.tracking.run_folder import RunFolder

        if self.plan.status(job).status != "finished":
            return None
        rows = RunFolder(self.folder / job.folder).rows()
        best = best_row(rows, self.metric, lower=self.direction == "minimize")
        if best is None:
            known = [key.removeprefix("val/") for key in (rows[-1] if rows else {}) if key.startswith("val/")]
            names = ", ".join(key for key in known if "/" not in key) or "none"
            raise UserError(f"hydra.sweeper.metric: the validation has no {self.metric}; it has {names}")
        return best[f"val/{self.metric}"]


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Interrupted on SIGTERM meanwhile, also between two jobs; a training has a handler of its own."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Interrupted(signal.Signals(number))
        os._exit(128 + number)  # a worker that was forked

    if threading.current_thread() is not threading.main_thread():  # no other may have handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fill_in_workers(config: DictConfig) -> None:
    """Fill in how many jobs joblib runs at a time, where nobody says: one for each GPU, two on a CPU.

    joblib's own default, -1, is one for each core, and a training keeps several cores busy.
    """
    from detr.sweeping.devices import visible_gpus

    if config.hydra.launcher.get("n_jobs") == -1:
        config.hydra.launcher.n_jobs = len(visible_gpus()) or 2
