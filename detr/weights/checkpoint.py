"""Checkpoints: writing, reading and fitting them into a model.

In its file a checkpoint is a dictionary of plain containers and tensors: `model` (and `ema` where there is one),
`config` (unresolved) and `classes`, which is everything needed to rebuild the detector, `data`, which tells the
training images from others, `origin`, and `trainer`, from which a training goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detr.data.dataset import Fingerprint
from detr.errors import UserError
from detr.files import write_with
from detr.structures import Classes
from detr.weights.renaming import COUNTER

log = logging.getLogger(__name__)

FORMAT = 2  # of the dictionary; raised when an older reader would misread it
NON_FINITE = "non_finite"  # name of the file about a step that cannot be gone on from
NO_PLACES = ("_target_", "names", "holdout", "categories")  # of a data set: they may be called as a folder is
SHOWN = 3  # how many names of a kind a report of differences gives


@dataclass(frozen=True)
class Recipe:
    """Holds what it takes to build a detector again, and what tells its training from others."""

    config: dict[str, Any]  # plain; interpolations within it stay
    classes: Classes
    data: Fingerprint  # of the training images
    origin: dict[str, Any] = field(default_factory=dict)  # what became of the weights that `init_from` named
    cwd: str = ""  # where the training was started: relative places in the config are seen from there
    held_out: list[str] | None = None  # names of the images that dataset.holdout kept for validation
    folders: list[str] = field(default_factory=list)  # of the user's own configs
    modules: dict[str, str] = field(default_factory=dict)  # of the user's own code: top-level module → where it lay

    def located(self) -> dict[str, Any]:
        """Return the config, places of the data made absolute that are relative, if there is something there."""

        def locate(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: each if key in NO_PLACES else locate(each) for key, each in value.items()}
            if isinstance(value, list):
                return [locate(each) for each in value]
            place = Path(self.cwd, value) if isinstance(value, str) and value and self.cwd else None
            return str(place) if place is not None and place.exists() else value

        return self.config | {name: locate(self.config[name]) for name in ("paths", "dataset")}


@dataclass(frozen=True)
class Checkpoint:
    """Holds everything that a run keeps of a moment."""

    recipe: Recipe
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None  # the moving average, where there is one
    trainer: dict[str, Any] | None = None  # what a training goes on from: see detr/training/state.py
    wandb_id: str | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return what is evaluated: the moving average where there is one, as in the evaluations during training."""
        return self.model if self.ema is None else self.ema

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "format": FORMAT,
            "config": self.recipe.config,
            "classes": self.recipe.classes.to_dict(),
            "data": asdict(self.recipe.data),
            "origin": self.recipe.origin,
            "cwd": self.recipe.cwd,
            "held_out": self.recipe.held_out,
            "folders": self.recipe.folders,
            "modules": self.recipe.modules,
            "model": self.model,
            "ema": self.ema,
            "trainer": self.trainer,
            "wandb_id": self.wandb_id,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str) -> Checkpoint | None:
        """Return the checkpoint in a file's content; None if it is something else.

        Raises:
            UserError: it is one that this version cannot read.
        """
        if not {"format", "model", "config", "classes"} <= content.keys() or "transformer" not in content["config"]:
            return None
        if content["format"] < FORMAT:
            raise UserError(f"{source} was written by an earlier version of detr, whose weights have other names")
        if content["format"] > FORMAT:
            raise UserError(f"{source} was written by a newer version of detr; update to read it")
        recipe = Recipe(
            config=content["config"],
            classes=Classes.from_dict(content["classes"]),
            data=Fingerprint(**content["data"]),
            origin=content["origin"],
            cwd=content["cwd"],
            held_out=content.get("held_out"),
            folders=content.get("folders", []),
            modules=content.get("modules", {}),
        )
        return cls(recipe, **{name: content[name] for name in ("model", "ema", "trainer", "wandb_id")})


