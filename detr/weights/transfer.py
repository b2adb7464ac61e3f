"""Starting a new training from other weights: what fits is loaded, what can be adapted is, the rest is said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from detr.models.backbones.windowed import WindowedViT
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.sources import Weights, load_strictly

CLASS_HEAD = re.compile(r"(?:.+\.)?class_head\.(?:\d+\.)?(?:weight|bias)")
# Rows are alike.
TABLES = re.compile(r"queries\.(?:embedding|content|anchors|corrections)\.weight|neck\.position_embedding\..+")
GRID = "backbone.pos_embed"  # of vision transformers
# A model may begin to have these, or give them up.
OPTIONAL = ("neck.position_embedding.", "mask_head.", "denoising.", "queries.further_heads.")

SHOWN = 12  # class names in a report


@dataclass
class Transfer:
    """Holds what became of the weights."""

    source: str
    loaded: int = 0  # tensors, as they are
    adapted: list[str] = field(default_factory=list)
    initialized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return lines for people: how many were loaded, and one line for each exception."""
        kinds = {"adapted": self.adapted, "initialized": self.initialized, "skipped": self.skipped}
        return [
            f"init_from={self.source}: {self.loaded} weights loaded as they are",
            *(f"  {kind}: {each}" for kind, items in kinds.items() for each in items),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for a run's record."""
        return {
            "source": self.source,
            "loaded": self.loaded,
            "adapted": self.adapted,
            "initialized": self.initialized,
            "skipped": self.skipped,
        }


def start_from(model: DETR, weights: Weights, classes: Classes) -> Transfer:
    """Load weights into a model for other classes, queries or positions than they were trained for.

    Rows of the class head are carried over by class name; where the source has no names, they are taken as they
    are if there are as many. Tables of queries and learned positions keep the first rows. Learned positions, a
    mask head and denoising may come or go. Everything else has to fit.

    Args:
        classes: that the model is for.

    Raises:
        UserError: weights of another architecture.
    """
    fresh = model.state_dict()
    transfer = Transfer(weights.source)
    tensors = _without_what_is_gone(weights.tensors, fresh, transfer)
    tensors |= _with_what_is_new(tensors, fresh, transfer)
    given = replace(weights, tensors=tensors)
    tensors = tensors | _adapted_class_heads(given, fresh, model.classification == "softmax", classes, transfer)
    tensors |= _adapted_tables(tensors, fresh, transfer)
    tensors |= _adapted_grid(model, tensors, transfer)
    tensors |= _fresh_embeddings(tensors, fresh, transfer)
    load_strictly(model, replace(weights, tensors=tensors, classification=None))
    transfer.loaded = sum(name in weights.tensors and tensors[name] is weights.tensors[name] for name in tensors)
    return transfer


def _without_what_is_gone(
    tensors: dict[str, Tensor], fresh: dict[str, Tensor], transfer: Transfer
) -> dict[str, Tensor]:
    gone = [name for name in tensors if name not in fresh and name.startswith(OPTIONAL)]
    transfer.skipped += [f"{part}, which the model does not have" for part in _parts(gone)]
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def _with_what_is_new(tensors: dict[str, Tensor], fresh: dict[str, Tensor], transfer: Transfer) -> dict[str, Tensor]:
    new = [name for name in fresh if name not in tensors and name.startswith(OPTIONAL)]
    transfer.initialized += [f"{part}, which the weights do not have" for part in _parts(new)]
    return {name: fresh[name] for name in new}


def _adapted_tables(tensors: dict[str, Tensor], fresh: dict[str, Tensor], transfer: Transfer) -> dict[str, Tensor]:
    """Tables with another number of rows: the first ones of theirs, further ones as the model had them."""
    adapted = {}
    for name, tensor in tensors.items():
        own = fresh.get(name)
        if own is None or not TABLES.fullmatch(name) or own.shape == tensor.shape or own.shape[1:] != tensor.shape[1:]:
            continue
        rows = min(len(own), len(tensor))
        adapted[name] = own.clone()
        adapted[name][:rows] = tensor[:rows]
        transfer.adapted.append(f"{name}: the first {rows} of {len(tensor)} rows")
        if rows < len(own):
            transfer.initialized.append(f"{name}: {len(own) - rows} further rows")
    return adapted


def _adapted_grid(model: DETR, tensors: dict[str, Tensor], transfer: Transfer) -> dict[str, Tensor]:
    """A vision transformer's table of positions, interpolated for as many rows and columns as the model has."""
    table, backbone = tensors.get(GRID), model.backbone
    if table is None or not isinstance(backbone, WindowedViT) or table.shape[1] == backbone.pos_embed.shape[1]:
        return {}
    adapted = backbone.own_table(table)
    if adapted.shape == table.shape:  # not a square
        return {}
    sides = [round((each.shape[1] - 1) ** 0.5) for each in (table, adapted)]
    transfer.adapted.append(f"{GRID}: interpolated from {sides[0]} × {sides[0]} to {sides[1]} × {sides[1]}")
    return {GRID: adapted}


def _fresh_embeddings(tensors: dict[str, Tensor], fresh: dict[str, Tensor], transfer: Transfer) -> dict[str, Tensor]:
    """What denoising queries know of the classes, if there are as many others: as the model had it."""
    names = [name for name in tensors if name.startswith("denoising.") and tensors[name].shape != fresh[name].shape]
    transfer.initialized += [f"{name}, which is for other classes" for name in names]
    return {name: fresh[name] for name in names}


def _adapted_class_heads(
    weights: Weights, fresh: dict[str, Tensor], softmax: bool, classes: Classes, transfer: Transfer
) -> dict[str, Tensor]:
    """Class heads with their rows where the model's classes are, and the rest as the model had it."""
    heads = [name for name in fresh if CLASS_HEAD.fullmatch(name) and name in weights.tensors]
    heads = [name for name in heads if weights.tensors[name].shape[1:] == fresh[name].shape[1:]]
    heads = [
        name for name in heads if len(weights.tensors[name]) == weights.num_logits
    ]  # not of no class in particular
    rows = _rows(weights, softmax, classes, transfer) if heads else None
    if rows is None:
        return {}
    adapted = {}
    for name in heads:
        adapted[name] = fresh[name].clone()
        for theirs, ours in rows:
            adapted[name][ours] = weights.tensors[name][theirs]
    return adapted


def _rows(weights: Weights, softmax: bool, classes: Classes, transfer: Transfer) -> list[tuple[int, int]] | None:
    """Pairs of a row of theirs and a row of ours; None: all rows stay where they are."""
    logits, num_classes = weights.num_logits, classes.num_classes
    theirs = weights.classes
    if weights.classification == "softmax" and not softmax:
        transfer.initialized.append("class_head, which is for softmax in the weights")
        return []
    if theirs is None:
        if logits == num_classes + softmax:
            transfer.adapted.append("class_head: the weights do not name classes; row by row, as they are")
            return None
        transfer.initialized.append(f"class_head: the weights do not name classes; rows of all {num_classes} classes")
        return [(-1, -1)] if softmax else []
    if logits != theirs.num_classes + softmax:  # softmax's and sigmoid's logits do not mean the same
        transfer.initialized.append(f"class_head, which is for {'sigmoid' if softmax else 'softmax'} in the weights")
        return []
    if theirs.names == classes.names:
        return None
    return _rows_by_name(theirs, classes, softmax, transfer)


def _rows_by_name(theirs: Classes, ours: Classes, softmax: bool, transfer: Transfer) -> list[tuple[int, int]]:
    """Case does not count; no-object is the last row."""
    known = {name.casefold(): row for row, name in reversed(list(enumerate(theirs.names))) if name != Classes.HOLE}
    found = {row: known[name.casefold()] for row, name in enumerate(ours.names) if name.casefold() in known}
    wanted = [row for row, name in enumerate(ours.names) if name != Classes.HOLE]
    if found:
        names = _listed(ours.names[row] for row in found)
        transfer.adapted.append(f"class_head: rows of {len(found)} of {len(wanted)} classes by name ({names})")
    if softmax:
        transfer.adapted.append("class_head: the row of no-object")
    if new := [row for row in wanted if row not in found]:
        names = _listed(ours.names[row] for row in new)
        transfer.initialized.append(f"class_head: rows of {len(new)} of {len(wanted)} classes ({names})")
    return [(row_there, row) for row, row_there in found.items()] + ([(-1, -1)] if softmax else [])


def _listed(names: Iterable[str]) -> str:
    items = list(names)
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _parts(names: list[str]) -> list[str]:
    """Names by the part of the model that they belong to, with their number."""
    counts = Counter(next(part for part in OPTIONAL if name.startswith(part)).rstrip(".") for name in names)
    return [f"{part} ({count} weights)" for part, count in counts.items()]
