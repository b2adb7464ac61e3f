"""A written file against the model that it was made of, on images of several sizes and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detr.checking.settings import output_size
from detr.errors import UserError
from detr.evaluation.postprocess import ranked, to_pixels
from detr.exporting.program import CHOSEN, Precision, Wish, choosing
from detr.exporting.running import Arrays, Runner
from detr.exporting.source import Source
from detr.models.two_stage import TwoStageQueries
from detr.structures import Predictions

Size = tuple[int, int]  # (height, width)

PHOTO: Size = (480, 640)  # whose size after preprocessing is the largest that is tried
SCALES = (0.6, 0.35)  # of that size, for the others; the first of them is upright
SMALLEST = 48  # side in pixels
CORNERS: list[Size] = [(120, 180), (180, 120)]  # padding begins where pixels of levels do: rounding decides
TIE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.05}  # logits of tokens closer than that may come in any order


@dataclass(frozen=True)
class Differences:
    """Holds the largest differences between a file and its model; also how large they may be."""

    boxes: float  # pixels
    scores: float
    masks: float = 0.0  # of probabilities

    def largest(self, other: Differences) -> Differences:
        """Return the larger ones of two; what is not a number stays."""
        return Differences(*(float(np.maximum(a, b)) for a, b in zip(self.values, other.values, strict=True)))

    @property
    def values(self) -> list[float]:
        return [getattr(self, each.name) for each in fields(self)]

    def within(self, limits: Differences) -> bool:
        return all(value <= limit for value, limit in zip(self.values, limits.values, strict=True))

    def __str__(self) -> str:
        masks = f", masks by {self.masks:.2g}" if self.masks else ""
        return f"boxes differ by up to {self.boxes:.2g} pixels, scores by {self.scores:.2g}{masks}"


LIMITS: dict[Precision, Differences] = {"fp32": Differences(0.5, 1e-3, 1e-2), "fp16": Differences(0.5, 1e-3, 1e-2)}


def verify(source: Source, wish: Wish, runner: Runner) -> Differences:
    """Run a file and the model on the same images, and return the largest differences.

    Where the best tokens become queries, the model is given the tokens that the file chose, and it is checked that they
    are the best: two tokens that are equal but for rounding may come in any order, and everything after follows.

    Raises:
        UserError: they differ by more than `LIMITS`.
    """
    limits, worst = LIMITS[wish.precision], Differences(0.0, 0.0)
    for sizes in _cases(source):
        inputs = _inputs(sizes, source.model.backbone.size_divisor)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        found = runner(arrays)
        scores: list[Tensor] = []
        with choosing(source.model, lambda best, own: _forced(best, own, found, scores)), torch.inference_mode():  # noqa: B023
            predictions = source.model(inputs["images"], inputs["padding"])
        shown = " and ".join(f"{height} × {width}" for height, width in sizes)
        for own in scores:
            _check_choice(source, own, torch.from_numpy(found[CHOSEN]), TIE[wish.precision], shown)
        differences = _compare(source, wish, predictions, inputs["original_sizes"], found)
        if not differences.within(limits):
            raise UserError(f"the file does not answer as the model: {differences}, for images of {shown} pixels")
        worst = worst.largest(differences)
    return worst


def _cases(source: Source) -> list[list[Size]]:
    """Sizes of the images of each batch: three shapes, one image and two."""
    height, width = output_size(source.transform, PHOTO) or PHOTO
    (width_upright, height_upright), small = (
        (max(SMALLEST, int(height * scale)) | 1, max(SMALLEST, int(width * scale)) | 1) for scale in SCALES
    )
    upright = (height_upright, width_upright)
    return [
        [(height, width)],
        [upright],
        [upright, (upright[0] * 4 // 5, upright[1] * 2 // 3)],
        [small],
        [(small[0] * 3 // 4, small[1]), small],
        CORNERS,
    ]


def _inputs(sizes: Sequence[Size], divisor: int) -> dict[str, Tensor]:
    """A batch of pictures without a meaning: patches of colour, and grain."""
    generator = torch.Generator().manual_seed(len(sizes) + sum(map(sum, sizes)))
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for index, (h, w) in enumerate(sizes):
        patches = F.interpolate(torch.rand(1, 3, 7, 9, generator=generator), size=(h, w), mode="bicubic")[0]
        grain = torch.randn(3, h, w, generator=generator) / 12
        images[index, :, :h, :w] = ((patches + grain).clamp(0, 1) * 255).byte()
        padding[index, :h, :w] = False
    return {"images": images, "padding": padding, "original_sizes": torch.tensor(sizes)}


def _forced(best: Any, own: Tensor, found: Arrays, notes: list[Tensor]) -> Tensor:
    """The file's choice of tokens, where it tells."""
    if CHOSEN not in found:
        return best(own)
    notes.append(own)
    return torch.from_numpy(found[CHOSEN])