def save_checkpoint(path: Path, checkpoint: Checkpoint, **more: Any) -> None:
    """Write all of it or nothing; `more`: what else goes into the file.

    Raises:
        UserError: the folder cannot be written.
    """
    write_with(path, lambda stream: torch.save(checkpoint.to_dict() | more, stream))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, without running any code that it might hold.

    Raises:
        UserError: not there, unreadable, truncated, or not a checkpoint of this project.
    """
    checkpoint = Checkpoint.from_dict(read_pickle(Path(path)), str(path))
    if checkpoint is None:
        raise UserError(f"{path} is not a checkpoint of this project: it lacks model, config or classes")
    return checkpoint


def read_pickle(path: Path) -> dict[str, Any]:
    """Read what `torch.save` wrote: tensors, plain containers and arguments of a command line, nothing else.

    Those are an `argparse.Namespace` in official DETR's files and a `types.SimpleNamespace` in some of RF-DETR's.

    Raises:
        UserError: not there, truncated, of another kind, or with an object that could run code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace, types.SimpleNamespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are not torch's; the error will do
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        raise UserError(f"{path} {_why_unreadable(str(error), error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def identity(source: str, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Return what tells a checkpoint from others: its place and digest, and whose training it is of when.

    Args:
        source: as the user gave it: a path, an address or a published name.
        checkpoint: in it; None: weights only.
    """
    path = Path(source).resolve()
    facts: dict[str, Any] = {"path": source, "run": None}
    if path.is_file():
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        run = path.parents[1] if path.parent.name == "checkpoints" else None
        facts |= {"path": str(path), "sha256": digest, "run": None if run is None else str(run)}
    if checkpoint is not None and checkpoint.trainer is not None:
        progress = checkpoint.trainer["progress"]
        facts |= {"epoch": progress["epoch"], "step": progress["step"], "wandb_id": checkpoint.wandb_id}
    return facts


def newest_first(folder: Path, pattern: str) -> list[Path]:
    """Return files by the time at which they were written."""
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def newest_intact(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Return the newest checkpoint that a run can continue from, None if there is none. A warning names those that are
    unreadable, or have weights that are not finite.

    What was kept of a step that failed is not one of them.
    """
    for path in newest_first(folder, "*.pt"):
        if path.stem == NON_FINITE:
            continue
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            log.warning("%s; trying an older checkpoint", error)
            continue
        if not (is_finite(checkpoint.model) and is_finite(checkpoint.ema or {})):
            log.warning("%s has weights that are not finite; trying an older checkpoint", path)
            continue
        if checkpoint.trainer is not None:
            return path, checkpoint
    return None


def is_finite(weights: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in weights.values())


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    *,
    name_in_file: Callable[[str], str] = str,
    advice: str = "use the config it had",
) -> None:
    """Load strictly: every name and shape must fit, every value be finite.

    Args:
        source: for messages, as `name_in_file`, which gives a weight's name in a file that has other names.
        advice: what to do where they do not fit.

    Raises:
        UserError: with a report of what differs.
    """
    wanted = model.state_dict()
    counters = {name: value for name, value in wanted.items() if name.endswith(COUNTER)}  # which nothing reads
    weights = {name: value for name, value in weights.items() if name in wanted or not name.endswith(COUNTER)}
    weights = counters | weights
    differences = {
        "missing": [name_in_file(name) for name in wanted if name not in weights],
        "not in the model": [name_in_file(name) for name in weights if name not in wanted],
        "of another shape": [
            f"{name_in_file(name)} {list(weights[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    reports = [_shorten(kind, names) for kind, names in differences.items() if names]
    if reports:
        reports = [*architectural_differences(weights, wanted), *reports]
        raise UserError(f"the weights of {source} do not fit the model: {'; '.join(reports)}; {advice}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{source}: {name_in_file(name)} has values that are not finite; take an earlier checkpoint"
            )
    model.load_state_dict(weights)


def _shorten(kind: str, names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{rest})"


def architectural_differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """Return what about two models' sizes explains that weights do not fit, as the keys of our config."""
    file, model = _architecture(theirs), _architecture(ours)
    known = [key for key in file if file[key] and model[key]]
    return [f"{key} is {file[key]} in it and {model[key]} here" for key in known if file[key] != model[key]]


RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {  # bottleneck blocks?, blocks of each stage
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}


def _architecture(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes that names and shapes tell; dilation and the number of attention heads they do not."""
    stages = tuple(_count(rf"backbone\.body\.layer{stage}\.(\d+)\.", weights) for stage in (1, 2, 3, 4))
    bottleneck = any(name.endswith(".conv3.weight") for name in weights)
    return {
        "backbone": RESNETS.get((bottleneck, stages), "another"),
        "transformer.d_model": _size("class_head.weight", 1, weights),
        "transformer.encoder.num_layers": _count(r"encoder\.layers\.(\d+)\.", weights),
        "transformer.decoder.num_layers": _count(r"decoder\.layers\.(\d+)\.", weights),
        "transformer.dim_feedforward": _size("decoder.layers.0.feed_forward.linear1.weight", 0, weights),
        "queries.num_queries": _size("queries.embedding.weight", 0, weights),
        "the number of class logits": _size("class_head.weight", 0, weights),
    }


def _count(pattern: str, weights: Mapping[str, Tensor]) -> int:
    """How many different numbers the pattern finds at the start of names."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _size(name: str, axis: int, weights: Mapping[str, Tensor]) -> int | None:
    return weights[name].shape[axis] if name in weights else None


def _why_unreadable(message: str, error: Exception) -> str:
    unsafe = re.search(r"(?:GLOBAL|[Uu]nsupported (?:global|class)) (?:GLOBAL )?([\w.]+)", message)
    if unsafe:
        return (
            f"was not read: it holds more than weights ({unsafe[1]}), which may run code on this machine; "
            "save its state dict alone"
        )
    # In front of its own reason torch advises to load the file without any protection.
    reason = message.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or type(error).__name__
    return f"cannot be read as a checkpoint: truncated, or of another kind ({reason})"
