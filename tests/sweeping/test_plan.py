"""What a sweep's folder remembers."""

from __future__ import annotations

from pathlib import Path

from detr.sweeping.plan import Job, Plan, job_facts, job_label
from detr.tracking.status import RunStatus, read_status, update_status


def plan(folder: Path) -> Plan:
    overrides = [("logger=none", "optimizer.lr=1", "seed=0"), ("logger=none", "optimizer.lr=2", "seed=0")]
    jobs = [Job(number, str(number), each) for number, each in enumerate(overrides)]
    return Plan(folder, "seeds today", ["optimizer.lr"], jobs)


def test_reads_back(tmp_path: Path) -> None:
    written = plan(tmp_path)
    assert Plan.read(tmp_path) is None
    written.write()
    assert Plan.read(tmp_path) == written


def test_a_job_is_known_by_its_overrides_in_any_order(tmp_path: Path) -> None:
    known = plan(tmp_path)
    assert known.find(["seed=0", "optimizer.lr=2", "logger=none"]) == known.jobs[1]
    assert known.find(["seed=1", "optimizer.lr=2", "logger=none"]) is None
    assert known.next_number == 2


def test_what_sets_a_job_apart(tmp_path: Path) -> None:
    known = plan(tmp_path)
    assert known.differing(known.jobs[1]) == {"optimizer.lr": "2"}
    known.jobs.append(Job(2, "2", ("logger=none", "optimizer.lr=1", "seed=0", "+extra=x")))
    assert known.differing(known.jobs[2]) == {"optimizer.lr": "1", "extra": "x"}
    assert known.differing(known.jobs[0]) == {"optimizer.lr": "1"}


def test_the_only_job_is_set_apart_by_what_is_swept_over(tmp_path: Path) -> None:
    known = plan(tmp_path)
    del known.jobs[1:]
    assert known.differing(known.jobs[0]) == {"optimizer.lr": "1"}


def test_states(tmp_path: Path) -> None:
    known = plan(tmp_path)
    assert known.status(known.jobs[0]) == RunStatus("waiting", None)
    update_status(tmp_path / "0", status="running")
    assert known.status(known.jobs[0]).status == "running"
    update_status(tmp_path / "0", status="failed", error="no data")
    assert read_status(tmp_path / "0") == RunStatus("failed", "no data")


def test_what_a_job_is_told(tmp_path: Path) -> None:
    assert job_facts(tmp_path, tmp_path / "1") == {}
    plan(tmp_path).write()
    assert job_facts(tmp_path, tmp_path / "1") == {"name": "seeds today", "differs": ["optimizer.lr=2"]}
    assert job_facts(tmp_path, tmp_path / "elsewhere") == {"name": "seeds today", "differs": []}


def test_what_a_job_is_called(tmp_path: Path) -> None:
    assert job_label(tmp_path, tmp_path / "1") == "1"
    plan(tmp_path).write()
    assert job_label(tmp_path, tmp_path / "1") == "#1 optimizer.lr=2"
