"""Writing files so that a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from detr.errors import OccupiedError, UserError

LOCK = ".lock"


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collection while files are read into many objects, through which it would go again and again.

    None of them is garbage; imports and large JSON files take half of the time without it.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def write_with(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Replace the file at `path` by what `write` puts into the given binary stream; all of it or nothing.

    The bytes go to a temporary file in the same folder (made if missing), are flushed to the disk and then take
    the name in one step, so a reader sees the old file or the new one.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, _permissions(path))
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a place of the same name to write to, in a folder of its own beside `path`.

    What was written there, with whatever other files, takes its place beside `path` at the end; nothing of it is left
    where an exception ends the block.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder, path.name)
            for written in sorted(Path(folder).iterdir(), key=lambda each: each.name == path.name):  # `path` is last
                os.replace(written, path.with_name(written.name))
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write data at hand as `write_with` does; text is written as UTF-8.

    What UTF-8 does not have (bytes of file names that are none) is written as an escape.
    """
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    write_with(path, lambda stream: stream.write(content))


def write_json(path: Path | str, content: Any, *, indent: int | None = None) -> None:
    """Write `content` as JSON, atomically. NaN and infinity are not JSON and raise ValueError."""
    write_atomically(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_json_list(path: Path | str, items: Iterable[Any]) -> None:
    """Write a JSON list, atomically, item by item: they need not fit into memory together."""

    def write(stream: BinaryIO) -> None:
        separator = b"["
        for item in items:
            stream.write(separator + json.dumps(item, allow_nan=False).encode())
            separator = b",\n"
        stream.write(b"[]\n" if separator == b"[" else b"]\n")

    write_with(path, write)


def append_json_line(path: Path | str, row: Mapping[str, Any]) -> None:
    """Append one JSON object as one line, as `metrics.jsonl` wants it.

    Raises:
        UserError: the file cannot be written, or the disk is full.
        ValueError: a value is NaN or infinite.
    """
    line = json.dumps(row, allow_nan=False) + "\n"
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold a folder, by a lock on FOLDER/.lock that ends with the process, however it ends, and that no fork inherits.

    Args:
        folder: made if missing.
        purpose: what it is held for, in messages.

    Raises:
        OccupiedError: another process holds it.
        UserError: the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _cannot_write(path, error) from error
    with stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise OccupiedError(
                    f"{folder}: another {purpose} is under way in this folder; wait for its end, or choose another one"
                ) from None
            # else this file system has no locks
        yield


def is_held(folder: Path) -> bool:
    """Return whether another process holds a folder, as `locked` does; asking takes no lock that it would wait for."""
    linux = sys.platform.startswith("linux")
    form = "hhqqi0q" if linux else "qqihh"  # struct flock: type, whence, start, length, process; BSD's order differs
    asked = struct.pack(form, *((fcntl.F_WRLCK, 0, 0, 0, 0) if linux else (0, 0, 0, fcntl.F_WRLCK, 0)))
    try:
        with open(folder / LOCK, "rb") as stream:
            answer = struct.unpack(form, fcntl.fcntl(stream, fcntl.F_GETLK, asked))
    except OSError:  # there is none, or this file system has no locks
        return False
    return answer[0 if linux else 3] != fcntl.F_UNLCK


def _permissions(path: Path) -> int:
    """The mode of the file that is replaced, else what `open` would give a new one (mkstemp says 0600)."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free some space, or choose a folder you may write to "
        "with paths.output_root=FOLDER"
    )
