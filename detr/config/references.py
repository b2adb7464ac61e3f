"""Configurations as plain nested dicts and lists with their interpolations unresolved: what refers to what.

A path is a tuple of keys, because keys may themselves have dots (patterns of parameter names do).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

_REFERENCE = re.compile(r"\$\{([^:{}$]+)\}")  # ${dataset.root}, not ${now:%Y}
_RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")


def origin(tree: Any, path: Path) -> Path:
    """Return where the value at `path` really is: references on the way are followed to their end."""
    for _ in range(100):  # a cycle is OmegaConf's to report
        step = _follow(tree, path)
        if step is None:
            return path
        path = step
    return path


def references(tree: Any) -> set[Path]:
    """Return the paths of everything that some value refers to."""
    found = set()
    for path, value in leaves(tree):
        if isinstance(value, str):
            found |= {_absolute(match, path) for match in _REFERENCE.findall(value)}
    return found


def reached(tree: Any, start: Path) -> list[Path]:
    """Return the paths of all that the node at `start` is made of: itself, and what it refers to, one after another."""
    found = [start]
    for path in found:
        inside = ((each, value) for each, value in leaves(tree) if each[: len(path)] == path)
        for each, value in inside:
            for match in _REFERENCE.findall(value) if isinstance(value, str) else ():
                if (reference := origin(tree, _absolute(match, each))) not in found:
                    found.append(reference)
    return found


def is_reference(value: Any) -> bool:
    """Return whether the value is one reference and nothing else: `${transformer.d_model}`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value.strip()) is not None


def has_resolver(value: Any) -> bool:
    """Return whether the value calls a resolver, as `${hydra:…}`, `${now:…}` and `${oc.env:…}` do."""
    return isinstance(value, str) and _RESOLVER.search(value) is not None


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of everything that is not a container."""
    if isinstance(tree, dict | list):
        for key, value in children(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def children(tree: dict[str, Any] | list[Any]) -> list[tuple[Any, Any]]:
    """Return keys and values of a dict, indices and items of a list."""
    return list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))


def contains(tree: Any, path: Path) -> bool:
    """Return whether there is something at `path`, without following references. Digits in the path index lists."""
    for key in path:
        if isinstance(tree, list) and str(key).isdigit() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict) and key in tree:
            tree = tree[key]
        else:
            return False
    return True


def own_keys(tree: Any) -> list[str]:
    """Return dotted keys that a user may want to change: all nodes and leaves but those that only refer to others."""
    keys = []
    for path, value in leaves(tree):
        names = tuple(name for name in path if isinstance(name, str))
        keys += [dotted(names[:depth]) for depth in range(1, len(names))]
        if not is_reference(value) and not str(names[-1]).startswith("_"):
            keys.append(dotted(names))
    return sorted(set(keys))


def dotted(path: Path) -> str:
    """Return the path as it is written on the command line."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _follow(tree: Any, path: Path) -> Path | None:
    """The path after the first reference on the way is followed; None if there is none."""
    for depth, key in enumerate(path):
        if isinstance(tree, list):
            tree = tree[int(key)] if int(key) < len(tree) else None
        elif isinstance(tree, dict):
            tree = tree.get(key)
        else:
            return None
        match = _REFERENCE.fullmatch(tree.strip()) if isinstance(tree, str) else None
        if match:
            return (*_absolute(match[1], path[: depth + 1]), *path[depth + 1 :])
    return None


def _absolute(reference: str, path: Path) -> Path:
    """`..d_model` seen from `path`, or `transformer.d_model` from anywhere."""
    name = reference.strip().lstrip(".")
    ups = len(reference.strip()) - len(name)
    keys = tuple(name.replace("[", ".").replace("]", "").split("."))
    return (*path[: len(path) - ups], *keys) if ups else keys
