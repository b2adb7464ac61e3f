"""Files of the authors of today's families, which are told by names of weights: there is no config beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

from torch import Tensor

from detr.data.coco_categories import THINGS
from detr.structures import Classes
from detr.weights.layouts import d_fine, lw_detr, rf_detr, rt_detr


class Layout(Protocol):
    """Describes what a module of `detr.weights.layouts` has whose authors publish files."""

    MARKS: tuple[str, ...]
    FAMILY: str

    def to_ours(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]: ...

    def detectors_in(self, state: Mapping[str, Tensor]) -> list[str]: ...


LAYOUTS = tuple(cast("Layout", each) for each in (rt_detr, d_fine, lw_detr, rf_detr))


def layout_of(names: Collection[str]) -> Layout | None:
    """Return the layout of a file with these names of weights; None: it is none of these authors'."""
    return next((each for each in LAYOUTS if set(each.MARKS) <= set(names)), None)


def detectors_of(layout: Layout, ours: Mapping[str, Tensor], theirs: Collection[str]) -> tuple[str, ...]:
    """Return which detectors a file may be of, by its weights under our names and by all names in it."""
    found = layout.detectors_in(ours)
    second = layout.FAMILY == rt_detr.FAMILY and any(name.endswith(rt_detr.SCALES) for name in theirs)
    return tuple(name.replace("rt_detr_", "rt_detr_v2_") if second else name for name in found)


def classes_of(num_logits: int, names: Any = None) -> Classes | None:
    """Return COCO's 80 or 91 classes for as many sigmoids; None: the file does not tell which they are.

    Args:
        num_logits: how many sigmoids there are.
        names: of classes, as RF-DETR's files have them: one fewer than sigmoids, of which the last is no class's.
    """
    if isinstance(names, list) and len(names) == num_logits - 1 and all(isinstance(each, str) for each in names):
        return Classes.contiguous(dict(enumerate([*names, Classes.HOLE])))
    both = (Classes.contiguous(THINGS), Classes.identity(THINGS))
    return next((each for each in both if each.num_classes == num_logits), None)
