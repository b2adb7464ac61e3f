"""Weights from wherever they are: a checkpoint of ours, an official file, a Hugging Face folder, the zoo.

Whatever names a file has, weights have ours once they are here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detr import hugging_face, official
from detr.checkpoint import is_checkpoint, read_pickle, weights_to_evaluate
from detr.data.coco_categories import coco_classes
from detr.errors import UserError
from detr.structures import Classes
from detr.zoo import ZOO, fetch, is_address


@dataclass(frozen=True)
class Weights:
    """The weights of a detector, and what their source says about them."""

    tensors: dict[str, Tensor]  # under our names
    source: str  # as the user gave it
    classes: Classes | None = None  # None: the source does not tell
    checkpoint: dict[str, Any] | None = None  # everything in a checkpoint of ours; None: not one of ours
    experiment: str | None = None  # of a zoo name
    name_in_file: Callable[[str], str] = str  # our name → the file's

    @property
    def num_logits(self) -> int:
        """K of the class head."""
        return len(self.tensors["class_head.weight"]) if "class_head.weight" in self.tensors else 0

    def likely_experiments(self) -> list[str]:
        """Those that the weights may have been trained with; names and shapes do not tell whether it was DC5."""
        deep = "backbone.body.layer3.6.conv1.weight" in self.tensors
        masks = any(name.startswith("mask_head.") for name in self.tensors)
        depth, task = "r101" if deep else "r50", "panoptic" if masks else "coco"
        return [f"detr_{depth}_{task}", f"detr_{depth}_dc5_{task}"]


def load(source: str) -> Weights:
    """Weights by path, https address or zoo name.

    Raises:
        UserError: no such thing, unreadable, of an unknown layout, or with a weight that its layout does not know.
    """
    if source in ZOO:
        return _from_file(fetch(ZOO[source].address), source, ZOO[source].experiment)
    if is_address(source):
        known = next((each.experiment for each in ZOO.values() if each.address == source), None)
        return _from_file(fetch(source), source, known)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, source)
    if not path.exists() and path.name == source and not path.suffix:
        near = difflib.get_close_matches(source.lower(), ZOO, 1)
        hint = f"did you mean {near[0]}?" if near else f"published weights are called {', '.join(ZOO)}"
        raise UserError(f"no checkpoint at {source}; {hint}")
    return _from_file(path, source, None)


def _from_file(path: Path, source: str, experiment: str | None) -> Weights:
    content = read_pickle(path)
    if is_checkpoint(content):
        return Weights(
            tensors=weights_to_evaluate(content),
            source=source,
            classes=Classes.from_dict(content["classes"]),
            checkpoint=content,
        )
    state = content.get("model", content)
    if not _is_state_dict(state) or not official.is_official(state):
        raise UserError(
            f"{source} is neither a checkpoint of this project nor one of the official DETR: "
            "it has neither config and classes nor class_embed and query_embed"
        )
    layout = official.layout_of(state)
    tensors = official.from_official(state, source)
    return Weights(
        tensors=tensors,
        source=source,
        classes=coco_classes(len(tensors["class_head.weight"]) - 1),
        experiment=experiment,
        name_in_file=lambda name: layout.theirs(name) or name,
    )


def _from_folder(folder: Path, source: str) -> Weights:
    if not (folder / hugging_face.CONFIG).is_file():
        run = folder / "checkpoints" / "best.pt"
        hint = f"; give {run}" if run.is_file() else ""
        raise UserError(f"{source} is a folder, but no Hugging Face model: it has no {hugging_face.CONFIG}{hint}")
    state, config = hugging_face.read_folder(folder)
    return Weights(
        tensors=hugging_face.from_hugging_face(state, source),
        source=source,
        classes=hugging_face.classes_of(config),
        name_in_file=lambda name: hugging_face.their_name(name, state),
    )


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(each, Tensor) for each in content.values())
