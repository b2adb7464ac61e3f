"""Composing configurations from conf/ without a run, as many times and wherever they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from detr.config.containers import unresolved

CONF = Path(__file__).resolve().parents[2] / "conf"
VERSION_BASE = "1.3"


def compose(overrides: Sequence[str] = (), config_name: str | None = "train") -> DictConfig:
    """A primary config with overrides applied, as a run would get it.

    Unlike `hydra.compose` it may be called inside of a run, and `${hydra:…}` is filled in. Without a
    `config_name` there is nothing but what the overrides add (`+backbone=resnet50`).

    Raises:
        hydra.errors.HydraException: what Hydra cannot compose; `detr.config.explain` puts it into one line.
    """
    return without_hydra(load(config_loader(), config_name, overrides))


def without_hydra(loaded: DictConfig) -> DictConfig:
    """The config of a run, `${hydra:…}` filled in; `loaded` has Hydra's own node besides."""
    with hydra_config(loaded):
        plain = unresolved(OmegaConf.masked_copy(loaded, [str(key) for key in loaded if key != "hydra"]))
    config = OmegaConf.create(plain)
    OmegaConf.set_struct(config, True)
    return config


def config_loader(directory: str | None = None) -> ConfigLoaderImpl:
    """Hydra's view of conf/ and, before it, of a further folder of configs (`--config-dir`)."""
    version.setbase(VERSION_BASE)
    setup_globals()
    search_path = create_config_search_path(str(CONF))
    if directory is not None:
        search_path.prepend(
            "command-line", f"file://{os.path.abspath(directory)}", anchor=SearchPathQuery(provider="schema")
        )
    return ConfigLoaderImpl(config_search_path=search_path)


def load(loader: ConfigLoaderImpl, config_name: str | None, overrides: Sequence[str]) -> DictConfig:
    """The composed config, Hydra's own node included."""
    # Hydra asks the running job for its name unless the name is given.
    job = [] if any(override.startswith("hydra.job.name=") for override in overrides) else ["hydra.job.name=train"]
    return loader.load_configuration(config_name, [*overrides, *job], run_mode=RunMode.RUN)


def groups(*directories: Path | str) -> dict[str, list[str]]:
    """Every group in conf/ and in further folders of configs, as `transformer/encoder`, with its options."""
    found: dict[str, set[str]] = {}
    for folder in (CONF, *map(Path, directories)):
        for file in folder.rglob("*.yaml"):
            if file.parent != folder:
                found.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def hydra_groups(loader: ConfigLoaderImpl, parent: str = "hydra") -> dict[str, list[str]]:
    """Hydra's own groups, which plugins add to: `hydra/launcher`, `hydra/sweeper`, ….

    Asking Hydra takes half a second, for it copies all that it knows for every group.
    """
    found = {}
    for name in loader.list_groups(parent):
        group = f"{parent}/{name}"
        options = loader.get_group_options(group, ObjectType.CONFIG)
        if options:
            found[group] = options
        found |= hydra_groups(loader, group)
    return found


@contextmanager
def hydra_config(loaded: DictConfig) -> Iterator[None]:
    """What `${hydra:…}` sees is this config instead of the running job's."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(loaded)
    try:
        yield
    finally:
        instance.cfg = before
