"""Values of the config against the annotations of constructors, in words for the user."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from detr.config.references import Path, leaves

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_PART = "a part, with _target_"
_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "none_required": "null",
    "callable": _PART,
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return the arguments that a target takes by name, with evaluated annotations where that is possible.

    None if it takes any name (`**kwargs`) or does not say.
    """
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in found.values()):
        return None
    function = target.__init__ if inspect.isclass(target) else target
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return {
        name: parameter.replace(annotation=_evaluated(parameter.annotation, names))
        for name, parameter in found.items()
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    }


def problem(value: Any, annotation: Any) -> tuple[Path, str] | None:
    """Return what is wrong with a value: the place inside it, and "expected …, got …". None if nothing is wrong.

    Integers pass as floats and lists as any sequence; nothing else is converted. Annotations that mean nothing
    in YAML (modules, tensors, callables) refuse single values only.
    """
    from pydantic import ValidationError

    for path, number in leaves(value):
        if isinstance(number, float) and not math.isfinite(number):
            return path, f"expected a finite number, got {show(number)}"
        if isinstance(number, int) and abs(number) >= 2**63:
            return path, f"expected an integer of 64 bits, got {show(number)}"
    adapter = _adapter(annotation)
    if adapter is None:
        return None if _may_be(value, annotation) else ((), f"expected {_PART}, got {show(value)}")
    try:
        text = json.dumps(value)  # as JSON, because a list must do for a tuple even in strict mode
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        return _in_words(value, error.errors())
    return None


def _may_be(value: Any, annotation: Any) -> bool:
    """Whether a value can be of a type that pydantic does not know: no single value is a module."""
    unknown = annotation is inspect.Parameter.empty or not inspect.isclass(annotation)
    return unknown or value is None or isinstance(value, dict | list)


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except Exception:  # imported for type checkers only: nothing to check against
        return inspect.Parameter.empty


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (inspect.Parameter.empty, Any):
        return None
    try:
        return _cached_adapter(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return None


@cache
def _cached_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(annotation)
    except PydanticUserError:
        return None


def _in_words(value: Any, errors: list[Any]) -> tuple[Path, str]:
    """The deepest complaints, of which a union has one for each member."""
    located = [(_inside(value, error["loc"]), error) for error in errors]
    path = max((path for path, _ in located), key=len)
    expected = list(dict.fromkeys(_expectation(error) for where, error in located if where == path))
    found: Any = value
    for key in path:
        found = found[key]
    return path, f"expected {' or '.join(expected)}, got {show(found)}"


def _inside(value: Any, location: tuple[str | int, ...]) -> Path:
    """pydantic's location without the names of union members, which are no places in the value."""
    path: Path = ()
    for key in location:
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int)):
            path = (*path, key)
            value = value[key]  # type: ignore[index]
    return path


def _expectation(error: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return context["expected"]
    for name, words in _BOUNDS.items():
        if name in context:
            return f"{words} {context[name]}"
    for name, words in _EXPECTED.items():
        if kind == name or kind.startswith(f"{name}_"):
            return words
    return error["msg"].removeprefix("Input should be ").replace("Input should have", "with")


def show(value: Any) -> str:
    """Return a value as YAML would have it, cut off where it is long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
