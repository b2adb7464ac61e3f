"""What an experiment sets for an option that has been exchanged for another, which has no place for it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, open_dict

from detr.config.check import UnknownKeyError, check
from detr.config.references import Path as Keys
from detr.config.references import leaves
from detr.errors import UserError

log = logging.getLogger(__name__)

GLOBAL = "# @package _global_"  # the first line of options that set values of other groups


def fitted(config: DictConfig, hydra: Any) -> DictConfig:
    """Return the config without values that belong to an exchanged option; a line of the log names each.

    `experiment=d_fine_m` says how long its augmentation lasts, which `augmentation=none` has no key for. Values that
    the new option does have a key for stay, as do those that were typed. Other mistakes are left to `check`.

    Args:
        config: composed, without Hydra's own node.
        hydra: that node.
    """
    left_over = values_of_exchanged(hydra)
    while left_over:
        try:
            check(config)
            break
        except UnknownKeyError as error:
            if error.keys not in left_over:
                break
            log.info("%s is left out: %s sets it for an option that is not used", error.key, left_over[error.keys])
            _remove(config, error.keys, left_over)
        except UserError:
            break
    return config


def values_of_exchanged(hydra: Any) -> dict[Keys, str]:
    """Return the keys that options set inside of groups exchanged later, with who sets them: `experiment=d_fine_m`.

    Exchanged means: by the command line, or by an option that builds on the one that sets the key.
    """
    places = [Path(each.path) for each in hydra.runtime.config_sources if each.schema == "file"]
    choices = {str(group).partition("@")[0]: option for group, option in hydra.runtime.choices.items()}
    typed = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in hydra.overrides.task]
    exchanged = {tuple(name.split("/")) for name in typed if name in choices}
    found: dict[Keys, str] = {}
    for group, option in choices.items():
        _collect(places, group, str(option), exchanged, found)
    own = [tuple(name.split(".")) for name in typed if name not in choices]
    return {
        keys: source
        for keys, source in found.items()
        if not any(keys[: len(each)] == each or each[: len(keys)] == keys for each in own)
    }


def _collect(
    places: Sequence[Path], group: str, option: str, exchanged: set[tuple[str, ...]], found: dict[Keys, str]
) -> None:
    """Add what an option sets inside of exchanged groups, and what those set that it builds on."""
    file = next((each for place in places if (each := place / group / f"{option}.yaml").is_file()), None)
    text = "" if file is None else file.read_text(encoding="utf-8")
    if not text.startswith(GLOBAL):
        return
    content = yaml.safe_load(text) or {}
    defaults = content.pop("defaults", [])
    for keys, _ in leaves(content):
        for length in range(1, len(keys) + 1):
            if any(keys[: min(length, len(each))] == each for each in exchanged):
                found[keys[:length]] = f"{group}={option}"
    others = {tuple(name.removeprefix("override ").lstrip("/").split("/")) for name in _names(defaults)}
    for entry in defaults:
        if isinstance(entry, str) and entry != "_self_":
            _collect(places, group, entry, exchanged | others, found)


def _names(defaults: Sequence[Any]) -> list[str]:
    """Groups of which an option of a defaults list takes another one."""
    return [str(name) for entry in defaults if isinstance(entry, dict) for name in entry]


def _remove(config: DictConfig, keys: Keys, left_over: dict[Keys, str]) -> None:
    """Remove a value, and what held it if nothing is left there."""
    *above, last = keys
    node = functools.reduce(lambda node, key: node[key], above, config)
    with open_dict(config):
        del node[last]
    if not node and tuple(above) in left_over:
        _remove(config, tuple(above), left_over)
