"""What a sweep's folder says of it: `sweep.json` lists the jobs; each job's `status.json` says what became of it.

The state is kept in files, because jobs run in other processes and on other machines, and because a sweep that was
killed is started again in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from detr.files import write_json
from detr.tracking.status import RunStatus, read_status

PLAN = "sweep.json"


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
        """Return the job with these overrides, in whatever order."""
        return next((job for job in self.jobs if sorted(job.overrides) == sorted(overrides)), None)

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

    def status(self, job: Job) -> RunStatus:
        """Return what became of a job."""
        return read_status(self.path / job.folder)


def job_facts(sweep: Path, folder: Path) -> dict[str, object]:
    """Return what a run is told of its sweep: the sweep's `name`, and the overrides that set the run apart."""
    plan = Plan.read(sweep)
    if plan is None:
        return {}
    job = next((each for each in plan.jobs if (sweep / each.folder).resolve() == folder.resolve()), None)
    differing = {} if job is None else plan.differing(job)
    return {"name": plan.name, "differs": [f"{key}={value}" for key, value in differing.items()]}


def as_values(overrides: Sequence[str]) -> dict[str, str]:
    """Return key → value as text; a key that is deleted keeps its tilde."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}
