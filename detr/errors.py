"""The exceptions that are meant for the user's eyes, and how parts and values are called in them."""

from __future__ import annotations

import inspect
import signal
from pathlib import Path
from typing import Any

from detr.texts import visible

PACKAGE = Path(__file__).resolve().parent
INSTALLED = {"site-packages", "dist-packages"}


class UserError(Exception):
    """Reports a mistake of the user's in one line: what is wrong, where, and how to mend it.

    Entry points print it without a traceback and exit non-zero (`detr.entry.user_errors`).
    """


class OccupiedError(UserError):
    """Reports that a folder belongs to another run, in which nothing must be written, the log included."""


class Interrupted(BaseException):
    """Says that a signal asked for the end. As a KeyboardInterrupt, it passes through `except Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number

    @property
    def status(self) -> int:
        """Return the exit status, as shells have it."""
        return 128 + self.number


def in_words(error: object) -> str:
    """Return an error's message in one line; its type where it has none."""
    return visible(" ".join(str(error).split())) or type(error).__name__


def described(made_by: Any) -> str:
    """Return the name of a class or function, with its file where that is not in this package or an installed one."""
    file = own_file(made_by)
    return full_name(made_by) if file is None else f"{full_name(made_by)} ({file})"


def shown(value: Any) -> str:
    """Return what a value is, in words: its type, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    count = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"a {type(value).__name__}{count}" + ("" if shape is None else f" {list(shape)}")


def full_name(made_by: Any) -> str:
    return f"{made_by.__module__}.{made_by.__qualname__}"


def own_file(made_by: Any) -> Path | None:
    """Return the file of a class or function; None of those in this package, installed or built in."""
    try:
        file = Path(inspect.getsourcefile(made_by) or "")
    except TypeError:
        return None
    return file if is_own(file) else None


def is_own(file: Path) -> bool:
    """Return whether a file is somebody's own code: outside of this package, of installed ones and of Python."""
    if not file.is_absolute() or file.is_relative_to(PACKAGE) or INSTALLED & {*file.parts}:
        return False
    return not file.is_relative_to(Path(inspect.__file__).parent)
