"""The table of a sweep, of folders written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

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
    update_status(tmp_path / "0", status="finished")
    update_status(tmp_path / "1", status="failed", error="a | b")
    update_status(tmp_path / "3", status="running")
    return made


def test_a_row_for_each_job_whatever_became_of_it(plan: Plan) -> None:
    rows = table.job_results(plan)
    assert [row.status for row in rows] == ["finished", "failed", "waiting", "interrupted"]
    assert rows[0].values == {"AP": 0.3, "AP50": 0.7, "epoch": 2, "last AP": 0.2, "minutes": 5.0}
    assert rows[1].values == {"AP": 0.25, "AP50": 0.5, "epoch": 1, "last AP": 0.25, "minutes": 2.0}
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
    assert "| 0 | 1 | 0 | 3 | finished | 0.300 | 0.700 | 2 | 0.200 | 5.0 |" in document
    assert f"- #1 lr=1 a.seed=1 b.seed=3: a | b; log: {plan.path}/1/train.log" in document
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


def test_keys_are_shortened_where_that_is_clear() -> None:
    keys = ["optimizer.lr", "backbone", "a.seed", "b.seed"]
    assert table.short(keys) == ["lr", "backbone", "a.seed", "b.seed"]
