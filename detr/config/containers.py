"""Configurations as plain dicts and lists: resolved to build from, unresolved to store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from detr.config.references import Path, children, dotted, has_resolver, leaves, origin, own_keys
from detr.config.suggest import did_you_mean
from detr.errors import UserError


@dataclass(frozen=True)
class Config:
    """Holds a checked config, and how the run was asked for."""

    values: Section  # plain containers, every interpolation replaced by its value
    stored: dict[str, Any]  # the same for checkpoints: interpolations within it stay
    directory: FilePath  # of the run
    choices: dict[str, str] = field(default_factory=dict)  # group → option
    overrides: list[str] = field(default_factory=list)  # of the command line
    aside: list[str] = field(default_factory=list)  # of keys that the config does not have
    folders: list[str] = field(default_factory=list)  # of the user's own configs
    hydra: dict[str, str] = field(default_factory=dict)  # file → content, as Hydra writes them into `.hydra/`
    sweep: dict[str, Any] | None = None  # of a job: the sweep's `name`, and what `differs`


class Section(dict[str, Any]):
    """Remembers under which key the user finds a dict: `backbone`, also where `model` refers to it."""

    path: str = ""

    def __missing__(self, key: str) -> Any:
        """Raise UserError, since only the user can have taken it away, or begun a config without it."""
        raise UserError(f"{self.path}.{key}".lstrip(".") + ": the config lacks this key, which a run needs")

    def changed(self, **values: Any) -> Section:
        """Return the same with other values."""
        section = Section({**self, **values})
        section.path = self.path
        return section


def resolved(config: DictConfig) -> Section:
    """Return the config as plain dicts and lists, every interpolation replaced by its value.

    Raises:
        UserError: a value is missing (`???`), or an interpolation leads nowhere.
    """
    raw = _plain(config, resolve=False)
    missing = [dotted(path) for path, value in leaves(raw) if value == "???"]
    if missing:
        raise UserError(_missing(missing[0]))
    try:
        return _sections(_plain(config, resolve=True), raw)
    except OmegaConfBaseException as error:
        raise UserError(interpolation_problem(error, raw)) from error


def unresolved(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain dicts and lists for a checkpoint: interpolations within it stay, others are resolved.

    So `${dataset.root}/images` follows a new root on another machine, while `${hydra:…}`, `${now:…}` and
    `${oc.env:…}` are what they were in this run.
    """
    raw = _plain(config, resolve=False)
    try:
        return _settle(raw, config)
    except OmegaConfBaseException as error:
        raise UserError(interpolation_problem(error, raw)) from error


def interpolation_problem(error: OmegaConfBaseException, raw: dict[str, Any]) -> str:
    """Say in one line what is wrong with an interpolation that cannot be resolved; `raw`: the unresolved config."""
    key = getattr(error, "full_key", None) or "the config"
    message = (str(error).splitlines() or [type(error).__name__])[0]
    if "Missing mandatory value: " in message:
        return _missing(message.partition("Missing mandatory value: ")[2])
    message = (message.partition("raised while resolving interpolation: ")[2] or message).strip('"')
    hint = ""
    if isinstance(error, InterpolationKeyError) and "'" in message:
        hint = did_you_mean(message.split("'")[1], own_keys(raw))
    return f"{key}: {message}{hint}"


def _missing(key: str) -> str:
    return f"{key}: a value is missing; give it with {key}=…"


def _plain(config: DictConfig, *, resolve: bool) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def _sections(value: Any, raw: dict[str, Any], path: Path = ()) -> Any:
    """The same containers, dicts as sections."""
    if isinstance(value, list):
        return [_sections(item, raw, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    section = Section({key: _sections(item, raw, (*path, key)) for key, item in value.items()})
    section.path = dotted(origin(raw, path))
    return section


def _settle(raw: Any, node: Any) -> Any:
    """`raw` with every call of a resolver replaced by its value in `node`, the same place in the config."""
    settled = {}
    for key, value in children(raw):
        if isinstance(value, dict | list):
            value = _settle(value, node[key])
        elif has_resolver(value):
            value = node[key]
            if isinstance(value, DictConfig | ListConfig):
                value = OmegaConf.to_container(value, resolve=True)
        settled[key] = value
    return settled if isinstance(raw, dict) else list(settled.values())
