"""Classes: names that clash, classes without enough examples, ids that mean something else in another split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from detr.checking.finding import Finding, Kind, Place
from detr.checking.records import Records

ALIKE = Kind(
    "similar-class-names",
    "damage",
    "class names that differ only in case, blanks or hyphens",
    "merge them, or tell them apart",
)
ROOT = Kind(
    "unused-root-category",
    "hint",
    "a category that no annotation has and that others name as their super-category; the detector gets a class for it",
    'remove it from "categories"; fix=true does',
)
UNUSED = Kind(
    "class-without-objects", "hint", "classes that training has no object of", "add objects, or remove the categories"
)
FEW = Kind("few-examples", "hint", "classes with few objects to learn from", "add objects, or merge the classes")
IMBALANCE = Kind(
    "class-imbalance",
    "hint",
    "the most frequent class has many times the objects of the rarest",
    "add objects of the rare one",
)
ONE_SIZE = Kind(
    "class-of-one-size",
    "hint",
    "classes whose boxes are all of one size, as if clicked rather than drawn",
    "look at them",
)
EXCHANGED = Kind(
    "category-ids-differ",
    "error",
    "category ids that stand for another class than in train",
    "use the same ids in all splits; fix=true does where the names are known",
)
NOT_IN_TRAIN = Kind(
    "class-not-in-train",
    "error",
    "annotations of categories that train does not list",
    "add the category to train's file",
)
NEVER_TRAINED = Kind(
    "class-never-trained",
    "damage",
    "classes that train has no object of, but this split has: their AP will be 0",
    "move some of these images to train",
)

ENOUGH = 10  # objects, as issues and teachers have it; with fewer a detector learns the background
MANY_TIMES = 100  # COCO has 1,300 times as many persons as hair dryers, but 80 classes; small data sets hardly 100
ONE_SIZE_FROM = 20  # objects; fewer may be of one size by chance
ONE_SIZE_SPREAD = 0.005  # standard deviation of widths and heights, as a part of their mean


def class_findings(records: Records) -> Iterator[Finding]:
    """Yield what is wrong with the classes that the training split teaches."""
    names = records.categories
    yield from _alike(records)
    if records.split != "train" or not records.usable.any():
        return
    counts = counts_of(records)
    unused = [number for number, count in counts.items() if not count]
    roots = [
        number for number in unused if names[number] in ROOT_NAMES or (number == min(names) == 0 and len(unused) == 1)
    ]
    yield from ROOT.found("train", [_place(records, number, 0) for number in roots])
    yield from UNUSED.found("train", [_place(records, number, 0) for number in unused if number not in roots])
    rare = sorted((count, number) for number, count in counts.items() if 0 < count < ENOUGH)
    yield from FEW.found("train", [_place(records, number, count) for count, number in rare])
    used = {number: count for number, count in counts.items() if count >= ENOUGH}
    if used and max(used.values()) > MANY_TIMES * min(used.values()):
        most, least = max(used, key=lambda number: used[number]), min(used, key=lambda number: used[number])
        words = f'"{names[most]}" has {used[most]} objects, "{names[least]}" {used[least]}'
        yield from IMBALANCE.found("train", [Place(detail=words)])
    yield from ONE_SIZE.found("train", list(_of_one_size(records)))


ROOT_NAMES = {"none", "background", "root", "_background_", "__background__", "superclass"}


def compare_classes(train: Records, other: Records) -> Iterator[Finding]:
    """Yield what does not fit between the classes of train and of another split."""
    used = counts_of(other) if other.annotated else {}
    renamed, strange, untrained = [], [], []
    trained = counts_of(train)
    for number, name in other.categories.items():
        if number in train.categories and train.categories[number] != name:
            renamed.append(Place(other.source, detail=f'{number} is "{name}", in train "{train.categories[number]}"'))
        elif number not in train.categories and name in train.categories.values():
            known = next(each for each, its in train.categories.items() if its == name)
            renamed.append(Place(other.source, detail=f'"{name}" is {number}, in train {known}'))
        elif number not in train.categories and used.get(number):
            strange.append(_place(other, number, used[number]))
        elif used.get(number) and not trained.get(number):
            untrained.append(_place(other, number, used[number]))
    yield from EXCHANGED.found(other.split, renamed)
    yield from NOT_IN_TRAIN.found(other.split, strange)
    if any(trained.values()):
        yield from NEVER_TRAINED.found(other.split, untrained)


def counts_of(records: Records) -> dict[int, int]:
    """Return how many objects a training sees of each category."""
    ids, counts = np.unique(records.category_ids[records.usable], return_counts=True)
    found: Mapping[int, int] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return {number: found.get(number, 0) for number in records.categories}


def _alike(records: Records) -> Iterator[Finding]:
    key = {number: re.sub(r"[\s_-]+", "", name).casefold() for number, name in records.categories.items()}
    pairs = [
        Place(
            records.source or None,
            detail=f'"{records.categories[one]}" ({one}) and "{records.categories[two]}" ({two})',
        )
        for one, two in itertools.combinations(key, 2)
        if key[one] == key[two] and records.categories[one] != records.categories[two]
    ]
    yield from ALIKE.found(records.split, pairs)


def _of_one_size(records: Records) -> Iterator[Place]:
    for number in records.categories:
        rows = np.flatnonzero(records.usable & (records.category_ids == number))
        sizes = records.boxes[rows, 2:]
        if len(rows) >= ONE_SIZE_FROM and (sizes.std(axis=0) <= ONE_SIZE_SPREAD * sizes.mean(axis=0)).all():
            width, height = sizes.mean(axis=0)
            words = f'"{records.categories[number]}": {len(rows)} boxes of {width:.0f} × {height:.0f}'
            yield records.annotation(int(rows[0]), words)


def _place(records: Records, number: int, count: int) -> Place:
    words = f'"{records.categories[number]}" ({number}), {count} object{"" if count == 1 else "s"}'
    return Place(records.source or None, detail=words)
