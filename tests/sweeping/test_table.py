"""The table of a sweep, of folders written by hand."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from detr.sweeping import table
from detr.sweeping.plan import Job, Plan
from detr.tracking.status import update_status


def add_run(folder: Path, rows: list[dict[str, Any]], monitor: str = "AP") -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"trainer:\n  monitor: {monitor}\n")
    lines = [
        {"epoch": index + 1, "step": index + 1, "train/seconds": 60.0 * (index + 1), **row}
        for index, row in enumerate(rows)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics(ap: float | None, ap50: float | None = 0.5, **others: float) -> dict[str, Any]:
    return {"val/AP": ap, "val/AP50": ap50} | {f"val/{name}": value for name, value in others.items()}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three jobs: one finished, one that failed after an epoch, one that never started, one interrupted."""
    names = [("lr=1", "a.seed=0", "b.seed=3"), ("lr=1", "a.seed=1", "b.seed=3"), ("lr=2", "a.seed=0"), ("lr=2",)]
    made = Plan(tmp_path, "seeds today", ["lr", "a.seed"], [Job(i, f"{i}", each) for i, each in enumerate(names)])
    add_run(tmp_path / "0", [metrics(0.1), metrics(0.3, 0.7), {}, metrics(0.2), {}])
    add_run(tmp_path / "1", [metrics(0.25), metrics(None)])
    (tmp_path / "1" / "train.log").touch()
    update_status(tmp_path / "0", status="finished", ended="ended by trainer.max_steps=5 in step 5 of 5")
    update_status(tmp_path / "1", status="failed", error="a | b")
    update_status(tmp_path / "3", status="running")
    return made


def test_a_row_for_each_job_whatever_became_of_it(plan: Plan) -> None:
    rows = table.job_results(plan)
    assert [row.status for row in rows] == ["finished", "failed", "waiting", "interrupted"]
    assert rows[0].values == {"AP": 0.3, "AP50": 0.7, "epoch": 2, "last AP": 0.2, "steps": 5, "minutes": 5.0}
    assert rows[1].values == {"AP": 0.25, "AP50": 0.5, "epoch": 1, "last AP": 0.25, "steps": 2, "minutes": 2.0}
    assert rows[2].values == rows[3].values == {}


def test_the_same_in_csv_and_markdown(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table.job_results(plan)
    table.write(plan, rows)
    table.show(plan, rows)
    with open(plan.path / "sweep.csv") as file:
        first, second, third, _ = csv.DictReader(file)
    assert {key: first[key] for key in ("job", "lr", "a.seed", "b.seed", "status", "AP", "minutes", "folder")} == {
        "job": "0",
        "lr": "1",
        "a.seed": "0",  # in full, since two keys end alike
        "b.seed": "3",
        "status": "finished",
        "AP": "0.3",
        "minutes": "5.0",
        "folder": "0",
    }
    assert (second["error"], third["AP"], third["b.seed"]) == ("a | b", "", "")
    document = (plan.path / "sweep.md").read_text()
    assert "| 0 | 1 | 0 | 3 | finished | 0.300 | 0.700 | 2 | 0.200 | 5 | 5.0 min |" in document
    assert f"- #1 lr=1 a.seed=1 b.seed=3: a \\| b; log: {plan.path}/1/train.log" in document
    shown = capsys.readouterr().out
    assert "│ finished" in shown
    assert f"log: {plan.path}/1/train.log" in shown


def test_the_best_epoch_is_that_of_the_metric_that_was_monitored(tmp_path: Path) -> None:
    epochs = [metrics(0.3, 0.4, loss=2.0, PQ=10.0), metrics(0.2, 0.6, loss=1.0, PQ=20.0)]
    add_run(tmp_path / "PQ", epochs, "PQ")
    add_run(tmp_path / "loss", epochs, "loss")
    add_run(tmp_path / "AP", epochs, "AP")
    found = {name: table.results(tmp_path / name) for name in ("PQ", "loss", "AP")}
    assert (found["PQ"]["epoch"], found["PQ"]["PQ"], found["PQ"]["AP"]) == (2, 20.0, 0.2)
    assert (found["loss"]["epoch"], found["loss"]["loss"]) == (2, 1.0)
    assert (found["AP"]["epoch"], found["AP"]["AP"]) == (1, 0.3)


def test_an_evaluation_has_its_own_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"AP": 0.4, "AP50": 0.6, "per_class": {}}))
    assert table.results(tmp_path) == {"AP": 0.4, "AP50": 0.6}


