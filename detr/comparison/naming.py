"""What settings are called: by the overrides and choices that tell them apart, as they stand on the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Where a run lies and who is told of it: no part of a setting.
IGNORED = {"seed", "paths", "name", "license", "logger", "hydra", "resume", "resume_changed"}

MAX_KEYS = 3  # more differing keys than these make no name
MAX_NAME = 80  # characters; longer names have the last part of each key only
MAX_VALUE = 40

Columns = dict[str, list[str | None]]  # key → its value in each setting; None: it has no such key


@dataclass(frozen=True)
class Described:
    """Holds what is known of a setting."""

    config: Mapping[str, str]  # key → value, as YAML would have it
    choices: Mapping[str, str]  # group → option
    overrides: Sequence[str]


def name_settings(settings: Sequence[Described]) -> list[str] | None:
    """Return a name for each setting, all different; None where nothing short tells them apart."""
    columns = _overridden(settings)
    if len(settings) == 1:
        own, experiment = _names(columns, 1), settings[0].choices.get("experiment")
        return [f"experiment={experiment}"] if experiment and (own is None or len(own[0]) > MAX_NAME) else own
    columns = _differing(columns)
    choices = _differing(_columns([each.choices for each in settings]))
    config = _differing(_columns([each.config for each in settings]))
    for more in ({}, choices, config if len(config) <= MAX_KEYS else {}):
        names = _names(columns | more, len(settings))
        if names is not None:
            return names
    return None


def as_values(overrides: Sequence[str]) -> dict[str, str]:
    """Return key → value as text; a key that is deleted keeps its tilde."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def is_ignored(key: str) -> bool:
    """Return whether a key is no part of a setting."""
    return key.lstrip("+~").partition(".")[0].partition("/")[0] in IGNORED


def short(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key; the whole key where two end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    ends = Counter(last.values())
    return [last[key] if ends[last[key]] == 1 else key for key in keys]


def _overridden(settings: Sequence[Described]) -> Columns:
    """Every key that some setting overrides, with the values of all: one that is not overridden has a value, too."""
    own = [as_values(each.overrides) for each in settings]
    keys = dict.fromkeys(key for each in own for key in each if not is_ignored(key))
    both = list(zip(settings, own, strict=True))
    return {
        key: [each.choices.get(key) or each.config.get(key) or values.get(key) for each, values in both] for key in keys
    }


def _columns(tables: Sequence[Mapping[str, str]]) -> Columns:
    keys = dict.fromkeys(key for table in tables for key in table if not is_ignored(key))
    return {key: [table.get(key) for table in tables] for key in keys}


def _differing(columns: Columns) -> Columns:
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def _names(columns: Columns, settings: int) -> list[str] | None:
    """Each setting's values of all keys, shortened if they are long; None where two are called alike."""
    own = dict(zip(columns, short(list(columns)), strict=True))
    whole = [_name(columns, index) for index in range(settings)]
    shortened = [
        _name({own[key]: list(map(_clipped, values)) for key, values in columns.items()}, index)
        for index in range(settings)
    ]
    names = whole if max(map(len, whole)) <= MAX_NAME or len(set(shortened)) < settings else shortened
    return names if columns and len(set(names)) == settings else None


def _name(columns: Columns, index: int) -> str:
    parts = [
        key if key.startswith("~") else f"{key}={values[index]}"
        for key, values in columns.items()
        if values[index] is not None
    ]
    return " ".join(parts) or "no overrides"


def _clipped(value: str | None) -> str | None:
    return value if value is None or len(value) <= MAX_VALUE else f"{value[: MAX_VALUE - 1]}…"
