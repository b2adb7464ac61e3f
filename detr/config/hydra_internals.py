"""What Hydra keeps to itself and the entry points cannot do without. Nothing else reaches into Hydra; 1.3 and 1.4 fit.

`hydra.main` has no way to be given a command line, to hand on its errors, or to say where a flag is wrong, and no way
to replace the sweeper that it takes by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

from detr.config.compose import BEHAVIOUR, CONF, V1_3
from detr.config.suggest import did_you_mean
from detr.errors import UserError


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
    with _raising(), _mode_unset() if _plain(arguments) else contextlib.nullcontext():
        _run_hydra(
            args=arguments,
            args_parser=get_args_parser(),
            task_function=task,
            config_path=str(CONF),
            config_name=config_name,
        )


def register_sweeper(sweeper: type[Sweeper]) -> None:
    """Let Hydra take a sweeper by its own name as `_target_`. Hydra 1.3 takes plugins of `hydra_plugins` only."""
    plugins = Plugins.instance()
    plugins.register(sweeper)
    if V1_3:
        own, known = f"{sweeper.__module__}.{sweeper.__name__}", plugins.is_in_toplevel_plugins_module
        plugins.is_in_toplevel_plugins_module = lambda clazz: clazz == own or known(clazz)  # type: ignore[method-assign]


def replace_basic_sweeper(sweeper: type[Sweeper], **defaults: Any) -> None:
    """Replace Hydra's own sweeper, which `--multirun` takes unless told otherwise."""
    node = {"_target_": f"{sweeper.__module__}.{sweeper.__name__}", **defaults}
    replacing: dict[str, Any] = {} if V1_3 else {"replace": True}
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=node, provider="detr", **replacing)


def _plain(arguments: argparse.Namespace) -> bool:
    """Whether nothing can set `hydra.mode`: neither the command line nor a config."""
    of_hydra = [each for each in arguments.overrides if re.match(r"[+~]*hydra\b(?!\.run\.dir=)", each)]
    elsewhere = arguments.config_name or arguments.config_dir or arguments.config_path
    if arguments.multirun or elsewhere or of_hydra:
        return False
    return not any(b"MULTIRUN" in file.read_bytes() for file in CONF.rglob("*.yaml"))


@contextmanager
def _mode_unset() -> Iterator[None]:
    """Hydra composes everything twice, the first time only to look whether the config sets `hydra.mode`."""
    before = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


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
