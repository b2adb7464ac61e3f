"""The files in sweeps/: every job that they describe can be composed and fits its constructors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from detr.config import check, compose
from detr.config.compose import load, without_hydra
from detr.sweeping.search import as_overrides
from detr.sweeping.space import combinations, corners, space_of

SWEEPS = ROOT / "sweeps"
NAMES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
LARGE = {"ablations", "family_ingredients", "ingredients", "matcher_costs"}  # of many jobs
WANDB_FILES = sorted((SWEEPS / "wandb").glob("*.yaml"))


def loaded(name: str, *overrides: str) -> DictConfig:
    """As `python train.py -cd sweeps -cn NAME OVERRIDES` has it."""
    return load(name, overrides, [SWEEPS])


def spaces(master: DictConfig) -> list[Override]:
    parser = OverridesParser.create()
    return parser.parse_overrides([f"{key}={value}" for key, value in master.hydra.sweeper.params.items()])


def jobs(master: DictConfig) -> list[list[str]]:
    """The overrides of every job of a grid; of a search those that have every bound and option once."""
    overrides = spaces(master)
    if master.hydra.runtime.choices["hydra/sweeper"] == "basic":
        return combinations(overrides)
    return [list(as_overrides(values)) for values in corners({each.key_or_group: space_of(each) for each in overrides})]


def test_the_sweeps_are_there() -> None:
    wanted = ["seeds", "learning_rate", "backbone_position", "matcher_costs", "num_queries", "ablations", "optuna"]
    assert set(wanted) <= set(NAMES)
    assert len(WANDB_FILES) >= 3


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in NAMES]
)
def test_every_job_composes_and_fits(name: str) -> None:
    master = loaded(name)
    assert str(master.hydra.mode) == "RunMode.MULTIRUN", "no -m is needed"
    every = jobs(master)
    assert len(every) >= 2
    for overrides in every:
        check(without_hydra(loaded(name, *overrides)))


@pytest.mark.parametrize("name", NAMES)
def test_experiment_and_values_are_overridden_from_the_command_line(name: str) -> None:
    master = loaded(name, "experiment=bccd_smoke", "trainer.max_minutes=0.5")
    assert master.hydra.runtime.choices["experiment"] == "bccd_smoke"
    assert (master.trainer.max_epochs, master.trainer.max_minutes) == (2, 0.5)
    check(without_hydra(master))


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_command_cost_and_purpose(name: str) -> None:
    header = [line for line in (SWEEPS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(f"python train.py -cd sweeps -cn {name}" in line for line in header)
    assert any("Cost: " in line for line in header)


@pytest.mark.slow
def test_every_ablation_takes_part_and_changes_something() -> None:
    master = loaded("ablations")
    (override,) = spaces(master)
    options = list(override.sweep_string_iterator())
    assert sorted(options) == sorted(path.stem for path in (SWEEPS / "ablation").glob("*.yaml"))
    plain = {option: str(without_hydra(loaded("ablations", f"ablation={option}"))) for option in options}
    assert plain["none"] == str(without_hydra(loaded("ablations")))
    assert len(set(plain.values())) == len(options)


def agent_command(file: Path, values: dict[str, Any]) -> list[str]:
    """What `wandb agent` runs for one draw of the parameters, by the agent's own code."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    content = yaml.safe_load(file.read_text())
    command = create_sweep_command(copy.deepcopy(content["command"]))
    variables = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    variables |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [content["program"]]}
    words: list[str] = []
    for word in command:  # as Agent._command_run
        macro = word[2:-1] if word.startswith("${") and word.endswith("}") else None
        words += variables.get(macro, [word])
    return words


def draws(file: Path) -> list[dict[str, Any]]:
    """One drawing for each bound and each value; keys with fewer repeat theirs."""
    parameters = yaml.safe_load(file.read_text())["parameters"]
    edges = {
        key: [each["value"]] if "value" in each else each.get("values") or [each["min"], each["max"]]
        for key, each in parameters.items()
    }
    longest = max(map(len, edges.values()))
    return [{key: values[index % len(values)] for key, values in edges.items()} for index in range(longest)]


@pytest.mark.parametrize("file", WANDB_FILES, ids=lambda file: file.stem)
def test_what_the_agent_of_wandb_runs_composes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import SWEEP_COMMAND_ENV_VAR_REGEX

    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    for values in draws(file):
        words = agent_command(file, values)
        assert words[:3] == ["/usr/bin/env", "python", "train.py"]
        overrides = words[3:]
        assert {f"{key}={value}" for key, value in values.items()} <= set(overrides), "keys arrive with their dots"
        assert not any(SWEEP_COMMAND_ENV_VAR_REGEX.search(word) for word in overrides)
        config = compose(overrides)
        check(config)
        assert load("train", overrides).hydra.run.dir == "outputs/wandb/sweep1/run7", "one that is queued again goes on"
        assert config.resume == "auto"
        assert config.logger.mode == "online"
        assert config.loss.auxiliary is values.get("loss.auxiliary", True)


@pytest.mark.parametrize("file", WANDB_FILES, ids=lambda file: file.stem)
def test_wandb_takes_the_file_for_a_sweep(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert content["program"] == "train.py"
    assert content["method"] in ("grid", "random", "bayes")
    assert content["metric"]["goal"] == "maximize"
    for parameter in content["parameters"].values():
        numbers = [parameter[key] for key in ("min", "max") if key in parameter]
        assert all(isinstance(number, int | float) for number in numbers), "1e-4 is a string to YAML, 0.0001 is none"
