"""Likely label errors: where a trained detector is sure of something else than the annotations say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou, nms

from detr.checking.finding import Finding, Kind, Place
from detr.checking.records import Records

MISSING = Kind(
    "label-missing",
    "hint",
    "objects that a detector finds and nobody annotated",
    "look at the sheet, and annotate them",
)
WRONG_CLASS = Kind(
    "label-wrong-class",
    "hint",
    "objects that a detector takes for another class",
    "look at the sheet, and correct them",
)
PHANTOM = Kind(
    "label-phantom",
    "hint",
    "annotations where a detector finds nothing",
    "look at the sheet, and remove what is not there",
)
MISPLACED = Kind(
    "label-misplaced", "hint", "annotations whose box a detector draws elsewhere", "look at the sheet, and move them"
)

NOTHING_THERE = 0.3  # IoU below which two boxes are of two things
SAME_PLACE = 0.6  # IoU from which they are of one thing, drawn in the same place
WELL_DRAWN = 0.7  # IoU from which a detector does not disagree about the place
USUAL = 0.25  # quantile of the scores that a class's objects get, as what a detector gives to a real one
SURE = 0.5  # how sure a detector has to be


@dataclass(frozen=True)
class Detected:
    """Holds what a detector found in one image."""

    boxes: NDArray[np.float64]  # [n, 4] xywh in pixels
    scores: NDArray[np.float64]  # [n]
    categories: NDArray[np.int64]  # [n] ids of the data set


def label_findings(records: Records, detected: Sequence[Detected]) -> Iterator[Finding]:
    """Yield likely label errors of a split, a finding for each kind, the surest first.

    Args:
        records: the annotations.
        detected: [I] what was found in each image.
    """
    overlaps = [_overlaps(records, index, each) for index, each in enumerate(detected)]
    seen = np.zeros(len(records.boxes))  # the best score of anything at the place of each annotation
    for index, each in enumerate(detected):
        near = overlaps[index] >= NOTHING_THERE
        seen[records.rows_of(index)] = (near * each.scores).max(axis=1, initial=0)
    usual = {
        number: float(np.quantile(seen[rows], USUAL))
        for number in np.unique(records.category_ids).tolist()
        if (rows := records.usable & (records.category_ids == number)).any()
    }
    places: dict[Kind, list[Place]] = {kind: [] for kind in (MISSING, WRONG_CLASS, PHANTOM, MISPLACED)}
    for index, each in enumerate(detected):
        places[MISSING] += _missing(records, index, each, overlaps[index])
        for row, overlap in zip(records.rows_of(index).tolist(), overlaps[index], strict=True):
            if records.usable[row]:
                unusual = usual[int(records.category_ids[row])] - float(seen[row])
                kind, place = _judge(records, row, each, overlap, unusual)
                if kind is not None:
                    places[kind].append(place)
    for kind, found in places.items():
        sure = [place for place in found if (place.score or 0) >= SURE]
        yield from kind.found(records.split, sorted(sure, key=lambda place: -(place.score or 0)))


def _overlaps(records: Records, index: int, each: Detected) -> NDArray[np.float64]:
    """[T, n] IoU of the annotations of an image with what was found."""
    truth = torch.from_numpy(records.corners[records.rows_of(index)])
    return box_iou(truth, torch.from_numpy(_corners(each.boxes))).numpy()


def _missing(records: Records, index: int, each: Detected, overlaps: NDArray[np.float64]) -> Iterator[Place]:
    """What is found where no annotation is, crowds included; each thing once."""
    alone = np.flatnonzero((overlaps.max(axis=0, initial=0) < NOTHING_THERE) & (each.scores >= SURE))
    boxes, scores = torch.from_numpy(_corners(each.boxes[alone])), torch.from_numpy(each.scores[alone])
    for number in alone[nms(boxes, scores, 1 - SAME_PLACE).numpy()].tolist():
        name = records.categories.get(int(each.categories[number]), "?")
        words = f'"{name}", box {_shown(each.boxes[number])}, score {each.scores[number]:.2f}'
        place = records.image(index, words)
        yield replace(place, box=tuple(each.boxes[number].tolist()), score=float(each.scores[number]))


def _judge(
    records: Records, row: int, each: Detected, overlap: NDArray[np.float64], unusual: float
) -> tuple[Kind | None, Place]:
    """Of which kind of error an annotation most likely is, and how surely; `overlap`: [n] with what was found.

    `unusual`: by how much the best score here is below what is usual for the class.
    """
    own = each.categories == records.category_ids[row]
    rival = (each.scores * (~own & (overlap >= SAME_PLACE))).max(initial=0)
    agrees = (each.scores * (own & (overlap >= SAME_PLACE))).max(initial=0)
    shift = each.scores * own * (overlap >= NOTHING_THERE / 2) * np.clip(2 * (WELL_DRAWN - overlap), 0, 1)
    doubts = {
        WRONG_CLASS: float(rival - agrees),
        MISPLACED: float(shift.max(initial=0) - agrees),
        PHANTOM: unusual,
    }
    kind = max(doubts, key=lambda each: doubts[each])
    if doubts[kind] <= 0:
        return None, records.annotation(row)
    name = records.categories[int(records.category_ids[row])]
    words = f'"{name}", box {_shown(records.boxes[row])}'
    best = None
    if kind is WRONG_CLASS:
        best = int(np.argmax(each.scores * (~own & (overlap >= SAME_PLACE))))
        words += f', found as "{records.categories.get(int(each.categories[best]), "?")}" with {each.scores[best]:.2f}'
    elif kind is MISPLACED:
        best = int(np.argmax(shift))
        words += f", found at {_shown(each.boxes[best])} with {each.scores[best]:.2f}"
    box = records.boxes[row] if best is None else each.boxes[best]
    return kind, replace(records.annotation(row, words), box=tuple(box.tolist()), score=doubts[kind])


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _shown(box: NDArray[np.float64]) -> str:
    return f"[{', '.join(f'{value:.0f}' for value in box)}]"
