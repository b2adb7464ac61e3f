"""The code of a run's parts that is not detr's: what a record says and keeps of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from detr.config.recorded import noted
from detr.config.references import leaves
from detr.errors import INSTALLED
from detr.files import write_atomically

log = logging.getLogger(__name__)

FILES, BYTES = 200, 2_000_000  # that a record keeps at most
NOBODYS = {"detr", "__main__"} | sys.stdlib_module_names


@dataclass(frozen=True)
class Code:
    """Holds the source of own modules, and names the installed packages that parts come from."""

    packages: dict[str, str] = field(default_factory=dict)  # distribution → version
    places: dict[str, str] = field(default_factory=dict)  # own top-level module → the folder that it lies in
    files: dict[str, bytes] = field(default_factory=dict)  # path, seen from that folder → content
    left_out: int = 0  # files, of more than a record keeps

    @cached_property
    def digests(self) -> dict[str, str]:
        """Return path → SHA-256."""
        return {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}

    @property
    def digest(self) -> str | None:
        """Return one SHA-256 of all files, by name and content; None where there are none."""
        lines = "".join(f"{path} {digest}\n" for path, digest in sorted(self.digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest() if lines else None

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain containers for run.json; None where all parts are detr's."""
        if not (self.packages or self.places):
            return None
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {
            "digest": self.digest,
            "files": self.digests,
            "places": self.places,
            "packages": self.packages,
        } | left_out

    def keep(self, run: Path) -> None:
        """Write the files into RUN/code, as they lie where they are from. Of a run that goes on with other code than it
        began with, the first stays in RUN/code.1, and so on, and a warning says what has changed.
        """
        folder, before = run / "code", noted(run).get("code") or {}
        changes = self.changes(before)
        if before and changes:
            log.warning("own code is not what this run has had so far: %s", _listed(changes))
            if folder.exists():
                folder.rename(next(place for number in count(1) if not (place := run / f"code.{number}").exists()))
        for path, content in self.files.items():
            write_atomically(folder / path, content)
        if self.left_out:
            log.warning("%s has %d of your own files; %d are left out", folder, len(self.files), self.left_out)

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """Return what is not as in a record, in words; `before`: from an earlier `to_dict`."""
        then, versions = before.get("files", {}), before.get("packages", {})
        gone = [f"{path} is gone" for path in then if path not in self.files]
        new = [f"{path} is new" for path in self.files if path not in then]
        changed = [f"{path} has changed" for path, digest in self.digests.items() if then.get(path, digest) != digest]
        packages = [
            f"{name} was {versions[name]}, is {version}"
            for name, version in self.packages.items()
            if versions.get(name, version) != version
        ]
        return [*changed, *gone, *new, *packages]


def code_of(values: Mapping[str, Any], also: Iterable[str] = ()) -> Code:
    """Return the code outside of detr that a checked config's parts are from, and what lies and was imported beside it.

    Args:
        values: whose `_target_` nodes name modules.
        also: further top-level modules, which may not be there any more.
    """
    targets = {str(target).partition(".")[0] for path, target in leaves(values) if path[-1] == "_target_"}
    packages: dict[str, str] = {}
    own: dict[str, list[Path]] = {}
    for name in sorted(targets.union(also) - NOBODYS):
        distribution = _distribution(name)
        if distribution is not None:
            packages[distribution.name] = distribution.version
        elif found := _lies(name):
            own[name] = found
    folders = {path.parent for found in own.values() for path in found if not INSTALLED & {*path.parts}}
    imported = {name for name in list(sys.modules) if "." not in name} - NOBODYS - own.keys()
    beside = {name: found for name in imported if (found := _lies(name)) and found[0].parent in folders}
    own |= {name: found for name, found in beside.items() if _distribution(name) is None}
    files, left_out = _read(path for name in sorted(own) for path in own[name])
    return Code(packages, {name: str(own[name][0].parent) for name in sorted(own)}, files, left_out)


def _lies(name: str) -> list[Path]:
    """Where a top-level module lies: its file, or the folders of a package; empty where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder).absolute() for folder in spec.submodule_search_locations]
    return [Path(spec.origin).absolute()] if spec.has_location and spec.origin else []


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    """The installed package that a module belongs to; None where it lies elsewhere, as editable ones do."""
    found = _lies(name)
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        installed = any(INSTALLED & {*path.parts} for path in found)
        names = importlib.metadata.packages_distributions().get(name) if installed else None  # takes half a second
        if not names:
            return None
        distribution = importlib.metadata.distribution(names[0])
    root = Path(str(distribution.locate_file("")))
    whole = distribution.read_text("RECORD") is not None or bool(INSTALLED & {*root.parts})  # no `setup.py develop`
    return distribution if whole and found and all(path.is_relative_to(root) for path in found) else None


def _read(tops: Iterable[Path]) -> tuple[dict[str, bytes], int]:
    """Path → content of modules' files, and how many are too many; those that were imported come first."""
    imported = {getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())}
    found = [(str(path.relative_to(top.parent)), path) for top in tops for path in _sources(top)]
    found.sort(key=lambda each: (str(each[1]) not in imported, each[0]))
    files: dict[str, bytes] = {}
    left_out = size = 0
    for name, path in found:
        try:
            content = path.read_bytes() if len(files) < FILES and size + path.stat().st_size <= BYTES else None
        except OSError:
            content = None
        if content is None:
            left_out += 1
        else:
            files.setdefault(name, content)
            size += len(content)
    return files, left_out


def _sources(top: Path) -> Iterator[Path]:
    """A module's file, or the Python files of a package."""
    if not top.is_dir():
        yield top
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _listed(changes: list[str], shown: int = 5) -> str:
    more = f" and {len(changes) - shown} more" if len(changes) > shown else ""
    return ", ".join(changes[:shown]) + more
