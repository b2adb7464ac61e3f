"""What an experiment sets for an option that the command line exchanges for another, which has no place for it."""

from __future__ import annotations

import functools
import logging
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from detr.config.check import UnknownKeyError, check
from detr.config.compose import load, without_hydra
from detr.config.containers import Section
from detr.config.own import folders_in
from detr.config.references import Path
from detr.errors import UserError

log = logging.getLogger(__name__)


def checked(config: DictConfig, hydra: Any) -> tuple[Section, dict[str, Any]]:
    """Check a config and return it as `check` does, without values that an exchanged option has left behind.

    `experiment=d_fine_m` says how long its augmentation lasts, which `augmentation=none` has no key for. A key that
    nothing takes is left out, with a warning, if the experiment without the exchange has it, with this value, and is
    valid: then it is neither misspelt nor typed.

    Args:
        config: composed, without Hydra's own node; what is left out is removed here, too.
        hydra: that node.

    Raises:
        UserError: as `check`.
    """
    before: DictConfig | None = None
    while True:
        try:
            return check(config)
        except UnknownKeyError as error:
            before = before or _before_the_exchange(hydra)
            if before is None or _at(before, error.keys) != _at(config, error.keys):
                raise
            log.warning("%s is left out: the experiment sets it for an option that is exchanged", error.key)
            _remove(config, error.keys)


def _before_the_exchange(hydra: Any) -> DictConfig | None:
    """The same command's config without the options typed beside the experiment; None if it is not valid."""
    groups = {str(group).partition("@")[0] for group in hydra.runtime.choices}
    kept, exchanged = [], set()
    for text in hydra.overrides.task:
        name = text.lstrip("+~").partition("=")[0].partition("@")[0]
        if name in groups and name != "experiment":
            exchanged.add(name.partition("/")[0])
        else:
            kept.append((name.partition(".")[0], text))
    overrides = [text for top, text in kept if top not in exchanged]
    try:
        before = without_hydra(load(hydra.job.config_name, overrides, folders_in(hydra)))
        check(before)
    except (UserError, HydraException, OmegaConfBaseException):
        return None
    return before


def _at(config: DictConfig, keys: Path) -> Any:
    """The value there, with its interpolations."""
    return functools.reduce(lambda node, key: node.get(key, {}), keys, OmegaConf.to_container(config))


def _remove(config: DictConfig, keys: Path) -> None:
    """Remove a value, and what held it if nothing is left there."""
    *above, last = keys
    node = functools.reduce(lambda node, key: node[key], above, config)
    with open_dict(config):
        del node[last]
    if above and not node:
        _remove(config, tuple(above))
