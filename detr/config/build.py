"""From a node of the config to the object that it describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from detr.config.containers import Section, resolved
from detr.errors import UserError

# Libraries refuse arguments with assertions, too (nn.MultiheadAttention does).
_REFUSALS = (ValueError, TypeError, AssertionError, InstantiationException)


def build(node: Mapping[str, Any] | None, where: str = "", /, **facts: Any) -> Any:
    """Instantiate a node and the nodes inside it. Constructors get plain dicts and lists.

    Args:
        node: with `_target_`, from `resolved(config)`; None builds None.
        where: the node's key in the config, for error messages.
        facts: arguments known at run time (the number of classes, the model); passed as they are.

    Raises:
        UserError: the constructor, or one of a nested node, refused its arguments.
    """
    if node is None:
        return None
    if isinstance(node, DictConfig):
        node = resolved(node)
    where = where or getattr(node, "path", "")
    try:
        return instantiate(dict(node), _partial_=True, _convert_="all")(**facts)
    except Exception as error:
        cause = _root(error)
        if isinstance(cause, UserError):
            raise cause from cause.__cause__
        if isinstance(cause, _REFUSALS):
            place = _place(node, _inner_key(error), where)
            message = " ".join(line for line in str(cause).splitlines() if not line.startswith("full_key:"))
            raise UserError(f"{place}: {message}" if place else message) from error
        raise


def _root(error: BaseException) -> BaseException:
    """What the constructor itself raised, without Hydra's wrapping."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _inner_key(error: BaseException) -> str:
    """The key below the node in whose constructor the error arose: "" for the node itself."""
    if isinstance(error, InstantiationException):
        match = re.search(r"^full_key: (.*)$", str(error), re.MULTILINE)
        return match[1] if match else ""
    return _partial_key(error.__traceback__)


def _partial_key(traceback: TracebackType | None) -> str:
    """The key of a nested `_partial_` node that was called by a constructor (Hydra ≥ 1.3.8 notes it)."""
    key = ""
    while traceback is not None:
        key = getattr(traceback.tb_frame.f_locals.get("self"), "_hydra_full_key", "") or key
        traceback = traceback.tb_next
    return key


def _place(node: Any, key: str, where: str) -> str:
    """The key that the user knows: of the section that a nested key refers to, if that is known."""
    inner = node
    for name in key.split(".") if key else ():
        inner = inner.get(name) if isinstance(inner, dict) else None
    if key and isinstance(inner, Section):
        return inner.path
    return ".".join(part for part in (where, key) if part)
