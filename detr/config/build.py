"""From a node of the config to the object that it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from detr.errors import UserError

DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}  # keys that Hydra reads itself

# Libraries refuse arguments with assertions, too (nn.MultiheadAttention does).
_REFUSALS = (ValueError, TypeError, AssertionError, InstantiationException)


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
    """A constructor with some of its arguments: what a nested node with `_partial_: true` becomes.

    Args:
        constructor: to be called.
        key: of the node in the config, which messages begin with.
    """

    def __init__(self, constructor: Callable[..., Any], key: str) -> None:
        self.constructor, self.key = constructor, key

    def __call__(self, *arguments: Any, **facts: Any) -> Any:
        """Build with these further arguments. Raises UserError where the constructor refuses them."""
        try:
            return self.constructor(*arguments, **facts)
        except _REFUSALS as error:
            message = " ".join(str(error).split())
            raise UserError(f"{self.key}: {message}" if self.key else message) from error


def _factory(node: Mapping[str, Any], key: str) -> Factory:
    """Hydra finds the target; the nodes inside are built here, one by one, so that each refusal has its own key."""
    inside = {name: value for name, value in node.items() if name not in DIRECTIVES}
    if node.get("_recursive_", True):
        inside = {name: _built(value, f"{key}.{name}") for name, value in inside.items()}
    target = {"_target_": node["_target_"], "_partial_": True}
    constructor = Factory(instantiate, key)(target)
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
