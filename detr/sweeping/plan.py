"""What a sweep's folder says of it: `sweep.json` lists the jobs; each job's `status.json` says what became of it.

The state is kept in files, because jobs run in other processes and on other machines, and because a sweep that was
killed is started again in the same folder.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from detr.comparison.naming import as_values
from detr.errors import UserError
from detr.files import write_json
from detr.tracking.rows import METRICS
from detr.tracking.status import STATUS, RunStatus, read_status

PLAN = "sweep.json"
TRACES = (STATUS, METRICS, "metrics.json", "checkpoints")  # of a run in a folder


@dataclass(frozen=True)
class Job:
    """Describes one run of a sweep."""

    number: int
    folder: str  # below the sweep's
    overrides: tuple[str, ...]  # key=value, without Hydra's own and without resume


@dataclass
class Plan:
    """Holds the jobs of a sweep so far."""

    path: Path  # of the sweep's folder
    name: str  # of the group in W&B
    keys: list[str] = field(default_factory=list)  # that are swept over
    jobs: list[Job] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """Read the plan of a folder; None where there is no sweep."""
        file = path / PLAN
        if not file.exists():
            return None
        content = json.loads(file.read_text())
        jobs = [Job(each["number"], each["folder"], tuple(each["overrides"])) for each in content["jobs"]]
        return cls(path, content["name"], content["keys"], jobs)

    def write(self) -> None:
        jobs = [asdict(job) for job in self.jobs]
        write_json(self.path / PLAN, {"name": self.name, "keys": self.keys, "jobs": jobs}, indent=1)

    def find(self, overrides: Sequence[str]) -> Job | None:
        """Return the job with these overrides, in whatever order; only of what changes one key the later one counts."""
        return next((job for job in self.jobs if _same(job.overrides, overrides)), None)

    def add(self, job: Job, *, mend: str) -> None:
        """Take in a new job.

        Args:
            job: with a number of its own.
            mend: how jobs get folders of their own.

        Raises:
            UserError: its folder holds a run that this sweep knows nothing of, is another job's, or one of the two
                is inside of the other.
        """
        place = os.path.normpath(self.path / job.folder)
        self.jobs.append(job)
        for other in self.jobs[:-1]:
            theirs = os.path.normpath(self.path / other.folder)
            if f"{place}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{place}/"):
                where = f"in one folder, {place}" if place == theirs else f"one inside the other, {theirs} and {place}"
                raise UserError(f"jobs {self.label(other)} and {self.label(job)} would lie {where}; {mend}")
        if any(Path(place, name).exists() for name in TRACES):
            raise UserError(f"job {self.label(job)}: {place} holds a run that is not of this sweep; {mend}")

    @property
    def next_number(self) -> int:
        return max((job.number for job in self.jobs), default=-1) + 1

    def differing(self, job: Job) -> dict[str, str]:
        """Return key → value of what sets a job apart: what is swept over, and what not all jobs have in common."""
        values = [as_values(each.overrides) for each in self.jobs]
        keys = dict.fromkeys([*self.keys, *(key for each in values for key in each)])
        own = as_values(job.overrides)
        apart = [key for key in keys if key in self.keys or len({each.get(key) for each in values}) > 1]
        return {key: own[key] for key in apart if key in own}

    def label(self, job: Job) -> str:
        """Return what a job is called: "#3 loss=focal"."""
        return " ".join([f"#{job.number}", *(f"{key}={value}" for key, value in self.differing(job).items())])

    def status(self, job: Job) -> RunStatus:
        """Return what became of a job."""
        return read_status(self.path / job.folder)


def job_facts(sweep: Path, folder: Path) -> dict[str, object]:
    """Return what a run is told of its sweep: the sweep's `name`, and the overrides that set the run apart."""
    plan, job = _job(sweep, folder)
    if plan is None:
        return {}
    differing = {} if job is None else plan.differing(job)
    return {"name": plan.name, "differs": [f"{key}={value}" for key, value in differing.items()]}


def job_label(sweep: Path, folder: Path) -> str:
    """Return what the job in a folder is called; the folder's name where the sweep does not know it."""
    plan, job = _job(sweep, folder)
    return folder.name if plan is None or job is None else plan.label(job)


def _same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return sorted(ours) == sorted(theirs) and _ordered(ours) == _ordered(theirs)


def _ordered(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of overrides whose order counts: those of one key, or of a key and what is in it."""
    keys = [(f"{re.split('[+~=]+', f'+{each}')[1]}.", each) for each in overrides]
    pairs = itertools.combinations(keys, 2)
    return sorted((a, b) for (one, a), (two, b) in pairs if one.startswith(two) or two.startswith(one))


def _job(sweep: Path, folder: Path) -> tuple[Plan | None, Job | None]:
    plan = Plan.read(sweep)
    jobs = [] if plan is None else plan.jobs
    return plan, next((each for each in jobs if (sweep / each.folder).resolve() == folder.resolve()), None)
