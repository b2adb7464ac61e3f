"""Checking a composed config before anything is built from it."""

from __future__ import annotations

import functools
import typing
from typing import Annotated, Any, Literal

from omegaconf import DictConfig

from detr.config.annotations import parameters, problem
from detr.config.build import DIRECTIVES, locate
from detr.config.containers import Section, resolved, unresolved
from detr.config.home import expand_home
from detr.config.references import Path, dotted, leaves, origin, own_keys, references
from detr.config.suggest import did_you_mean
from detr.errors import UserError

# What an optimizer need not take, where it takes `params`: these keys make its groups of parameters.
GROUPING = ("optimizer.lr_by_pattern", "optimizer.weight_decay_by_pattern", "optimizer.layer_decay")

FormatKind = Literal["checkpoint", "data", "predictions"]
PREDICTIONS = Literal["coco", "csv", "yolo", "voc"]
FORMATS: dict[FormatKind, Any] = {
    "checkpoint": Literal["official", "onnx", "openvino", "torch_export", "hugging_face"],
    "data": Literal["coco", "yolo", "voc"],
    "predictions": PREDICTIONS | list[PREDICTIONS],
}


class UnknownKeyError(UserError):
    """Says that there is a key which nothing takes.

    Attributes:
        keys: where it is.
        key: the same as text.
    """

    def __init__(self, keys: Path, problem: str) -> None:
        super().__init__(f"{dotted(keys)}: {problem}")
        self.keys, self.key = keys, dotted(keys)


@functools.cache
def schema(kind: FormatKind = "checkpoint") -> dict[str, Any]:
    """Return key → type of what the entry points read themselves.

    All other keys are arguments of a constructor, or referred to by one.

    Args:
        kind: of what `format` is the format.
    """
    # Takes longer than all other imports here together, and `--cfg` needs no types.
    from annotated_types import Ge, Le, Len

    return {
        "name": str | None,
        "license": str | None,
        "seed": Annotated[int, Ge(0), Le(2**63 - 1)],
        "resume": str | None,
        "resume_changed": bool,
        "init_from": str | None,
        "checkpoint": str | None,
        "pixels": bool,
        "strict": bool,
        "fix": bool,
        "format": FORMATS[kind],
        "outputs": Literal["logits", "detections"],
        "precision": Literal["fp32", "fp16", "int8"],
        "calibration": str | None,
        "file": str | list[str],
        "size": Annotated[list[Annotated[int, Ge(1)]], Len(2, 2)] | None,
        "batch_sizes": Annotated[list[Annotated[int, Ge(1)]], Len(1)],
        "repeats": Annotated[int, Ge(1)],
        "warmup": Annotated[int, Ge(0)],
        "threads": Annotated[int, Ge(1)] | None,
        "json": str | None,
        "output": str | None,
        "split": Literal["train", "val", "test"],
        "source": str,
        "threshold": Annotated[float, Ge(0), Le(1)],
        "classes": str | list[str] | None,
        "top_k": Annotated[int, Ge(1)] | None,
        "batch_size": Annotated[int, Ge(1)] | None,
        "device": str,
        "tiles": Annotated[int, Ge(16)] | None,
        "overlap": Annotated[float, Ge(0), Le(0.9)],
        "attention": bool | Literal["all"],
        "attention_point": list[float] | None,
        "report": bool,
        "iou": Literal["boxes", "masks"],
        "paths.output_root": str,
        "paths.data_root": str,
        "optimizer.lr": float,
        "optimizer.weight_decay": float | None,
        "optimizer.lr_by_pattern": dict[str, float] | None,
        "optimizer.weight_decay_by_pattern": dict[str, float] | None,
        "optimizer.layer_decay": float | None,
        "dataloader.batch_size": Annotated[int, Ge(1)],
        "dataloader.eval_batch_size": Annotated[int, Ge(1)] | None,
        "dataloader.num_workers": Annotated[int, Ge(0)],
        "dataloader.group_by_shape": bool,
    }


def check(config: DictConfig) -> tuple[Section, dict[str, Any]]:
    """Compare the config with the constructors that its `_target_` nodes name.

    Returns:
        The config as `resolved` and as `unresolved` give it, `~` at the start of paths expanded.

    Raises:
        UserError: a target that does not exist, an argument it does not take, a value of the wrong type, a
            missing value, a broken interpolation, a key that nothing reads. The message names the key that the
            user should change: where a value is a reference, the key at its end.
    """
    expand_home(config)
    values, stored = resolved(config), unresolved(config)
    _Check(stored, schema(_kind(stored))).walk(values, (), owned=False)
    return values, stored


