"""The folder that a data set is written to: all of it or nothing, with images that are linked, never encoded anew."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from detr.errors import UserError


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make a folder of what `write` puts into the one it is given; all of it or nothing.

    Raises:
        UserError: `target` is there and not empty, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: not empty; choose another output, or remove it")
    temporary = target.absolute().parent / f".{target.absolute().name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        os.rename(temporary, target.absolute())  # onto nothing or an empty folder, else it fails
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put(path: Path, text: str) -> None:
    """Write a text file. It need not be atomic, as the folder is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def place_image(source: Path, target: Path) -> None:
    """Put the same file at `target`, as a hard link where the file system has them, else as a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    try:
        os.link(real, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(real, target)


def distinct_names(files: Iterable[str]) -> dict[str, str]:
    """Return file → the name it gets in one folder, where the name without suffix tells an image from others."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for file in dict.fromkeys(files):
        path = Path(file)
        stem, number = path.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{path.stem}_{number}"
        taken.add(stem.lower())
        names[file] = f"{stem}{path.suffix}"
    return names
