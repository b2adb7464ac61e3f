"""From a node of the config to the object that it describes, as Hydra's `instantiate` has it.

Hydra's own tells neither which node refused its arguments nor, of a node that is referred to, where it stands.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from detr.config.annotations import parameters
from detr.config.kinds import expect, expect_inside
from detr.config.suggest import closest
from detr.errors import UserError, in_words

DIRECTIVES = {
    "_target_",
    "_partial_",
    "_convert_",
    "_recursive_",
    "_args_",
}  # keys that are no arguments; as Hydra has them

T = TypeVar("T")

# Libraries refuse arguments with assertions, too (nn.MultiheadAttention does).
_REFUSALS = (ValueError, TypeError, AssertionError)


def build_a(kind: type[T], node: Mapping[str, Any], /, **facts: Any) -> T:
    """Build what a node describes, as `build` does, and check that it is of a kind: a class or a protocol.

    Raises:
        UserError: it is not; or as for `build`.
    """
    part = build(node, **facts)
    expect(part, kind, getattr(node, "path", ""))
    return part


def build(node: Mapping[str, Any] | None, where: str = "", /, **facts: Any) -> Any:
    """Build what a node describes, and the nodes inside it. Constructors get plain dicts and lists.

    Args:
        node: with `_target_`, from `resolved(config)`; None builds None.
        where: the node's key in the config, for error messages.
        facts: arguments known at run time (the number of classes, the model); passed as they are.

    Raises:
        UserError: the constructor, or one of a nested node, refused its arguments.
    """
    return None if node is None else _factory(node, where or getattr(node, "path", ""))(**facts)


class Factory:
    """Calls a constructor with some of its arguments: what a nested node with `_partial_: true` becomes.

    Args:
        constructor: to be called.
        key: of the node in the config, which messages begin with.
        kind: of what comes out; None: anything.
    """

    def __init__(self, constructor: Callable[..., Any], key: str, kind: Any = None) -> None:
        self.constructor, self.key, self.kind = constructor, key, kind

    def __call__(self, *arguments: Any, **facts: Any) -> Any:
        """Build with these further arguments.

        Raises:
            UserError: the constructor refuses them, or what it builds is none of its kind.
        """
        try:
            part = self.constructor(*arguments, **facts)
        except _REFUSALS as error:
            message = in_words(error)
            raise UserError(f"{self.key}: {message}" if self.key else message) from error
        expect(part, self.kind, self.key)
        return part


def _factory(node: Mapping[str, Any], key: str) -> Factory:
    """The nodes inside are built one by one, so that each refusal has its own key."""
    inside = {name: value for name, value in node.items() if name not in DIRECTIVES}
    constructor = locate(str(node["_target_"]), key)
    if node.get("_recursive_", True):
        known = parameters(constructor) or {}
        for name, value in inside.items():
            where = getattr(value, "path", "") or f"{key}.{name}"
            inside[name] = _built(value, where)
            if name in known:
                expect_inside(inside[name], known[name].annotation, where)
    positional = _built(node.get("_args_", []), f"{key}._args_")
    return Factory(lambda *more, **facts: constructor(*positional, *more, **{**inside, **facts}), key)


def _built(value: Any, key: str) -> Any:
    """A value with the nodes inside it built; `key`: where it stands, unless the user finds it elsewhere."""
    if isinstance(value, list):
        return [_built(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    key = getattr(value, "path", "") or key
    if "_target_" not in value:
        return {name: _built(item, f"{key}.{name}") for name, item in value.items()}
    factory = _factory(value, key)
    return factory if value.get("_partial_") else factory()


@functools.cache
def locate(target: str, where: str) -> Callable[..., Any]:
    """Import what `_target_` names.

    Raises:
        UserError: there is no such module, no such name in it, or it cannot be called.
    """
    parts = target.split(".")
    module, rest = _longest_module(parts, where)
    found: Any = module
    for index, name in enumerate(rest):
        if not hasattr(found, name):
            near = closest(name, [each for each in dir(found) if not each.startswith("_")], 1)
            hint = f"; did you mean {'.'.join([*parts[: len(parts) - len(rest) + index], near[0]])}?" if near else ""
            raise UserError(f"{where}._target_: there is no {target}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{where}._target_: {target} cannot be called")
    return found


class MissingModuleError(UserError):
    """Says that a module is not there which a `_target_` needs.

    Args:
        problem: what is shown, but for the way to mend it.
        module: its name.
    """

    def __init__(self, problem: str, module: str) -> None:
        super().__init__(problem, module)
        self.problem, self.module = problem, module

    def __str__(self) -> str:
        return f"{self.problem}; install it, or add its folder to PYTHONPATH"

    def lay_in(self, places: Mapping[str, str]) -> UserError:
        """Return the error that also says where the module lay once; `places`: top-level module → folder."""
        place = places.get(self.module.partition(".")[0])
        return self if place is None else UserError(f"{self.problem}; it lay in {place}: add that folder to PYTHONPATH")


def _longest_module(parts: list[str], where: str) -> tuple[Any, list[str]]:
    """The module that a dotted name starts with, and the rest of the name."""
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        try:
            return importlib.import_module(name), parts[count:]
        except ModuleNotFoundError as error:
            if error.name is None:
                raise
            if not f"{name}.".startswith(f"{error.name}."):  # the module exists; something it imports does not
                missing = f"{where}._target_: {'.'.join(parts)} needs the module {error.name}, which is not there"
                raise MissingModuleError(missing, error.name) from error
    raise MissingModuleError(f"{where}._target_: there is no module {parts[0]}", parts[0])