def _kind(stored: dict[str, Any]) -> FormatKind:
    return "data" if "dataset" in stored else "predictions" if "source" in stored else "checkpoint"


class _Check:
    """One walk through the values of a config; `raw` is the same config with its interpolations."""

    def __init__(self, raw: dict[str, Any], known: dict[str, Any]) -> None:
        self.raw = raw
        self.known = known
        self.references = references(raw)

    def walk(self, value: Any, path: Path, *, owned: bool) -> None:
        """A value and what is inside it; `owned`: it is, as a whole, an argument of a node above it."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                self.walk(item, (*path, index), owned=owned)
        elif isinstance(value, dict) and (_holds_target(value) or not owned):
            self.node(value, path, owned=owned)

    def node(self, node: dict[str, Any], path: Path, *, owned: bool) -> None:
        """Every key of a node, with or without a target."""
        has_target = "_target_" in node
        arguments = self.arguments(node, path)
        for key, value in node.items():
            here = (*path, key)
            if key in DIRECTIVES or (origin(self.raw, here) != here and _holds_target(value)):
                continue  # nodes that are referred to are checked where they stand
            if has_target:
                self.argument(here, value, arguments, str(node["_target_"]))
            elif not isinstance(value, dict) and not _holds_target(value):
                self.plain(here, value)
            self.walk(value, here, owned=owned or has_target)

    def arguments(self, node: dict[str, Any], path: Path) -> dict[str, Any] | None:
        """What the node's target takes; None where that is unknown, or there is no target."""
        if "_target_" not in node:
            return None
        return parameters(locate(str(node["_target_"]), dotted(path)))

    def argument(self, path: Path, value: Any, arguments: dict[str, Any] | None, target: str) -> None:
        """One argument of a constructor."""
        if arguments is None:
            return
        name, key = str(path[-1]), dotted(path)
        if name not in arguments and not (key in GROUPING and "params" in arguments):
            advice = self.advice(path, list(arguments)) or f"; it takes {', '.join(arguments) or 'nothing'}"
            drop = f"where a detector or an experiment sets it, ~{dotted(path)} takes it away"
            raise UnknownKeyError(path, f"{target} does not take {name}{advice}; {drop}")
        if not _holds_target(value):
            self.value(path, value, schema()[key] if key in schema() else arguments[name].annotation)
        elif isinstance(value, dict) and "_target_" not in value:
            self.parts(path, value, arguments[name].annotation)

    def parts(self, path: Path, value: dict[str, Any], annotation: Any) -> None:
        """A mapping of parts: null is none of them, unless the constructor says so."""
        allowed = typing.get_args(annotation)[-1:]
        if not allowed or type(None) in typing.get_args(allowed[0]):
            return
        for key, item in value.items():
            if item is None:
                here = dotted(origin(self.raw, (*path, key)))
                raise UserError(f"{here}: expected a part, with _target_, got null; ~{here} takes it away")

    def plain(self, path: Path, value: Any) -> None:
        """A key outside of any constructor."""
        key = dotted(path)
        if key in self.known:
            self.value(path, value, self.known[key])
        elif not any(path[: len(reference)] == reference for reference in self.references):
            raise UnknownKeyError(path, f"nothing reads this key{self.advice(path, [])}")

    def value(self, path: Path, value: Any, annotation: Any) -> None:
        """A value against its annotation."""
        found = problem(value, annotation)
        if found is None:
            return
        key = dotted(origin(self.raw, (*path, *found[0])))
        hint = ""
        if found[1].startswith("expected a string") and isinstance(value, int | float):
            hint = f"""; in quotes it is a string: '{key}="{value}"'"""
        raise UserError(f"{key}: {found[1]}{hint}")

    def advice(self, path: Path, names: list[str]) -> str:
        """Did you mean: another argument of the constructor, or any other key; never the key itself."""
        key = dotted(path)
        siblings = [dotted((*path[:-1], name)) for name in names]
        others = [each for each in own_keys(self.raw) if each != key and not key.startswith(f"{each}.")]
        return did_you_mean(key, siblings) or did_you_mean(key, others)


def _holds_target(value: Any) -> bool:
    """Whether some node in the value is to be instantiated."""
    return any(str(path[-1]) == "_target_" for path, _ in leaves(value) if path)
