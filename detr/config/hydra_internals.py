"""What Hydra keeps to itself and the entry points cannot do without. Nothing else reaches into Hydra; 1.3 and 1.4 fit.

`hydra.main` has no way to be given a command line, to hand on its errors, or to say where a flag is wrong, and a
sweeper has to be in a package of its own that is called `hydra_plugins`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from detr.config.compose import BEHAVIOUR, CONF
from detr.config.suggest import did_you_mean
from detr.errors import UserError

NAMESPACE = "hydra_plugins.detr"  # where Hydra is told that our plugins are; conf/hydra/sweeper names it, too


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read Hydra's command line: `overrides`, `config_name`, `config_dir`, `multirun`, …; flags stand anywhere.

    Raises:
        UserError: a flag that does not exist, or lacks its value.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        found, unknown = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"{unknown[0]}: there is no such flag{did_you_mean(unknown[0], flags)}")
    return found


def run(task: Callable[[DictConfig], None], arguments: argparse.Namespace, config_name: str) -> None:
    """Have Hydra do what the command line asks for, over conf/. What goes wrong is raised, not printed.

    Args:
        task: called with each composed config; its file names the run's folder and log.
        arguments: from `parse_arguments`.
        config_name: the primary config, unless the command line names one.
    """
    hydra.main(**BEHAVIOUR)  # sets how Hydra behaves
    with _raising():
        _run_hydra(
            args=arguments,
            args_parser=get_args_parser(),
            task_function=task,
            config_path=str(CONF),
            config_name=config_name,
        )


def register_sweeper(sweeper: type[Sweeper], **defaults: Any) -> None:
    """Make a sweeper known under `_target_: hydra_plugins.detr.NAME`; with defaults, in the place of Hydra's own."""
    name = f"{NAMESPACE}.{sweeper.__name__}"
    plugins = Plugins.instance()
    plugins.register(sweeper)
    plugins.class_name_to_class[name] = sweeper
    if defaults:
        store = ConfigStore.instance()
        store.store(group="hydra/sweeper", name="basic", node={"_target_": name, **defaults}, provider="detr")


@contextmanager
def _raising() -> Iterator[None]:
    """Hydra prints an error and exits, unless this variable is set."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