ENDS = {
    "ended by trainer.max_epochs=2 in step 40 of 40": "trainer.max_epochs=2",
    "ended by trainer.max_minutes=3 in step 29 of 40": "trainer.max_minutes=3 in step 29 of 40",
    "stopped by SIGTERM in step 5 of 40": "SIGTERM in step 5 of 40",
    "in some other way": "in some other way",
    None: None,
}


@pytest.mark.parametrize("ended", ENDS)
def test_why_a_job_ended_in_short(ended: str | None) -> None:
    assert table.short_end(ended) == ENDS[ended]


def seeds_of_two(folder: Path, ends: list[str]) -> Plan:
    """A sweep over a loss and two seeds, with folders as trainings leave them."""
    each, jobs = product(("detr", "focal"), (1, 2)), []
    for number, ((loss, seed), ap) in enumerate(zip(each, (0.3, 0.4, 0.5, 0.52), strict=True)):
        overrides = [f"loss={loss}", f"seed={seed}"]
        write_run(
            folder / str(number),
            [0.1, ap, 0.2],
            seed=seed,
            config={"loss": {"terms": {f"{loss}{index}": 1 for index in range(9)}}},
            overrides=overrides[:1],
            facts={"choices": {"loss": loss}},
        )
        update_status(folder / str(number), status="finished", ended=ends[number])
        jobs.append(Job(number, str(number), tuple(overrides)))
    return Plan(folder, "train today", ["loss", "seed"], jobs)


def test_settings_have_means_over_seeds_in_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = seeds_of_two(tmp_path, ["ended by trainer.max_epochs=3 in step 30 of 30"] * 4)
    rows = table.job_results(plan)
    table.write(plan, rows)
    table.show(plan, rows)
    assert table.by_setting(rows) == [
        ["setting", "seeds", "AP", "AP50", "last AP"],
        ["loss=detr", "2", "35.0 ± 7.1", "35.0 ± 7.1", "20.0 ± 0.0"],
        ["loss=focal", "2", "51.0 ± 1.4", "51.0 ± 1.4", "20.0 ± 0.0"],
    ]
    assert "| loss=focal | 2 | 51.0 ± 1.4 | 51.0 ± 1.4 | 20.0 ± 0.0 |" in (tmp_path / "sweep.md").read_text()
    shown = capsys.readouterr().out
    assert "│ loss=focal │" in shown
    assert f"compare  detr compare {tmp_path}\n" in shown
    assert "ended by" not in shown, "it is the same for all"
    with open(tmp_path / "sweep.csv") as file:
        assert {row["ended"] for row in csv.DictReader(file)} == {"trainer.max_epochs=3"}


def test_other_ends_are_told_and_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = "ended by trainer.max_epochs=3 in step 30 of 30"
    ends = [usual, usual, "ended by hydra.sweeper.pruner=median in step 10 of 30", usual]
    plan = seeds_of_two(tmp_path, ends)
    update_status(tmp_path / "1", status="running", ended="stopped by SIGINT in step 20 of 30")
    rows = table.job_results(plan)
    assert [row.status for row in rows] == ["finished", "interrupted", "pruned", "finished"]
    assert table.by_setting(rows) == [], "each setting has one run that came to its end"
    table.show(plan, rows)
    shown = capsys.readouterr().out
    assert "┃ ended by" in shown
    assert "hydra.sweeper.pruner=median in step 10 of 30" in shown


def test_every_job_a_setting_of_its_own_needs_no_second_table(tmp_path: Path) -> None:
    plan = seeds_of_two(tmp_path, ["ended by trainer.max_epochs=3 in step 30 of 30"] * 4)
    del plan.jobs[1::2]
    assert table.by_setting(table.job_results(plan)) == []
