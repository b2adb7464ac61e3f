"""Folders of images, for formats whose files name none: which files are images, and what belongs to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from detr.data.annotations import warn_each
from detr.data.dataset import Split
from detr.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}  # what the field calls the folder of a split


def images_in(folder: Path) -> list[Path]:
    """Return the image files in a folder and those inside it, in the order of their names."""
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def has_images(folder: Path) -> bool:
    """Return whether there is an image in a folder or inside it."""
    if not folder.is_dir():
        return False
    walk = os.walk(folder, followlinks=True)
    return any(name.lower().endswith(SUFFIXES) for _, _, names in walk for name in names)


def read_lines(path: Path, what: str) -> list[str]:
    """Return the lines of a text file without blanks around them; `what` it is, for messages.

    Raises:
        UserError: it is missing, or no text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a {what} in UTF-8, got other bytes ({error.reason})") from None


def paths(value: str | Sequence[str]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(value)] if isinstance(value, str) else [Path(each) for each in value]


def warn_strays(files: Iterable[Path], suffix: str, known: set[Path], owner: str) -> None:
    """Warn of annotation files beside `files` that belong to no image: what they say is lost.

    Args:
        files: those that do belong to an image.
        suffix: of annotation files.
        known: files that are something else, or belong to an image.
        owner: what an annotation file should belong to, in messages.
    """
    folders = sorted({file.parent for file in files})
    strays = [path for folder in folders for path in sorted(folder.glob(f"*{suffix}")) if path not in known]
    warn_each([f"{path}: there is no {owner} for it; it is left out" for path in strays], "files without one")
