"""Runs that differ by their seed alone are one setting; what differs between settings is what is compared."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr.comparison.data import SplitData, split_data
from detr.comparison.naming import Described, is_ignored, name_settings
from detr.comparison.reading import Run

ABSENT = "–"  # of a key that a setting does not have

Key = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """Holds one config with its runs, one run for each seed, in the order in which they were given."""

    letter: str  # A, B, C …: A is the baseline
    description: str  # what makes it differ from the others
    runs: list[Run]
    data: SplitData

    @property
    def seeds(self) -> dict[Any, Run]:
        return {run.seed: run for run in self.runs}

    @property
    def seeding(self) -> str:
        """Return "seed 0", "seeds 0, 1"."""
        return f"{'seed' if len(self.runs) == 1 else 'seeds'} {', '.join(str(run.seed) for run in self.runs)}"

    @property
    def title(self) -> str:
        return f"{self.letter} ({self.description})"


@dataclass(frozen=True)
class Grouping:
    """Holds all settings, the baseline first, and what differs between them."""

    settings: list[Setting]
    differences: dict[str, list[str]]  # config key → its value in each setting, as YAML would have it
    notes: list[str]  # runs that were left out


def group(runs: Sequence[Run]) -> Grouping:
    """Return the settings of runs, in the order of their first runs.

    Of two runs with the same config and seed the later one counts: a run that was repeated is not two seeds.
    """
    members: list[tuple[dict[Key, str], SplitData, dict[Any, Run]]] = []
    notes = []
    for run in runs:
        config, data = settled(run.recorded.config) | _evaluation(run), split_data(run)
        found = next((each for each in members if each[0] == config and each[1].same(data)), None)
        if found is None:
            members.append((config, data, {run.seed: run}))
            continue
        before = found[2].get(run.seed)
        if before is not None:
            notes.append(f"{before.place} is left out: {run.place} has the same config and seed")
        found[2][run.seed] = run
    configs = [config for config, _, _ in members]
    names = describe([(config, next(iter(seeds.values()))) for config, _, seeds in members])
    settings = [
        Setting(letter(index), name, list(seeds.values()), data)
        for index, (name, (_, data, seeds)) in enumerate(zip(names, members, strict=True))
    ]
    return Grouping(settings, differing(configs), notes)


def settled(config: Mapping[str, Any], path: Key = ()) -> dict[Key, str]:
    """Return key → value as text, of everything that makes a setting; lists are values."""
    leaves: dict[Key, str] = {}
    for key, value in config.items():
        here = (*path, str(key))
        if not path and is_ignored(here[0]):
            continue
        if isinstance(value, Mapping) and value:
            leaves |= settled(value, here)
        else:
            leaves[here] = text(value)
    return leaves


def _evaluation(run: Run) -> dict[Key, str]:
    """What was overridden when a checkpoint was evaluated, which makes other numbers of the same training."""
    overrides = [] if run.evaluation is None else run.evaluation.overrides
    return {("evaluate.py",): " ".join(overrides)} if overrides else {}


def differing(configs: Sequence[Mapping[Key, str]]) -> dict[str, list[str]]:
    """Return the keys in which some config differs from the first, with each one's value."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {".".join(key): [config.get(key, ABSENT) for config in configs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def describe(settings: Sequence[tuple[Mapping[Key, str], Run]]) -> list[str]:
    """Return a name for each setting, which is a config with one of its runs; its place where nothing else names it."""
    described = [
        Described({".".join(key): value for key, value in config.items()}, run.choices, run.recorded.overrides)
        for config, run in settings
    ]
    return name_settings(described) or [run.place for _, run in settings]


def letter(index: int) -> str:
    """Return A … Z, then A1, B1, …"""
    turn, place = divmod(index, len(string.ascii_uppercase))
    return string.ascii_uppercase[place] + (str(turn) if turn else "")


def text(value: Any) -> str:
    """Return a value as one would write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {text(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