def _check_choice(source: Source, scores: Tensor, chosen: Tensor, tie: float, shown: str) -> None:
    """Raise UserError unless the tokens chosen [B, Q] are the best by scores [B, T], in order, but for ties.

    Of boxes that repeat one another it hangs on the last digit which ones do.
    """
    count = chosen.shape[1]
    found, best = scores.gather(1, chosen), scores.topk(count, dim=1).values
    wrong = (found < best[:, -1:] - tie).sum() + (found[:, 1:] > found[:, :-1] + tie).sum()
    wrong += sum(count - len(each.unique()) for each in chosen)
    distinct = isinstance(source.model.queries, TwoStageQueries) and source.model.queries.distinct is not None
    if wrong > (chosen.numel() // 100 if distinct else 0):
        raise UserError(
            f"the file does not answer as the model: {wrong} of {chosen.numel()} tokens are chosen otherwise, "
            f"for images of {shown} pixels"
        )


def _compare(
    source: Source, wish: Wish, predictions: Predictions, original_sizes: Tensor, found: Arrays
) -> Differences:
    logits = predictions.logits[-1].float()
    softmax = source.model.classification == "softmax"
    scores = logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()
    boxes = to_pixels(predictions.boxes[-1].float(), original_sizes)
    if wish.outputs == "logits":
        theirs = torch.from_numpy(found["logits"])
        rows = [torch.arange(logits.shape[1])] * len(logits)
        difference = Differences(
            _largest(to_pixels(torch.from_numpy(found["boxes"]), original_sizes) - boxes),
            _largest((theirs.softmax(-1)[..., :-1] if softmax else theirs.sigmoid()) - scores),
        )
    else:
        ranks = ranked(logits, source.model.classification, source.max_detections)[0]
        difference, rows = Differences(0.0, _largest(torch.from_numpy(found["scores"]) - ranks)), []
        for index in range(len(logits)):
            given = [found[name][index] for name in ("scores", "labels", "boxes")]
            row, each = _matched(scores[index].numpy(), boxes[index].numpy(), *given)
            rows.append(torch.from_numpy(row))
            difference = difference.largest(each)
    if predictions.masks is None:
        return difference
    for index, queries in enumerate(rows):
        mine = predictions.masks(torch.full_like(queries, index), queries).sigmoid()
        masks = _largest(torch.from_numpy(found["masks"][index]).sigmoid() - mine)
        difference = difference.largest(Differences(0.0, 0.0, masks))
    return difference


def _matched(
    scores: NDArray[Any], boxes: NDArray[Any], found: NDArray[Any], labels: NDArray[Any], places: NDArray[Any]
) -> tuple[NDArray[np.int64], Differences]:
    """Of one image, the queries [n] that detections of a file are of, and how much they differ.

    Each detection is matched with a query of its own among all that the model says of its label: which of two equal
    scores comes first, or last, is chance.

    Args:
        scores: [Q, K] of the model.
        boxes: [Q, 4] of the model, in pixels.
        found, labels, places: [n], [n], [n, 4] of the file.
    """
    limits, queries = LIMITS["fp32"], np.zeros(len(found), np.int64)
    by_score = np.abs(scores[:, labels].T - found[:, None])  # [n, Q]
    by_place = np.abs(boxes[None] - places[:, None]).max(-1)
    cost = np.nan_to_num(by_score / limits.scores + by_place / limits.boxes, nan=1e9, posinf=1e9)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        mine, theirs = linear_sum_assignment(cost[rows])
        queries[rows[mine]] = theirs
    every = np.arange(len(found))
    return queries, Differences(float(by_place[every, queries].max()), float(by_score[every, queries].max()))


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
