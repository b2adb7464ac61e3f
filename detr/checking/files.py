"""Image files that are not there, or that nobody lists."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detr.checking.finding import MAX_PLACES, Finding, Kind, Place
from detr.checking.records import Records

MISSING = Kind(
    "missing-image",
    "error",
    "images that are not there",
    "correct file_name or dataset.*.images; fix=true takes what the folder has",
)
UNLISTED = Kind("unlisted-images", "hint", "images in the folders that no split lists", "add them, or move them away")


def missing_files(records: Records) -> NDArray[np.bool_]:
    """Return [I] which images are not there. Lists each folder once."""
    by_folder: dict[str, list[int]] = {}
    for index, file in enumerate(records.files.tolist()):
        by_folder.setdefault(os.path.dirname(file), []).append(index)
    missing = np.zeros(len(records), dtype=np.bool_)
    for folder, indices in by_folder.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing[indices] = [os.path.basename(str(records.files[index])) not in present for index in indices]
    return missing


def missing_findings(records: Records, missing: NDArray[np.bool_], folders: Sequence[str]) -> Iterator[Finding]:
    """Yield the images that are not there, each with what the folder has instead."""
    indices = np.flatnonzero(missing)
    if len(indices):
        near = NearMatches(folders)
        details = [near.words(str(records.files[index])) for index in indices[:MAX_PLACES].tolist()]
        order = sorted(range(len(details)), key=lambda number: not details[number])  # those with a match first
        places = [records.image(int(indices[number]), details[number]) for number in order]
        yield from MISSING.found(records.split, places, count=len(indices))


def unlisted_findings(splits: Sequence[Records]) -> Iterator[Finding]:
    """Yield the images that lie beside listed ones, but are in no split themselves."""
    listed = {file for records in splits for file in records.files.tolist()}
    folders = {os.path.dirname(file) for file in listed}
    known = Image.registered_extensions()
    strays = [
        path
        for folder in sorted(folders)
        for name in (sorted(os.listdir(folder)) if os.path.isdir(folder) else ())
        if (path := os.path.join(folder, name)) not in listed and Path(name).suffix.lower() in known
    ]
    yield from UNLISTED.found("all", [Place(path) for path in strays[:MAX_PLACES]], count=len(strays))


class NearMatches:
    """Finds what a folder has instead of a file that it lacks.

    Args:
        folders: of images; they are listed, with all below them, when first asked.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._names: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        for folder in folders:
            for place, _, names in os.walk(folder):
                for name in names:
                    path = os.path.join(place, name)
                    self._names.setdefault(_plain(name), path)
                    self._stems.setdefault(os.path.splitext(_plain(name))[0], path)

    def find(self, file: str) -> str | None:
        """Return the path of what is there instead."""
        name = _plain(file.replace("\\", "/").rsplit("/", 1)[-1])
        return self._names.get(name) or self._stems.get(os.path.splitext(name)[0])

    def words(self, file: str) -> str:
        """Return what is there instead, and in what it differs; nothing where nothing is near."""
        found = self.find(file)
        if found is None:
            return ""
        asked, there = os.path.basename(file), os.path.basename(found)
        unquoted = unquote(asked)
        if "\\" in asked:
            reason = "backslashes in the path"
        elif asked == there:
            doubled = os.path.basename(os.path.dirname(file)) == os.path.basename(
                os.path.dirname(os.path.dirname(file))
            )
            reason = "the folder is named twice" if doubled else "in another folder"
        elif unquoted == there or unquote(there) == asked:
            reason = "percent-encoding"
        elif unicodedata.normalize("NFC", asked) == unicodedata.normalize("NFC", there):
            reason = "another Unicode normal form"
        elif asked.casefold() == there.casefold():
            reason = "upper and lower case"
        else:
            reason = "nearly the same name"
        return f"but {found} is ({reason})"


def _plain(name: str) -> str:
    """A name without what systems and tools change on the way."""
    return unicodedata.normalize("NFC", unquote(name)).casefold().strip()
