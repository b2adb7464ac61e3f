"""What Hydra refuses to compose, in one line that says how to mend it.

Hydra's own messages take several lines and propose `+key=` for every typo. So the command line is gone through
again, override by override, until the culprit is found. Nothing of this runs when composing succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detr.config.compose import CONF, groups, hydra_groups, load
from detr.config.references import contains, own_keys
from detr.config.suggest import did_you_mean
from detr.errors import UserError


@dataclass
class CommandLine:
    """Holds what was asked of Hydra."""

    config_name: str
    overrides: list[str]
    folders: list[Path] = field(default_factory=list)  # of configs beside conf/: --config-dir, hydra.searchpath
    multirun: bool = False


def explain(error: Exception, command: CommandLine) -> str:
    """Return one line about why `command` does not compose."""
    if _os_error(error) is not None:
        return _folder_problem(error)
    try:
        _find_culprit(command)
    except UserError as culprit:
        return str(culprit)
    except (HydraException, OmegaConfBaseException, ValueError):
        pass  # the problem is no override's, but the configs' own: Hydra says where
    return in_one_line(error)


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides by Hydra's grammar.

    Raises:
        UserError: what cannot be read.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except (HydraException, ValueError) as error:
            raise UserError(_unreadable(text, error)) from error
    return parsed


def check_key(override: Override, tree: dict[str, Any], all_groups: dict[str, list[str]]) -> None:
    """Check that an override fits the keys of a config.

    Raises:
        UserError: it changes what is not there, or adds what is.
    """
    key, text = override.key_or_group, override.input_line or ""
    there = contains(tree, tuple(key.split(".")))
    candidates = [
        name
        for name in {*own_keys(tree), *all_groups}
        if not key.startswith(f"{name}.") and name.startswith("hydra") == key.startswith("hydra")
    ]
    if override.is_force_add():
        return
    if override.is_add():
        if there and not isinstance(override.value(), dict | list):
            raise UserError(f"{text}: {key} exists already; change it without the plus: {text.lstrip('+')}")
    elif not there:
        hint = did_you_mean(key, candidates) or _neighbours(key, tree)
        raise UserError(f"{key}: there is no such key{hint}")


def check_choice(override: Override, all_groups: dict[str, list[str]]) -> None:
    """Check that the options that an override chooses of a group exist.

    Raises:
        UserError: they do not, or the value is no name.
    """
    group = override.key_or_group
    options = ", ".join(all_groups[group])
    for choice in _choices(override):
        if choice in (None, "") or not isinstance(choice, str | list):
            raise UserError(f"{override.input_line}: {group} is a group; choose one of {options}")
        for name in [choice] if isinstance(choice, str) else choice:
            if str(name).removesuffix(".yaml") not in all_groups[group]:
                hint = did_you_mean(str(name), all_groups[group]) or f"; there are {options}"
                raise UserError(f"{group}={name}: there is no such option{hint}")


def in_one_line(error: BaseException) -> str:
    """Return Hydra's message and its cause's, the first line of each."""
    messages = [str(each).strip() for each in (error, error.__cause__) if each is not None]
    first = [message.splitlines()[0] for message in messages if message]
    return ": ".join(dict.fromkeys(first)) or type(error).__name__


def _find_culprit(command: CommandLine) -> None:
    """Raises UserError about the first override that cannot be; returns if there is none."""
    _check_primary(command)
    parsed = parse_overrides(command.overrides)
    all_groups = groups(*command.folders)
    if any(override.key_or_group.startswith("hydra/") for override in parsed):
        all_groups |= hydra_groups()
    for override in parsed:
        if override.is_sweep_override() and not command.multirun:
            raise UserError(f"{override.input_line}: to try several values add --multirun; a list is written key=[a,b]")
    choices = [each for each in parsed if each.key_or_group in all_groups and not each.is_delete()]
    for override in choices:
        check_choice(override, all_groups)
    _check_added_choices(command, [each for each in choices if each.is_add()])
    chosen = [each.input_line or "" for each in choices if not each.is_sweep_override()]
    tree: Any = OmegaConf.to_container(load(command.config_name, chosen, command.folders), resolve=False)
    for override in parsed:
        if override.key_or_group not in all_groups:
            check_key(override, tree, all_groups)


def _check_added_choices(command: CommandLine, added: list[Override]) -> None:
    """A group that has an option already takes another one without a plus."""
    if not added:
        return
    loaded = load(command.config_name, [], command.folders)
    known: Any = OmegaConf.to_container(loaded.hydra.runtime.choices)
    for override in added:
        group, text = override.key_or_group, override.input_line or ""
        if group in known:
            raise UserError(f"{text}: {group} is chosen already; without plus: {text.lstrip('+')}")


def _check_primary(command: CommandLine) -> None:
    known = sorted({file.stem for folder in (CONF, *command.folders) for file in folder.glob("*.yaml")})
    if command.config_name.removesuffix(".yaml") not in known and "/" not in command.config_name:
        hint = did_you_mean(command.config_name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"--config-name {command.config_name}: there is no such config{hint}")


def _choices(override: Override) -> list[Any]:
    """The value, or each of those that are swept over."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [str(item) if item is not None else None for item in value.list]
    return [] if override.is_sweep_override() else [value]


def _unreadable(text: str, error: Exception) -> str:
    if "=" not in text:
        return f"{text}: an override is written key=value"
    message = str(error.message if isinstance(error, OverrideParseException) else error).strip()
    return f"{text}: {message.splitlines()[0]}; put values with special characters in quotes: 'key=\"a,b\"'"


def _neighbours(key: str, tree: dict[str, Any]) -> str:
    """What there is instead, at the deepest place that exists."""
    path = key.split(".")
    depth = max(depth for depth in range(len(path)) if contains(tree, tuple(path[:depth])))
    node: Any = tree
    for name in path[:depth]:
        node = node[int(name)] if isinstance(node, list) else node[name]
    place = ".".join(path[:depth])
    if not isinstance(node, dict):
        return f"; {place} is a value and has no keys"
    names = [name for name in node if not name.startswith("_") and name != "hydra"]
    return f"; keys of {place} are {', '.join(names)}" if place else "; `python train.py --cfg job` shows them all"


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's refusal behind an error; a config that is not found is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, HydraException):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _folder_problem(error: BaseException) -> str:
    refusal = _os_error(error)
    assert refusal is not None
    place = f" {refusal.filename}" if refusal.filename else ""
    reason = refusal.strerror or refusal
    return f"the run's folder cannot be written:{place}: {reason}; choose another place with paths.output_root=FOLDER"
