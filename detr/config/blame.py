"""A part of somebody's own that fails is their mistake: it is told in one line, with key, file and line."""

from __future__ import annotations

import inspect
import re
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from detr.config.build import locate
from detr.config.references import dotted, leaves
from detr.errors import UserError, described, full_name, is_own, own_file

Parts = Mapping[str, Callable[..., Any]]  # key → class or function
Check = Callable[[nn.Module, Sequence[Any], Any], None]


@contextmanager
def own_parts_blamed(values: Mapping[str, Any]) -> Iterator[None]:
    """Surround a run: an exception from a part that is not of this package becomes a UserError about it.

    HYDRA_FULL_ERROR=1 shows the traceback. What goes wrong in this package alone stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = _blame(error, own_parts(values))
        if found is None:
            raise
        raise UserError(f"{found}; HYDRA_FULL_ERROR=1 shows the traceback") from error


def own_parts(values: Mapping[str, Any]) -> Parts:
    """Return key → class or function of every part of a config that is somebody's own."""
    targets = {dotted(path[:-1]): value for path, value in leaves(values) if path[-1] == "_target_"}
    found = {key: locate(str(target), key) for key, target in targets.items()}
    return {key: made_by for key, made_by in found.items() if own_file(made_by) is not None}


def check_first_output(module: nn.Module, parts: Parts, further: Check | None = None) -> None:
    """Let parts of somebody's own be checked when they are called first: that they return what their base class does.

    Args:
        module: with the parts inside.
        parts: that are somebody's own.
        further: is called with part, arguments and output, if that is of the right type.

    Raises:
        UserError: in the forward pass.
    """
    keys = {made_by: key for key, made_by in parts.items()}
    for part in module.modules():
        if type(part) in keys:
            _check_first_output(part, keys[type(part)], further)


def _check_first_output(part: nn.Module, key: str, further: Check | None) -> None:
    bases: list[Any] = [each for each in type(part).__mro__ if each.__module__.startswith("detr.")]
    wanted = typing.get_type_hints(bases[0].forward).get("return") if bases else None
    kind = typing.get_origin(wanted) or wanted
    if not isinstance(kind, type):
        return

    def check(called: nn.Module, arguments: Any, output: Any) -> None:
        handle.remove()
        if not isinstance(output, kind):
            found = f"a {full_name(type(output))}, expected a {full_name(kind)}"
            raise UserError(f"{key}: {described(type(part))}.forward returns {found}")
        if further is not None:
            further(called, arguments, output)

    handle = part.register_forward_hook(check)


def _blame(error: Exception, parts: Parts) -> str | None:
    """Whose fault an exception is; None: of no part in particular."""
    if not parts:
        return None
    message = str(error).strip()
    *before, last = message.splitlines() or [""]
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places += re.findall(r'File "(.+?)", line (\d+)', "\n".join(before))  # as a worker process tells it
    own = [(Path(file), line) for file, line in places if is_own(Path(file))]
    said = last if before and last else f"{type(error).__name__}: {message}"
    if own:
        file, line = own[-1]
        return f"{_key_of(own, parts)} ({file}:{line}): {said}"
    for key, made_by in parts.items():  # called with what it does not take, it is in no frame
        for each in getattr(made_by, "__mro__", [made_by]):
            if said.startswith(f"TypeError: {each.__qualname__}."):
                return f"{key}: {described(made_by)}: {said}"
    return None


def _key_of(places: Sequence[tuple[Path, int | str | None]], parts: Parts) -> str:
    """The key of the innermost part that one of these lines is in; else of one whose file was run; else of any."""
    for exactly in (True, False):
        for file, line in reversed(places):
            for key, made_by in parts.items():
                if own_file(made_by) == file and (not exactly or int(line or 0) in _lines(made_by)):
                    return key
    return next(iter(parts))


def _lines(made_by: Callable[..., Any]) -> range:
    """The lines of a class or function in its file."""
    lines, first = inspect.getsourcelines(made_by)
    return range(first, first + len(lines))
