"""The exceptions that are meant for the user's eyes, how parts and values are called in them, and commands to paste."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
# Control characters, lone surrogates (bytes of file names that are no UTF-8), ends of lines, changes of direction.
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
INSTALLED = {"site-packages", "dist-packages"}

# Paths and names that mean themselves in Hydra's grammar and in every shell.
PLAIN = re.compile(
    r"[\w.:@%+-]*/[\w./:@%+-]*|(?!(?:null|true|false|inf|nan)\Z)[a-z_][\w-]*", flags=re.ASCII | re.IGNORECASE
)


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


def visible(text: object) -> str:
    """Return a text in one line, in which what has no shape is an escape (`\\x1b`): nothing moves the cursor."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


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


def pasted(*words: str | Path, **values: Any) -> str:
    """Return words and overrides of a command as a shell and then Hydra read them back, whatever is in a folder's name.

    `pasted("detr", "evaluate", checkpoint="lr=0.1/best.pt")`; the dots of a key are written as `hydra__run__dir`.
    """
    overrides = [f"{key.replace('__', '.')}={in_hydra(value)}" for key, value in values.items()]
    return shlex.join([*map(str, words), *overrides])


def in_hydra(value: Any, *, interpolated: bool = False) -> str:
    """Return a value as Hydra's grammar of overrides has it.

    Args:
        value: of YAML's kinds, or a path.
        interpolated: whether `${…}` in a text is to be filled in, instead of meaning itself.
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(in_hydra(each, interpolated=interpolated) for each in value)}]"
    if isinstance(value, Mapping):
        items = (f"{key}: {in_hydra(each, interpolated=interpolated)}" for key, each in value.items())
        return f"{{{','.join(items)}}}"
    if not isinstance(value, str | Path):
        return json.dumps(value)
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    if not interpolated:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Backslashes mean themselves, but before a quotation mark.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), text) + '"'


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
