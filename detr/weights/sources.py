"""Weights from wherever they are: a checkpoint of ours, an official file, a Hugging Face folder, the zoo.

Whatever names a file has, weights have ours once they are here.
"""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from detr.data.coco_categories import THINGS, coco_classes
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Classes, Classification
from detr.texts import pasted
from detr.weights import hugging_face, official
from detr.weights.authors import Layout, detectors_of, layout_of
from detr.weights.authors import classes_of as authors_classes
from detr.weights.checkpoint import Checkpoint, load_weights, read_pickle
from detr.weights.hugging_face import FAMILIES, classes_of
from detr.weights.layouts import detr
from detr.weights.zoo import ZOO, HubFolder, OfficialFile, detector_of, fetch, fetch_folder, is_address, official_files

HEADS = 8  # of all published models
# Of the weights in a file, the first that is there: moving averages, which authors evaluate, before others.
PLACES = ("ema", "model_ema", "ema_model", "model", "state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Weights:
    """Holds the weights of a detector, and what their source says about them."""

    tensors: dict[str, Tensor]  # under our names
    source: str  # as the user gave it
    classes: Classes | None = None  # None: the source does not tell
    classification: Classification | None = None  # what class logits mean; None: the number of logits tells
    checkpoint: Checkpoint | None = None  # None: not one of ours
    config: tuple[str, ...] = ()  # overrides of the config that they belong to; none: the source does not tell
    detectors: tuple[str, ...] = ()  # that they may be of, where names and shapes leave several
    num_heads: int | None = None  # of attention, which names and shapes do not show; None: the source does not tell
    name_in_file: Callable[[str], str] = str  # our name → the file's

    @property
    def num_logits(self) -> int:
        """Return K of the class head."""
        heads = ("class_head.weight", "class_head.0.weight")  # one for all decoder layers, or one for each
        return next((len(self.tensors[name]) for name in heads if name in self.tensors), 0)

    def likely_configs(self) -> list[str]:
        """Return overrides of configs that the weights may belong to, one each."""
        if self.config or self.detectors:
            return list(self.config[:1]) or [f"detector={name}" for name in self.detectors]
        return [f"experiment={name}" for name in self.likely_experiments()]

    def likely_experiments(self) -> list[str]:
        """Return those that DETR's weights may have been trained with; names and shapes do not tell if it was DC5."""
        depth = "r101" if "backbone.body.layer3.6.conv1.weight" in self.tensors else "r50"
        task = "panoptic" if any(name.startswith("mask_head.") for name in self.tensors) else "coco"
        names = (f"detr_{depth}_{task}", f"detr_{depth}_dc5_{task}")
        return [each.experiment for each in official_files() if each.experiment in names]


def load_strictly(model: DETR, weights: Weights) -> None:
    """Load where every name, shape and the number of attention heads fit, and every value is finite.

    Raises:
        UserError: with a report of what differs, in the names of the weights' own file.
    """
    if weights.classification not in (None, model.classification):
        raise UserError(
            f"the class logits of {weights.source} are for {weights.classification}, those of this detector for "
            f"{model.classification}: use loss=detr, or train with {pasted(init_from=weights.source)}"
        )
    heads = next(each.num_heads for each in model.decoder.modules() if hasattr(each, "num_heads"))
    if weights.num_heads not in (None, heads):
        raise UserError(
            f"the weights of {weights.source} do not fit the model: transformer.num_heads is {weights.num_heads} in it "
            f"and {heads} here"
        )
    likely = " or ".join(weights.likely_configs()) if weights.checkpoint is None else ""
    advice = f"they are of {likely}" if likely else "use the config it had"
    load_weights(model, weights.tensors, weights.source, name_in_file=weights.name_in_file, advice=advice)


def load(source: str) -> Weights:
    """Load weights by path, https address or zoo name.

    Raises:
        UserError: no such thing, unreadable, of an unknown layout, or with a weight that its layout does not know.
    """
    if not source:  # `checkpoint=null` and `checkpoint=` on a command line
        raise UserError("expected a checkpoint's path, an https address or the name of published weights, got nothing")
    published = ZOO.get(source)
    if isinstance(published, HubFolder):
        weights = _from_folder(fetch_folder(published.repository), source)
        return replace(weights, config=_on_coco(detector_of(source), weights.classes))
    if isinstance(published, OfficialFile):
        return _from_file(fetch(published.address), source, published.experiment)
    if is_address(source):
        known = next((each.experiment for each in official_files() if each.address == source), None)
        return _from_file(fetch(source), source, known)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, source)
    if not path.exists() and path.name == source and not path.suffix:
        near = difflib.get_close_matches(source.lower(), ZOO, 1)
        hint = f"did you mean {near[0]}?" if near else f"published weights are called {', '.join(ZOO)}"
        raise UserError(f"no checkpoint at {source}; {hint}")
    return _from_file(path, source)


