"""Average precision on resampled images: match once, then weigh images as often as one likes.

Whether a detection matches does not depend on other images, so that a resample with replacement is nothing but a
weight for each image: how often it was drawn. The numbers are those of COCO's evaluation of a data set in which the
drawn images are repeated under ids of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.evaluation.backends import GroundTruth

RESAMPLES, FEWEST = 400, 100  # for an interval of one run's metrics; of a large split, which varies less, fewer
LARGE = 1000  # images
MAX_WEIGHTS = 20_000_000  # of resamples × detections in memory at a time
RECALLS = np.linspace(0.0, 1.0, 101)  # where precision is read off, as COCOeval has them
NUM_THRESHOLDS = 10
THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of 0.5, 0.55 … 0.95


@dataclass(frozen=True)
class Matched:
    """Holds the detections of one category on all I images, best first; T IoU thresholds."""

    image: NDArray[np.int64]  # [n] index of the image
    matched: NDArray[np.bool_]  # [T, n]
    ignored: NDArray[np.bool_]  # [T, n] neither right nor wrong: matched to a crowd
    objects: NDArray[np.int64]  # [I] ground truth to be found in each image


def match(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[Matched]:
    """Match boxes to the ground truth as COCO does, category by category; images are numbered by their id's rank.

    Args:
        truth: a COCO dictionary of a split, all of whose images were looked at.
        results: in COCO's results format, as in predictions.json; of its images and categories.
    """
    found = GroundTruth(truth, "hotcoco").matches(
        [row["image_id"] for row in results],
        [row["category_id"] for row in results],
        np.array([row["bbox"] for row in results], dtype=np.float64).reshape(-1, 4),
        np.array([row["score"] for row in results], dtype=np.float64),
    )
    return [_sorted(each, len(truth["images"])) for each in found]


def average_precision(matched: Sequence[Matched], weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return AP, AP50 and AP75, each [R], of R resamples: `weights` [R, I] say how often each image was drawn.

    NaN where no object was drawn.
    """
    largest = max((len(each.image) for each in matched), default=0)
    step = max(1, MAX_WEIGHTS // max(1, largest))
    chunks = [_of_chunk(matched, weights[start : start + step]) for start in range(0, len(weights), step)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in THRESHOLDS}


def draw(images: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """Return [R, I] how often each image is drawn when as many are drawn with replacement as there are."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def intervals(truth: dict[str, Any], results: Iterable[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return where AP, AP50 and AP75 lie in 95 % of resamples of the images: metric → (low, high).

    Arguments as for `match`. Without an object there is nothing to measure, and nothing comes back.
    """
    categories, images = ({each["id"] for each in truth[name]} for name in ("categories", "images"))
    known = [row for row in results if row["category_id"] in categories and row["image_id"] in images]
    if not categories or not images:
        return {}
    resamples = max(FEWEST, RESAMPLES * LARGE // max(LARGE, len(images)))
    resampled = average_precision(match(truth, known), draw(len(images), resamples))
    found = {}
    for name, values in resampled.items():
        drawn = values[~np.isnan(values)]
        if len(drawn):
            low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
            found[name] = (low, high)
    return found


def _sorted(found: Sequence[dict[str, Any]], images: int) -> Matched:
    """One category's images joined, detections by falling score; equal ones stay in the order of the images."""
    objects = np.zeros(images, dtype=np.int64)
    for each in found:
        objects[each["image"]] = each["objects"]
    scores = np.concatenate([np.zeros(0), *(each["scores"] for each in found)])
    order = np.argsort(-scores, kind="stable")
    owners = [np.full(len(each["scores"]), each["image"], dtype=np.int64) for each in found]
    nothing = np.zeros((NUM_THRESHOLDS, 0), dtype=np.bool_)
    return Matched(
        image=np.concatenate([np.zeros(0, dtype=np.int64), *owners])[order],
        matched=np.concatenate([nothing, *(each["matched"] for each in found)], axis=1)[:, order],
        ignored=np.concatenate([nothing, *(each["ignored"] for each in found)], axis=1)[:, order],
        objects=objects,
    )


def _of_chunk(matched: Sequence[Matched], weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    by_category = np.stack([_category(each, weights) for each in matched])  # [K, T, R]
    defined = ~np.isnan(by_category)
    numbers = {}
    for name, chosen in THRESHOLDS.items():
        count = defined[:, chosen].sum(axis=(0, 1))
        total = np.where(defined[:, chosen], by_category[:, chosen], 0).sum(axis=(0, 1))
        numbers[name] = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return numbers


def _category(found: Matched, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """[T, R] the average precision of one category."""
    objects = weights @ found.objects  # [R]
    drawn = weights[:, found.image].astype(np.int32)  # [R, n]
    seen = drawn.cumsum(axis=1)
    precision = np.full((len(found.matched), len(weights)), np.nan)
    for threshold, (matched, ignored) in enumerate(zip(found.matched, found.ignored, strict=True)):
        right = np.flatnonzero(matched & ~ignored)
        true = drawn[:, right].cumsum(axis=1)
        counted = seen[:, right]
        if ignored.any():
            counted = counted - (drawn * ignored).cumsum(axis=1)[:, right]
        precision[threshold] = interpolated(true, counted, objects)
    precision[:, objects == 0] = np.nan
    return precision


def interpolated(
    true: NDArray[np.integer], counted: NDArray[np.integer], objects: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return [R] the mean over `RECALLS` of the best precision at that recall or beyond.

    Only true positives [R, n] matter: at them recall rises, and precision has its maxima. `counted` [R, n] are the
    detections up to each of them, itself included.
    """
    if not true.shape[1]:
        return np.zeros(len(true))
    precision = np.divide(true, counted, out=np.zeros(true.shape), where=counted > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(1, objects)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")  # how many of the recalls are reached by then
    newly = np.diff(reached, axis=1, prepend=0)
    return (newly * envelope).sum(axis=1) / len(RECALLS)
