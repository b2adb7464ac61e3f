"""Splits beside each other: overlapping, or drawn from something else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detr.checking.classes import compare_classes
from detr.checking.finding import MAX_PLACES, Finding, Kind, Place
from detr.checking.records import Records

SHARED = Kind(
    "shared-images",
    "damage",
    "images that are trained on and evaluated on: the metrics say little about new images",
    "remove them from one of the splits; fix=true removes them from train",
)
TWICE = Kind(
    "image-listed-twice",
    "damage",
    "files that are listed under several ids: the objects of one are background for the other",
    "merge the entries; fix=true does",
)
NO_OBJECTS = Kind(
    "no-objects",
    "error",
    "no object to learn from in the whole split",
    "add objects; are all of them crowds, or all boxes without area?",
)
NOT_ANNOTATED = Kind(
    "no-annotations",
    "damage",
    "no object in the whole split: there is nothing to measure",
    "add objects; are all of them crowds, or all boxes without area?",
)
SHARES = Kind(
    "class-shares-differ",
    "hint",
    "the classes are not as frequent as in train, as if the split was not drawn from the same images",
    "draw the splits anew",
)
SIZES = Kind(
    "box-sizes-differ",
    "hint",
    "boxes are not of the sizes that train has, as if the split was not drawn from the same images",
    "draw the splits anew",
)

DISTANCE = 0.2  # of two distributions, total variation or Kolmogorov–Smirnov; random halves of BCCD stay below 0.1
ENOUGH = 100  # objects in each of the splits; with fewer a distance is chance
SURE = 1e-3  # p-value; with images as units, since objects of one image are not independent


def compare_splits(train: Records, other: Records) -> Iterator[Finding]:
    """Yield what is wrong between the training split and another one."""
    yield from compare_classes(train, other)
    yield from other.find_images(SHARED, np.isin(other.files, train.files))
    if not (other.annotated and min(train.usable.sum(), other.usable.sum()) >= ENOUGH):
        return
    yield from _shares(train, other)
    ours, theirs = _sides(train), _sides(other)
    if _distance(ours, theirs) > DISTANCE and _pvalue(_medians(train, ours), _medians(other, theirs)) < SURE:
        words = f"half of them have sides below {np.median(theirs):.0f} pixels, in train {np.median(ours):.0f}"
        yield from SIZES.found(other.split, [Place(detail=words)])


def split_findings(records: Records) -> Iterator[Finding]:
    """Yield what is wrong with one split as a list of images."""
    wanted = records.annotated and (records.split != "test" or len(records.boxes))
    if wanted and len(records) and not records.usable.any():
        kind = NO_OBJECTS if records.split == "train" else NOT_ANNOTATED
        words = f"{len(records)} images, {len(records.boxes)} annotations, {int(records.crowd.sum())} of them crowds"
        yield from kind.found(records.split, [Place(records.source or None, detail=words)])
    files, first, inverse = np.unique(records.files, return_index=True, return_inverse=True)
    if len(files) < len(records):
        again = np.flatnonzero(first[inverse] != np.arange(len(records)))[:MAX_PLACES]
        details = [f"also image {records.image_ids[first[inverse[index]]]}" for index in again.tolist()]
        yield from records.find_images(TWICE, again, details)


def _shares(train: Records, other: Records) -> Iterator[Finding]:
    numbers = sorted(train.categories)
    names = [train.categories[number] for number in numbers]
    tables = [_per_image(records, numbers) for records in (train, other)]
    ours, theirs = (table.sum(axis=0) / table.sum() for table in tables)
    distance = np.abs(ours - theirs).sum() / 2
    most = int(np.abs(ours - theirs).argmax())
    if distance > DISTANCE and _pvalue(*(table[:, most] / table.sum(axis=1) for table in tables)) < SURE:
        words = f'"{names[most]}" is {theirs[most]:.0%} of the objects, in train {ours[most]:.0%}'
        yield from SHARES.found(other.split, [Place(detail=words)])


def _distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The Kolmogorov–Smirnov statistic of two samples."""
    values = np.sort(np.concatenate([ours, theirs]))  # in order, so that each is found beside the one before
    parts = [np.searchsorted(np.sort(each), values, side="right") / len(each) for each in (ours, theirs)]
    return float(np.abs(parts[0] - parts[1]).max())


def _pvalue(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """How likely samples at least as far apart are if both are drawn from the same distribution."""
    from scipy import stats  # takes a second, which most trainings can do without at their start

    return float(stats.ks_2samp(ours, theirs).pvalue)


def _per_image(records: Records, numbers: list[int]) -> NDArray[np.float64]:
    """[I', C] objects of each category in each image that has some."""
    rows = np.flatnonzero(records.usable & np.isin(records.category_ids, numbers))
    table = np.zeros((len(records), len(numbers)))
    np.add.at(table, (records.owners[rows], np.searchsorted(numbers, records.category_ids[rows])), 1)
    return table[table.any(axis=1)]


def _sides(records: Records) -> NDArray[np.float64]:
    """[n] square roots of the areas of boxes, in pixels."""
    return np.sqrt(records.boxes[records.usable, 2:].prod(axis=1))


def _medians(records: Records, sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """[I'] the median side of each image that has some."""
    owners = records.owners[records.usable]
    order = np.lexsort((sides, owners))
    starts, counts = np.unique(owners[order], return_index=True, return_counts=True)[1:]
    return sides[order][starts + counts // 2]
