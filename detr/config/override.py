"""A stored config with the command line's overrides on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from detr.config.compose import compose, groups
from detr.config.explain import check_choice, check_key, in_one_line, parse_overrides
from detr.errors import UserError

WHOLE = ("experiment", "detector")  # groups whose options choose those of others


def override(stored: dict[str, Any], overrides: Sequence[str], folders: Sequence[Path | str] = ()) -> DictConfig:
    """Apply overrides to a config that was stored with `unresolved`, and return the result.

    `key=value`, `+key=value` and `~key` do what they do on train.py's command line. A group's choice
    (`dataset=custom`) puts the option as it is in conf/ in the place of the stored node; `experiment=…` and, alone,
    `detector=…` compose everything anew; values win over choices, in whatever order they are given.

    Args:
        folders: of configs, beside conf/; those that are gone are named where an option is not found.

    Raises:
        UserError: an override that cannot be read, or names a key, group or option that does not exist.
    """
    parsed = parse_overrides(overrides)
    there = [Path(folder) for folder in folders if Path(folder).is_dir()]
    all_groups = groups(*there)
    for each in parsed:
        if each.is_sweep_override():
            raise UserError(f"{each.input_line}: give one value; a list is written key=[a,b]")
    choices = [each for each in parsed if each.key_or_group in all_groups and not each.is_delete()]
    for each in choices:
        try:
            check_choice(each, all_groups)
        except UserError as error:
            gone = [str(folder) for folder in folders if not Path(folder).is_dir()]
            hint = f"; own options lay in {' and '.join(gone)}, which is gone: give their folder with --config-dir"
            raise UserError(f"{error}{hint if gone else ''}") from None
    config = _with_choices(stored, choices, there)
    OmegaConf.set_struct(config, True)
    for each in parsed:
        if each not in choices:
            check_key(each, _plain(config), all_groups)
            _apply(each, config)
    return config


def _with_choices(stored: dict[str, Any], choices: list[Override], folders: Sequence[Path]) -> DictConfig:
    """The stored config with the nodes of chosen options in their places, and whatever else these options set."""
    config = OmegaConf.create(stored)
    if not choices:
        return config
    texts = {each.key_or_group: f"{each.key_or_group}={_name(each.value())}" for each in choices}
    try:
        if not texts.keys().isdisjoint(WHOLE):
            return compose([*texts.values(), *([] if "experiment" in texts else ["~experiment"])], folders=folders)
        # An option may bring nested groups, which other choices then change instead of adding them.
        tops = {group for group in texts if not any(group.startswith(f"{other}/") for other in texts)}
        fresh = compose([f"+{text}" if group in tops else text for group, text in texts.items()], None, folders)
    except HydraException as error:
        raise UserError(in_one_line(error)) from error
    for group in tops:
        _delete(config, group.replace("/", "."))
    merged = OmegaConf.merge(config, _plain(fresh))
    assert isinstance(merged, DictConfig)
    return merged


def _apply(each: Override, config: DictConfig) -> None:
    """One `key=value` in place; a mapping is merged with what is there."""
    key = each.key_or_group
    try:
        with open_dict(config):
            if each.is_delete():
                _delete(config, key)
            else:
                OmegaConf.update(config, key, each.value(), merge=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{each.input_line}: {in_one_line(error)}") from error


def _delete(config: DictConfig, key: str) -> None:
    """Take away a key, if it is there."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if isinstance(node, DictConfig):
        node.pop(name, None)


def _name(value: Any) -> str:
    """A choice as it was typed: one option, or several in a list."""
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def _plain(config: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config, resolve=False)
    return container
