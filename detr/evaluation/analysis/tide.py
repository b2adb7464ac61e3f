"""Errors by kind, and what each kind costs: TIDE (Bolya et al. 2020, https://arxiv.org/abs/2008.08115).

What is a box's kind, and what mending it means, follows the authors' tidecv 1.0.1. What counts at all is COCO's: boxes
in crowds are no errors, 100 boxes of each class count in an image, and classes without objects have no AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detr.evaluation.analysis.matching import FOREGROUND, NONE, MatchedImage
from detr.evaluation.analysis.names import BACKGROUND, BOTH, CLASSIFICATION, DUPLICATE, KINDS, LOCALISATION, MISSED
from detr.evaluation.resampling import interpolated

ON_NOTHING = 0.1  # IoU up to which a box is on nothing


@dataclass(frozen=True)
class ImageErrors:
    """Holds what is wrong with the n boxes and m objects of an image."""

    image: MatchedImage
    kinds: NDArray[np.str_]  # [n] one of `KINDS`; "" of a right box and of one in a crowd
    meant: NDArray[np.int64]  # [n] the object that a misclassified or misplaced box meant; `NONE` of others
    mended: NDArray[np.bool_]  # [n] whether it would be right if its kind were mended: the best box of a free object
    missed: NDArray[np.bool_]  # [m] objects that no box finds, nor would if its class or place were mended

    def boxes_of(self, kind: str) -> NDArray[np.int64]:
        """Return which boxes have an error of a kind; of missed objects, which objects."""
        return np.flatnonzero(self.missed if kind == MISSED else self.kinds == kind)


@dataclass(frozen=True)
class Cost:
    """Holds what one kind of error comes to."""

    ap50: float  # by how much AP50 rises where this kind alone is mended; never negative
    count: int  # boxes, or missed objects


def find_errors(image: MatchedImage) -> ImageErrors:
    """Return what is wrong in one image.

    A box that is not right has the first kind that fits: localisation (IoU from 0.1 to 0.5 with an object of its
    class), classification (from 0.5 with one of another class), duplicate (from 0.5 with one of its class, which is
    taken), background (up to 0.1 with everything), both (all others: from 0.1 to 0.5 with one of another class).
    """
    kinds = np.full(len(image.boxes), "", dtype=f"<U{max(map(len, KINDS))}")
    meant = np.full(len(image.boxes), NONE, dtype=np.int64)
    mended = np.zeros(len(image.boxes), dtype=np.bool_)
    wrong = ~image.right & ~image.ignored
    taken = image.found_objects
    own = image.categories[:, None] == image.object_categories
    same, other = np.where(own, image.ious, 0.0), np.where(own, 0.0, image.ious)
    nearest, nearest_other = (each.max(axis=1, initial=0.0) for each in (same, other))
    nearest_taken = (same * taken).max(axis=1, initial=0.0)
    kinds[wrong] = BOTH
    kinds[wrong & (np.maximum(nearest, nearest_other) <= ON_NOTHING)] = BACKGROUND
    kinds[wrong & (nearest_taken >= FOREGROUND)] = DUPLICATE
    kinds[wrong & (nearest_other >= FOREGROUND)] = CLASSIFICATION
    kinds[wrong & (nearest >= ON_NOTHING) & (nearest <= FOREGROUND)] = LOCALISATION
    covered = taken.copy()
    for kind, ious in ((LOCALISATION, same), (CLASSIFICATION, other)):
        of_kind = kinds == kind
        meant[of_kind] = ious[of_kind].argmax(axis=1) if of_kind.any() else NONE
    for box in np.flatnonzero(meant != NONE).tolist():  # the best first; both kinds compete for an object
        if not covered[meant[box]]:
            mended[box] = covered[meant[box]] = True
    return ImageErrors(image, kinds, meant, mended, ~covered)


def costs(errors: Sequence[ImageErrors]) -> tuple[float | None, dict[str, Cost]]:
    """Return AP50 of a split, and what each kind of error costs of it; None and nothing where there are no objects."""
    boxes = _Boxes.of(errors)
    objects = _counted([each.image.object_categories for each in errors])
    base = _mean_ap(boxes, objects, objects)
    if base is None:
        return None, {}
    found = {}
    for kind in KINDS:
        if kind == MISSED:
            count = sum(int(each.missed.sum()) for each in errors)
            missed = _counted([each.image.object_categories[each.missed] for each in errors])
            left = {category: number - missed.get(category, 0) for category, number in objects.items()}
            better = _mean_ap(boxes, left, objects)
        else:
            count = int((boxes.kinds == kind).sum())
            better = _mean_ap(boxes.with_mended(kind), objects, objects)
        found[kind] = Cost(max(0.0, (base if better is None else better) - base), count)
    return base, found


@dataclass(frozen=True)
class _Boxes:
    """The N boxes of all images that count, in the order of images and falling scores."""

    scores: NDArray[np.float64]
    categories: NDArray[np.int64]
    right: NDArray[np.bool_]
    kinds: NDArray[np.str_]
    meant: NDArray[np.int64]  # [N] category of the object that was meant
    mended: NDArray[np.bool_]

    @classmethod
    def of(cls, errors: Sequence[ImageErrors]) -> _Boxes:
        counted = [~each.image.ignored for each in errors]
        meant = [np.append(each.image.object_categories, 0)[each.meant] for each in errors]
        columns = (
            [each.image.scores for each in errors],
            [each.image.categories for each in errors],
            [each.image.right for each in errors],
            [each.kinds for each in errors],
            meant,
            [each.mended for each in errors],
        )
        return cls(*(np.concatenate([a[b] for a, b in zip(column, counted, strict=True)]) for column in columns))

    def with_mended(self, kind: str) -> _Boxes:
        """What they would be: one box for each object that was meant is right, all others of the kind are gone."""
        of_kind = self.kinds == kind
        mended = of_kind & self.mended
        categories = np.where(mended, self.meant, self.categories)
        whole = _Boxes(self.scores, categories, self.right | mended, self.kinds, self.meant, self.mended)
        return _Boxes(*(column[~of_kind | mended] for column in vars(whole).values()))


def _counted(categories: Sequence[NDArray[np.int64]]) -> dict[int, int]:
    values, counts = np.unique(np.concatenate(categories) if categories else [], return_counts=True)
    return dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))


def _mean_ap(boxes: _Boxes, left: dict[int, int], objects: dict[int, int]) -> float | None:
    """Over the classes that have objects, of which `left` are to be found.

    A class without any left, and without boxes, is nothing to be measured; with boxes its AP is 0, as tidecv has it.
    """
    found = []
    for category in objects:
        own = boxes.categories == category
        if left[category] or own.any():
            found.append(average_precision(boxes.scores[own], boxes.right[own], left[category]))
    return float(np.mean(found)) if found else None


def average_precision(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> float:
    """Return COCO's average precision of boxes [n] of one class at one IoU; 0 without objects."""
    if not objects:
        return 0.0
    places = np.flatnonzero(right[np.argsort(-scores, kind="stable")])
    true = np.arange(1, len(places) + 1)
    return float(interpolated(true[None], places[None] + 1, np.array([objects]))[0])