def _from_file(path: Path, source: str, experiment: str | None = None) -> Weights:
    content = read_pickle(path)
    checkpoint = Checkpoint.from_dict(content, source)
    if checkpoint is not None:
        return Weights(
            tensors=checkpoint.weights,
            source=source,
            classes=checkpoint.recipe.classes,
            checkpoint=checkpoint,
            num_heads=_integer(checkpoint.recipe.config["transformer"], "num_heads"),
        )
    wrapped = _state_dict(content)
    prefix = _prefix(wrapped)
    state = {name.removeprefix(prefix): tensor for name, tensor in wrapped.items()}
    if (authors := layout_of(state)) is not None:
        return _of_authors(authors, state, source, _arguments(content))
    if not official.is_official(state):
        raise UserError(
            f"{source} is neither a checkpoint of this project nor one of the official DETR: it has neither config and "
            f"classes nor class_embed and query_embed, but {_listed(wrapped or content)}"
        )
    layout = official.layout_of(state)
    tensors = official.from_official(state, source)
    return Weights(
        tensors=tensors,
        source=source,
        classes=coco_classes(len(tensors["class_head.weight"]) - 1),
        config=() if experiment is None else (f"experiment={experiment}",),
        classification="softmax",
        num_heads=HEADS if experiment is not None else _integer(_arguments(content), "nheads"),
        name_in_file=lambda name: prefix + (layout.theirs(name) or name),
    )


def _of_authors(layout: Layout, state: Mapping[str, Tensor], source: str, arguments: Mapping[str, Any]) -> Weights:
    """Weights of a file of the authors of RT-DETR, D-FINE, DEIM, LW-DETR or RF-DETR, with its command line."""
    tensors = layout.to_ours(state, source)
    heads = _integer(arguments, "sa_nheads")
    weights = Weights(tensors=tensors, source=source, classification="sigmoid", num_heads=heads)
    classes = authors_classes(weights.num_logits, arguments.get("class_names"))
    detectors = detectors_of(layout, tensors, state)
    config = _on_coco(detectors[0], classes) if len(detectors) == 1 else ()
    return replace(weights, classes=classes, detectors=detectors, config=config)


def _from_folder(folder: Path, source: str) -> Weights:
    if not (folder / hugging_face.CONFIG).is_file():
        run = folder / "checkpoints" / "best.pt"
        hint = f"; give {run}" if run.is_file() else ""
        raise UserError(f"{source} is a folder, but not a Hugging Face model: it has no {hugging_face.CONFIG}{hint}")
    state, config = hugging_face.read_folder(folder)
    family, classes = FAMILIES[config["model_type"]], classes_of(config)
    detector = family.layout.detector_of(config)
    weights = Weights(
        tensors=family.layout.to_ours(state, source),
        source=source,
        classes=classes,
        classification=family.classification,
        num_heads=_integer(config, "encoder_attention_heads"),
        config=() if detector is None else _on_coco(detector, classes),
    )
    if family.module != "detr":
        return weights
    dilated = config.get("dilation")  # what names and shapes do not tell; the files of the published models say it
    likely = [each for each in weights.likely_experiments() if ("_dc5_" in each) == dilated]
    known = (f"experiment={likely[0]}",) if likely and isinstance(dilated, bool) else ()
    return replace(weights, config=known, name_in_file=lambda name: detr.their_name(name, state))


def _on_coco(detector: str, classes: Classes | None) -> tuple[str, ...]:
    """The config of a detector that was trained on COCO, with 80 classes or with 91."""
    contiguous = classes is not None and classes.num_classes == len(THINGS)
    return (f"detector={detector}", "dataset=coco", *(["dataset.categories=contiguous"] if contiguous else []))


def _arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The command line of a training, which main.py and others leave in their checkpoints."""
    arguments = content.get("args")
    if isinstance(arguments, Namespace | SimpleNamespace):
        return vars(arguments)
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def _integer(settings: Any, key: str) -> int | None:
    value = settings.get(key) if isinstance(settings, Mapping) else None
    return value if isinstance(value, int) else None


def _state_dict(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights in a file, wherever training scripts keep them; nothing where there are none."""
    for place in (*(content.get(key) for key in PLACES), content):
        inside = place.get("module", place) if isinstance(place, Mapping) else None
        if isinstance(inside, Mapping) and _is_state_dict(inside):
            return inside
    return {}


def _prefix(names: Iterable[str]) -> str:
    """What DDP, torch.compile and Lightning put before every name."""
    prefix, rest = "", list(names)
    while found := next((each for each in PREFIXES if rest and all(name.startswith(each) for name in rest)), None):
        prefix, rest = prefix + found, [name.removeprefix(found) for name in rest]
    return prefix


def _listed(names: Iterable[str]) -> str:
    first, *others = list(names) or ["nothing"]
    return f"{first} and {len(others)} more" if others else first


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
