"""`~` at the start of a path. A shell expands it behind a blank, but not in `key=~/data`, and nobody does in YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import omegaconf
from omegaconf import DictConfig, OmegaConf, open_dict

from detr.config.references import leaves
from detr.texts import in_hydra

TEXTS = ("name", "logger")  # keys whose values are no paths
START = re.compile(r"~[\w.-]*/")
TYPED = re.compile(
    r"""(?P<quote>['"])(?P<quoted>.*?)(?P=quote)"""  # before all else: what is in quotes is one value
    r"""|(?<![^\s,:\[(])(?P<bare>~(?:[\w.-]*/[^,\[\]{}()'"\s]*|(?=[\s,\]}]|$)))"""
)


def typed_at_home(override: str) -> str:
    """Return an override as typed with `~` at the start of its paths expanded: of one value, a list's or a sweep's."""
    key, equals, value = override.partition("=")
    return f"{key}={TYPED.sub(_expanded, value)}" if equals and not _is_text(key.lstrip("+~")) else override


def expand_home(config: DictConfig) -> None:
    """Expand `~` at the start of the paths in a config, in place."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    for path, value in leaves(raw):
        if isinstance(value, str) and START.match(value) and not _is_text(str(path[0])):
            node: Any = config
            for key in path[:-1]:
                node = node[key]
            with open_dict(config):
                node[path[-1]] = expanded(value)


def expanded(path: str) -> str:
    """Return a path with `~` or `~USER` at its start replaced by the home folder; as it is where there is none."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # nobody of this name
        return path


def _is_text(key: str) -> bool:
    return key.partition(".")[0] in TEXTS


def _expanded(found: re.Match[str]) -> str:
    quote = found["quote"]
    before = found["quoted"] if quote else found["bare"]
    user, slash, rest = before.partition("/")
    home = expanded(user) if before == "~" or START.match(before) else user
    if home == user:
        return found[0]
    if quote:  # the rest is in quotes as it stands
        return quote + home.replace(quote, f"\\{quote}") + slash + rest + quote
    return in_hydra(home + slash + rest, interpolated=True)


# OmegaConf 2.4 has a new function under the name of one that 2.3 warns of, and warns of the one that 2.3 has.
V2_3 = omegaconf.__version__.startswith("2.3")
register_resolver: Any = OmegaConf.register_new_resolver if V2_3 else OmegaConf.register_resolver

# For configs, as `${home:PATH}`: Hydra reads the folders of runs before `expand_home` is called.
register_resolver("home", expanded, replace=True)
