"""Runs that differ by their seed alone are one setting; what differs between settings is what is compared."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detr.comparison.data import ValidationData, validation_data
from detr.comparison.reading import Run

IGNORED = {
    "seed",
    "paths",
    "name",
    "logger",
    "hydra",
    "resume",
    "resume_changed",
}  # where a run lies and who is told of it
ABSENT = "–"  # of a key that a setting does not have
MAX_KEYS = 3  # more differing keys than these make no name
MAX_NAME = 80

Key = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """Holds one config with its runs, one run for each seed, in the order in which they were given."""

    letter: str  # A, B, C …: A is the baseline
    description: str  # what makes it differ from the others
    runs: list[Run]
    data: ValidationData

    @property
    def seeds(self) -> dict[Any, Run]:
        return {run.seed: run for run in self.runs}

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
    members: list[tuple[dict[Key, str], ValidationData, dict[Any, Run]]] = []
    notes = []
    for run in runs:
        config, data = settled(run.recorded.config), validation_data(run)
        found = next((each for each in members if each[0] == config and each[1].same(data)), None)
        if found is None:
            members.append((config, data, {run.seed: run}))
            continue
        before = found[2].get(run.seed)
        if before is not None:
            notes.append(f"{before.folder} is left out: {run.folder} has the same config and seed")
        found[2][run.seed] = run
    configs = [config for config, _, _ in members]
    differences = differing(configs)
    names = describe(differences, [list(seeds.values()) for _, _, seeds in members])
    settings = [
        Setting(letter(index), name, list(seeds.values()), data)
        for index, (name, (_, data, seeds)) in enumerate(zip(names, members, strict=True))
    ]
    return Grouping(settings, differences, notes)


def settled(config: Mapping[str, Any], path: Key = ()) -> dict[Key, str]:
    """Return key → value as text, of everything that makes a setting; lists are values."""
    leaves: dict[Key, str] = {}
    for key, value in config.items():
        here = (*path, str(key))
        if here[0] in IGNORED:
            continue
        if isinstance(value, Mapping) and value:
            leaves |= settled(value, here)
        else:
            leaves[here] = text(value)
    return leaves


def differing(configs: Sequence[Mapping[Key, str]]) -> dict[str, list[str]]:
    """Return the keys in which some config differs from the first, with each one's value."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {".".join(key): [config.get(key, ABSENT) for config in configs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def describe(differences: Mapping[str, Sequence[str]], groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return a name for each setting: its values of the keys that differ, its overrides, or its folder."""
    firsts = [runs[0] for runs in groups]
    folders = [str(run.folder) for run in firsts]
    if 0 < len(differences) <= MAX_KEYS:
        named = [", ".join(f"{key}={values[i]}" for key, values in differences.items()) for i in range(len(groups))]
        return named if max(map(len, named)) <= MAX_NAME else folders
    overrides = [[each for each in run.recorded.overrides if not _is_ignored(each)] for run in firsts]
    shared = set.intersection(*map(set, overrides))
    named = [" ".join(each for each in own if each not in shared) or "no overrides" for own in overrides]
    usable = len(groups) > 1 and len(set(named)) == len(named) and max(map(len, named)) <= MAX_NAME
    return named if usable else folders


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


def _is_ignored(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0].partition(".")[0] in IGNORED
