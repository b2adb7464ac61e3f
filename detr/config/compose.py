"""Composing configurations from conf/ without a run, as many times and wherever they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from detr.config.containers import unresolved
from detr.texts import in_hydra

# Hydra 1.3 behaves as older versions did unless it is told not to; 1.4 warns of being told.
V1_3 = hydra.__version__.startswith("1.3")
BEHAVIOUR: dict[str, Any] = {"version_base": None} if V1_3 else {}

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()  # from a wheel, where the folders of configs are in the package


def folder(name: str) -> Path:
    """Return where `conf` or `sweeps` lies: beside the package, or in it where it was installed from a wheel."""
    return (PACKAGE if INSTALLED else PACKAGE.parent) / name


CONF = folder("conf")

NUMBERS = re.compile(r"(?<![^\s,(])(?:nan|inf)(?![^\s,)])", re.IGNORECASE)  # that could be names of options

# By other options, and what says that nothing is chosen.
LOOKED_UP = {"mask_head": "_none_", "_features": "none", "_trainable": "none"}


def compose(
    overrides: Sequence[str] = (), config_name: str | None = "train", folders: Sequence[Path | str] = ()
) -> DictConfig:
    """Compose a primary config with overrides, as a run would get it.

    Unlike `hydra.compose` it may be called inside of a run, and `${hydra:…}` is filled in. Without a
    `config_name` there is nothing but what the overrides add (`+backbone=resnet50`). `folders`: as in `load`.

    Raises:
        hydra.errors.HydraException: what Hydra cannot compose; `detr.config.explain` puts it into one line.
    """
    return without_hydra(load(config_name, overrides, folders))


def load(config_name: str | None, overrides: Sequence[str], folders: Sequence[Path | str] = ()) -> DictConfig:
    """Compose a config with Hydra's own node.

    Args:
        config_name: the primary config; None: nothing but the choices among the overrides (`+backbone=resnet50`).
        overrides: as on the command line.
        folders: further folders of configs (`--config-dir`, `hydra.searchpath`).
    """
    if config_name is None:
        config_name = _alone([each[1:] for each in overrides if each.startswith("+")])
        overrides = [each for each in overrides if not each.startswith("+")]
    overrides = [as_choice(each) for each in overrides]
    places = [CONF, *(Path(each).absolute() for each in folders)]
    primary = f"{(config_name or '').removesuffix('.yaml')}.yaml"
    places.sort(key=lambda place: not (place / primary).is_file())  # it is looked for in the first one only
    searched = in_hydra([f"file://{place}" for place in places[1:]], interpolated=True)
    further = [f"hydra.searchpath={searched}"] if folders else []
    with _hydra(str(places[0])):
        return hydra.compose(config_name, [*overrides, *further], return_hydra_config=True)


def as_choice(override: str) -> str:
    """Return an override as typed, with an option in quotes that Hydra would take for a number: `debug=nan`."""
    key, equals, value = override.partition("=")
    group = CONF / key.lstrip("+").partition("@")[0]

    def quoted(found: re.Match[str]) -> str:
        return f"'{found[0]}'" if (group / f"{found[0]}.yaml").is_file() else found[0]

    return f"{key}={NUMBERS.sub(quoted, value)}" if equals and group.is_dir() else override


def without_hydra(loaded: DictConfig) -> DictConfig:
    """Return the config of a run, `${hydra:…}` filled in; `loaded` has Hydra's own node besides."""
    with hydra_config(loaded):
        plain = unresolved(OmegaConf.masked_copy(loaded, [str(key) for key in loaded if key != "hydra"]))
    config = OmegaConf.create(plain)
    OmegaConf.set_struct(config, True)
    return config


def groups(*folders: Path | str) -> dict[str, list[str]]:
    """Return every group in conf/ and in further folders of configs, as `transformer/encoder`, with its options.

    Folders that begin with an underscore are for other configs, not to choose from.
    """
    found: dict[str, set[str]] = {}
    for parent in (CONF, *map(Path, folders)):
        for file in parent.rglob("*.yaml"):
            group = file.parent.relative_to(parent).as_posix()
            if file.parent != parent and offered(group):
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def offered(group: str) -> bool:
    """Return whether a group is there for users to choose from."""
    return not any(name.startswith("_") for name in group.split("/"))


def hydra_groups(parent: str = "hydra") -> dict[str, list[str]]:
    """Return Hydra's own groups, which plugins add to: `hydra/launcher`, `hydra/sweeper`, ….

    Asking Hydra takes half a second, for it copies all that it knows for every group.
    """
    found: dict[str, list[str]] = {}
    with _hydra(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        for name in loader.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}"
            found[group] = loader.get_group_options(group, ObjectType.CONFIG)
    for group in list(found):
        found |= hydra_groups(group)
    return {group: options for group, options in found.items() if options}


def _alone(choices: Sequence[str]) -> str:
    """Keep a primary config of a few choices, and return its name.

    Behind them stands, as in train.yaml, what options look up (`${mask_head}`), with a choice that there is not.
    """
    chosen = dict(OmegaConf.from_dotlist(list(choices)))
    looked_up = [
        {group: chosen.pop(group)} if group in chosen else {f"optional {group}": nothing}
        for group, nothing in LOOKED_UP.items()
    ]
    defaults = [*({group: option} for group, option in chosen.items()), *looked_up, "_self_"]
    replacing: dict[str, Any] = {} if V1_3 else {"replace": True}
    ConfigStore.instance().store("_alone", {"defaults": defaults}, **replacing)
    return "_alone"


@contextmanager
def hydra_config(loaded: DictConfig) -> Iterator[None]:
    """Let `${hydra:…}` see this config instead of the running job's."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(loaded)
    try:
        yield
    finally:
        instance.cfg = before


@contextmanager
def _hydra(directory: str) -> Iterator[None]:
    """Set up Hydra's compose API, whether a run is under way or not."""
    current = GlobalHydra.instance()
    running = current.hydra
    current.clear()
    try:
        with hydra.initialize_config_dir(str(Path(directory).absolute()), job_name="train", **BEHAVIOUR):
            yield
    finally:
        current.clear()
        if running is not None:
            current.initialize(running)
