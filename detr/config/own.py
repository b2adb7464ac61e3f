"""Folders of a user's own configs, beside conf/: where they lie, and that no option in them is hidden by another."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from detr.config.compose import CONF, folder, groups
from detr.config.explain import parse_overrides
from detr.config.home import expanded
from detr.config.recorded import own_places
from detr.errors import UserError

HYDRAS = Path(hydra.__file__).parent / "conf"  # Hydra's own configs, which it looks through first
SEARCHPATH = "hydra.searchpath"


def config_dir(typed: str | None) -> str | None:
    """Return what `--config-dir` says; for `sweeps`, outside of a checkout, the folder installed with the package.

    Raises:
        UserError: there is no such folder.
    """
    typed = None if typed is None else expanded(typed)
    if typed is None or Path(typed).is_dir():
        return typed
    if not folder(typed).is_dir():
        raise UserError(f"--config-dir {typed}: no such folder")
    return str(folder(typed))


def own_folders(config_name: str, config_dir: str | None, overrides: Sequence[str]) -> list[Path]:
    """Return the folders that a command names beside conf/, in the order in which Hydra looks through them.

    Args:
        config_name: the primary config, which may have a `hydra.searchpath` of its own.
        config_dir: what `--config-dir` says.
        overrides: of the command line, whose `hydra.searchpath` counts more than the primary config's.

    Raises:
        UserError: there is no such folder, or one of its options would never be found.
    """
    folders = [] if config_dir is None else [Path(config_dir).absolute()]
    typed = [text for text in overrides if text.startswith(f"{SEARCHPATH}=")]
    searched: Any = parse_overrides(typed)[-1].value() if typed else _searchpath(config_name, [CONF, *folders])
    for place in searched if isinstance(searched, list) else []:
        found = [folder for folder in located(str(place)) if folder.is_dir()]
        if not found:
            raise UserError(f"{SEARCHPATH}: {place}: there is no such folder or package")
        folders += found
    _check_hidden(folders)
    return folders


def folders_in(hydra_node: Any) -> list[Path]:
    """Return the folders that a config was looked for in beside conf/; `hydra_node`: Hydra's own node of it."""
    return [folder for place in own_places(hydra_node) for folder in located(place)]


def located(place: str) -> list[Path]:
    """Return the folders of `file://FOLDER`, FOLDER or `pkg://PACKAGE`, which need not be there; else none."""
    scheme, _, rest = place.rpartition("://")
    if scheme in ("", "file"):
        return [Path(expanded(rest)).absolute()]
    try:
        spec = importlib.util.find_spec(rest.replace("/", ".")) if scheme == "pkg" else None
    except ModuleNotFoundError:
        spec = None
    return [Path(each) for each in (spec.submodule_search_locations or [] if spec else [])]


def _searchpath(config_name: str, folders: Sequence[Path]) -> Any:
    """What the primary config's file says, if there is one."""
    for place in folders:
        file = place / f"{config_name.removesuffix('.yaml')}.yaml"
        if file.is_file():
            try:
                found = OmegaConf.select(OmegaConf.load(file), SEARCHPATH)
                return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
            except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException):
                return None  # Hydra says what is wrong with it
    return None


def _check_hidden(folders: Sequence[Path]) -> None:
    """Refuse files that have the name of another one, in the same group, and another content: Hydra takes the first."""
    for own, other in _namesakes(folders):
        if not own.samefile(other) and own.read_bytes() != other.read_bytes():
            kind = f"option of {own.parent.name}" if own.parent not in folders else "config"
            raise UserError(f"{own} has the name of another {kind}, {other}, which hides it; rename it")


def _namesakes(folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files with one name, the second of which Hydra finds first."""
    for shipped in (HYDRAS, CONF) if folders else ():
        for file in shipped.rglob("*.yaml"):
            own = (folder / file.relative_to(shipped) for folder in folders)
            yield from ((each, file) for each in own if each.is_file())
    for index, first in enumerate(folders):
        for later in folders[index + 1 :]:
            names = [f"{group}/{option}" for group, options in groups(first).items() for option in options]
            pairs = ((later / f"{name}.yaml", first / f"{name}.yaml") for name in names)
            yield from ((each, file) for each, file in pairs if each.is_file() and file.is_file())
