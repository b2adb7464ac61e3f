"""A stored config with the command line's overrides on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from detr.config.compose import compose, groups
from detr.config.explain import check_choice, check_key, in_one_line, parse_overrides
from detr.errors import UserError


def override(stored: dict[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Apply overrides to a config that was stored with `unresolved`.

    `key=value`, `+key=value` and `~key` do what they do on train.py's command line. A group's choice
    (`dataset=custom`) puts the option as it is in conf/ in the place of the stored node, and `experiment=…`
    composes everything anew; values win over choices, in whatever order they are given.

    Raises:
        UserError: an override that cannot be read, or names a key, group or option that does not exist.
    """
    parsed = parse_overrides(overrides)
    all_groups = groups()
    for each in parsed:
        if each.is_sweep_override():
            raise UserError(f"{each.input_line}: give one value; a list is written key=[a,b]")
    choices = [each for each in parsed if each.key_or_group in all_groups and not each.is_delete()]
    for each in choices:
        check_choice(each, all_groups)
    config = OmegaConf.create(_with_choices(stored, choices))
    OmegaConf.set_struct(config, True)
    for each in parsed:
        if each not in choices:
            _apply(each, config, all_groups)
    return config


def _with_choices(stored: dict[str, Any], choices: list[Override]) -> dict[str, Any]:
    """The stored config with the nodes of chosen options in their places."""
    if not choices:
        return stored
    texts = {each.key_or_group: f"{each.key_or_group}={_name(each.value())}" for each in choices}
    try:
        if "experiment" in texts:
            return _plain(compose(list(texts.values())))
        # An option may bring nested groups, which other choices then change instead of adding them.
        tops = {group for group in texts if not any(group.startswith(f"{other}/") for other in texts)}
        fresh = _plain(compose([f"+{text}" if group in tops else text for group, text in texts.items()], None))
    except HydraException as error:
        raise UserError(in_one_line(error)) from error
    config = dict(stored)
    for group in tops:
        config = _replaced(config, group.split("/"), fresh)
    return config


def _replaced(stored: dict[str, Any], path: list[str], fresh: dict[str, Any]) -> dict[str, Any]:
    """A copy of `stored` whose node at `path` is that of `fresh`."""
    name, rest = path[0], path[1:]
    inner = stored.get(name)
    value = _replaced(inner if isinstance(inner, dict) else {}, rest, fresh[name]) if rest else fresh[name]
    return {**stored, name: value}


def _apply(each: Override, config: DictConfig, all_groups: dict[str, list[str]]) -> None:
    """One `key=value` in place."""
    check_key(each, _plain(config), all_groups)
    try:
        ConfigLoaderImpl._apply_overrides_to_config([each], config)
    except HydraException as error:
        raise UserError(f"{each.input_line}: {in_one_line(error)}") from error


def _name(value: Any) -> str:
    """A choice as it was typed: one option, or several in a list."""
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def _plain(config: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container
