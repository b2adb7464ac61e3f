"""What a part must be: its class, or what a protocol asks for. A part from outside may be anything."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from typing import Any, Protocol

from detr.errors import UserError, described, full_name


def expect(part: Any, kind: Any, key: str) -> None:
    """Check that a part is what is expected in its place.

    Args:
        part: an object that was built.
        kind: a class or protocol; anything else says nothing.
        key: of the part in the config.

    Raises:
        UserError: it is of another class, or lacks an attribute that every part of its kind has.
    """
    if not inspect.isclass(kind) or kind is inspect.Parameter.empty:
        return
    protocol = Protocol in kind.__mro__ and Protocol in kind.__bases__
    try:
        fits = protocol or isinstance(part, kind)
    except TypeError:  # a class that cannot be asked
        return
    if not fits:
        raise UserError(f"{key}: expected a {full_name(kind)}, got {described(type(part))}")
    missing = [name for name in _members(kind, protocol) if not _has(part, name)]
    if missing:
        raise UserError(f"{key}: {described(type(part))} does not have {missing[0]}, which a {full_name(kind)} has")


def expect_inside(value: Any, annotation: Any, key: str) -> None:
    """Check the parts in an argument against its annotation: `Mapping[str, Term]`, `Callable[..., Neck] | None`, …

    Raises:
        UserError: as for `expect`.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if value is None or isinstance(value, str | int | float):
        return
    if origin in (typing.Union, types.UnionType):
        members = [each for each in inner if each is not type(None)]
        if len(members) == 1:
            expect_inside(value, members[0], key)
    elif origin is collections.abc.Callable and hasattr(value, "kind"):
        value.kind = inner[-1]  # a factory: what it builds is checked then
    elif isinstance(value, dict):
        for name, item in value.items() if len(inner) == 2 else ():
            expect_inside(item, inner[1], f"{key}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value) if inner else ():
            expect_inside(item, inner[0], f"{key}[{index}]")
    elif not hasattr(value, "kind"):
        expect(value, annotation, key)


def _has(part: Any, name: str) -> bool:
    """Whether a part has an attribute; a property is not computed, for that may read files."""
    try:
        inspect.getattr_static(part, name)
    except AttributeError:
        return hasattr(part, name)
    return True


def _members(kind: type, protocol: bool) -> list[str]:
    """What every part of a kind has: of a protocol everything, of a class what it declares without a value."""
    found: list[str] = []
    for each in kind.__mro__:
        if each.__module__.startswith("detr.") and (each is not Protocol):
            declared = list(each.__annotations__)
            found += [*declared, *vars(each)] if protocol else declared
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]
