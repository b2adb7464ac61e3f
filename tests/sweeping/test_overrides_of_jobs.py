"""Overrides mean in a sweep what they mean in a single run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from command import run
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from detr.config.compose import BEHAVIOUR
from detr.sweeping.plan import Job, Plan
from detr.sweeping.space import combinations, in_order


def jobs(typed: list[str], params: list[str] | None = None) -> list[list[str]]:
    parser = OverridesParser.create()
    return combinations(in_order(parser.parse_overrides(params or []), parser.parse_overrides(typed)))


MENTIONED = [
    "+own={a: 1}",
    "+own={b: 2}",
    "+own={a: 3}",
    "+own=[1]",
    "++own=4",
    "own={c: 5}",
    "own.a=6",
    "~own",
    "seed=1",
    "seed=2",
    "++seed=3",
    "~seed",
    "+seed=4",
    "~optimizer.lr",
    "+optimizer.lr=7",
    "optimizer={lr: 8}",
    "loss=focal",
    "loss=detr",
    "~loss.terms.giou",
]


@given(st.lists(st.sampled_from(MENTIONED), max_size=5))
def test_nothing_vanishes_where_nothing_is_swept(overrides: list[str]) -> None:
    assert jobs(overrides) == [overrides], "and so a job composes to what a single run does"


SWEPT = ["seed=1,2", "+own={a: 1},{b: 2}", "own={c: 1},{c: 2}", "loss=focal,detr", "++own.a=1,2", "optimizer.lr=1,2"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A config that composes in no time."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "loss").mkdir()
    for name in ("detr", "focal"):
        (folder / "loss" / f"{name}.yaml").write_text(f"name: {name}\nterms: {{giou: 1, l1: 2}}\n")
    (folder / "small.yaml").write_text("defaults:\n  - loss: detr\n  - _self_\nseed: 0\noptimizer: {lr: 1, decay: 2}\n")
    with hydra.initialize_config_dir(str(folder), **BEHAVIOUR):
        yield


def composed(overrides: list[str]) -> Any:
    """The config, or that Hydra has something against it."""
    try:
        return hydra.compose("small", overrides)
    except HydraException:
        return "refused"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(MENTIONED), max_size=3), st.sampled_from(SWEPT), st.integers(0, 3))
def test_a_sweep_is_the_single_runs_with_each_value(others: list[str], swept: str, place: int) -> None:
    (override,) = OverridesParser.create().parse_overrides([swept])
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    single = [composed([*others[:place], value, *others[place:]]) for value in values]
    found = [composed(job) for job in jobs([*others[:place], swept, *others[place:]])]
    assert len(found) in (1, len(single)), "once where every value is replaced later"
    assert all(job == run for job, run in zip(found, single, strict=False))
    assert all(run == single[0] for run in single[len(found) :])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["seed=1", "seed=1,2"], [["seed=1", "seed=1"], ["seed=1", "seed=2"]]),
        (["seed=1,2", "seed=3"], [["seed=1", "seed=3"]]),
        (["+k=1,2", "~k"], [["+k=1", "~k"]]),
        (["+k={a: 1},{a: 2}", "+k={b: 3}"], [["+k={a:1}", "+k={b: 3}"], ["+k={a:2}", "+k={b: 3}"]]),
        (["a@x=1,2", "a@y=3"], [["a@x=1", "a@y=3"], ["a@x=2", "a@y=3"]]),
    ],
)
def test_on_the_command_line(typed: list[str], expected: list[list[str]]) -> None:
    assert jobs(typed) == expected


@pytest.mark.parametrize(
    ("params", "typed", "expected"),
    [
        (["seed=1,2"], ["seed=3"], [["seed=3"]]),
        (["seed=1"], ["seed=3,4"], [["seed=3"], ["seed=4"]]),
        (["seed=1,2"], ["++seed=3"], [["++seed=3"]]),
        (["seed=1,2"], ["~seed"], [["~seed"]]),
        (["~seed"], ["seed=3"], [["seed=3"]]),
        (["+k=1,2"], ["+k=3"], [["+k=3"]]),
        (["+k=1,2"], ["k=3"], [["+k=1", "k=3"]]),
        (["+k=1,2"], ["~k"], [["+k=1", "~k"]]),
        (["+k=interval(1,2)"], ["k=3"], [["+k=1.0", "k=3"]]),
        (["+k={a: 1}"], ["+k={b: 2}"], [["+k={a: 1}", "+k={b: 2}"]]),
        (["loss=focal,detr"], ["loss=varifocal"], [["loss=varifocal"]]),
        (["loss=focal,detr"], ["seed=1"], [["loss=focal", "seed=1"], ["loss=detr", "seed=1"]]),
    ],
)
def test_the_command_line_wins_over_the_file(params: list[str], typed: list[str], expected: list[list[str]]) -> None:
    assert jobs(typed, params) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (["seed=1", "loss=focal"], ["loss=focal", "seed=1"], True),
        (["seed=1", "seed=2"], ["seed=2", "seed=1"], False),
        (["+k={a: 1}", "k.a=2"], ["k.a=2", "+k={a: 1}"], False),
        (["~k", "+k=1"], ["+k=1", "~k"], False),
        (["seed=1", "seeds=2"], ["seeds=2", "seed=1"], True),
    ],
)
def test_a_job_is_another_where_the_order_counts(
    ours: list[str], theirs: list[str], same: bool, tmp_path: Path
) -> None:
    plan = Plan(tmp_path, "s", jobs=[Job(0, "0", tuple(ours))])
    assert (plan.find(theirs) is not None) is same


SCRIPT = """
import json
from detr.entry import entry_point
@entry_point('train')
def main(config):
    print('callbacks', json.dumps(config.values['callbacks']), config.values['seed'])
main()
"""
STOP = "_target_: detr.training.callbacks.Callback"


@pytest.mark.parametrize(
    "overrides",
    [
        ["+callbacks.a={" + STOP + "}", "+callbacks={b: {" + STOP + "}}", "+callbacks={c: {" + STOP + "}}"],
        ["++callbacks.a={" + STOP + "}", "++callbacks={b: {" + STOP + "}}", "seed=3"],
        ["~seed", "+seed=4"],
    ],
)
def test_the_command_does_the_same_with_and_without_m(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    said = []
    for flags in (["hydra.run.dir=one"], ["-m", "hydra.sweep.dir=many"]):
        done = run(str(tmp_path / "own.py"), *flags, *overrides, cwd=tmp_path)
        said += [line for line in done.stdout.splitlines() if line.startswith("callbacks")]
    assert len(said) == 2
    assert said[0] == said[1]


def test_a_file_may_give_values_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    params = {"seed": 7, "resume": None, "trainer": {"max_epochs": 2, "max_steps": 5}, "optimizer.lr": 0.5}
    node = {"mode": "MULTIRUN", "sweep": {"dir": "many"}, "sweeper": {"params": params}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"defaults": ["train", "_self_"], "hydra": node}))
    done = run(str(tmp_path / "own.py"), "-cd", str(tmp_path), "-cn", "own", cwd=tmp_path)
    assert "callbacks {} 7" in done.stdout, done.stderr
    (job,) = json.loads((tmp_path / "many" / "sweep.json").read_text())["jobs"]
    assert set(job["overrides"]) == {
        "seed=7",
        "resume=null",
        "trainer={max_epochs: 2,max_steps: 5}",
        "optimizer.lr=0.5",
    }
