"""All checks of a data set in their order: what the files say, what the images are like, how the splits compare."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from detr.checking.boxes import box_findings
from detr.checking.classes import class_findings
from detr.checking.coco import ANNOTATION_FILE, read_coco
from detr.checking.files import MISSING, missing_files, missing_findings, unlisted_findings
from detr.checking.finding import MAX_DETAIL, SEVERITIES, Faults, Finding, Kind, Place
from detr.checking.records import Looks, Records
from detr.checking.settings import Settings, setting_findings
from detr.checking.splits import compare_splits, split_findings
from detr.data.coco import CocoSplits
from detr.data.dataset import AnnotatedImages, DataSet, Split, Transform
from detr.data.panoptic.dataset import CocoPanoptic
from detr.data.splits import Splits
from detr.errors import UserError

SPLITS: tuple[Split, ...] = ("train", "val", "test")

Progress = Callable[[str, int], Callable[[int], object]]

REFUSED = Kind("refused", "error", "training refuses this split", "mend it as the message says")


@dataclass
class Report:
    """Holds everything that a check found."""

    findings: list[Finding] = field(default_factory=list)  # the worst first
    notes: list[str] = field(default_factory=list)  # what was not checked, and why
    records: dict[str, Records] = field(default_factory=dict)  # split → annotations
    looked: dict[str, Looks] = field(default_factory=dict)  # split → what its image files are like
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Return severity → how many findings."""
        return {severity: sum(each.severity == severity for each in self.findings) for severity in SEVERITIES}

    def failed(self, *, strict: bool) -> bool:
        """Return whether a pipeline should stop: for errors and damage, with `strict` for hints as well."""
        return any(strict or each.severity != "hint" for each in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON file has."""
        return {
            "splits": {
                name: {"images": len(each), "annotations": len(each.boxes), "objects": int(each.usable.sum())}
                for name, each in self.records.items()
            },
            "counts": self.counts,
            "findings": [each.to_dict() for each in self.findings],
            "notes": self.notes,
            "seconds": round(self.seconds, 2),
        }


def check(data: DataSet, settings: Settings, *, pixels: bool, progress: Progress) -> Report:
    """Check all splits of a data set.

    Args:
        data: the data set.
        settings: what it is to be trained with.
        pixels: decode the images; else only their heads are read.
        progress: called with a title and how many images there are; what it returns is called with how many are done.
    """
    # Here, since a training, which does without, need not import what decodes and hashes images.
    from detr.checking.images import duplicate_findings, file_findings
    from detr.checking.pixels import look_at

    report = Report()
    for name in SPLITS:
        read = read_split(data, name, settings.augmentation["eval"], report)
        if read is None:
            continue
        records, folders = read
        report.records[name] = records
        report.findings += records_findings(records, settings)
        report.findings += split_findings(records)
        missing = missing_files(records)
        report.findings += missing_findings(records, missing, folders)
        advance = progress(f"{name}: {'decoding' if pixels else 'reading heads'}", len(records))
        looks, reasons = look_at(records, missing, pixels=pixels, advance=advance)
        report.findings += file_findings(records, looks, reasons)
        report.looked[name] = looks
    report.findings += between_splits(report.records)
    if report.looked:
        looked = [(report.records[name], looks) for name, looks in report.looked.items()]
        report.findings += duplicate_findings(looked, pixels=pixels)
        if not {MISSING.name, ANNOTATION_FILE.name} & {each.check for each in report.findings}:
            report.findings += unlisted_findings(list(report.records.values()))
    wrong = {each.split for each in report.findings if each.severity == "error"}
    for name in SPLITS:
        # Read by the data set's own reader, which the others were; they need the classes of train.
        if name in report.records and read_raw(data) and not wrong & {"train", name}:
            report.findings += refusal(data, name, settings.augmentation["eval"])
    order(report)
    return report


def order(report: Report) -> None:
    """Put the worst findings first."""
    report.findings.sort(key=lambda each: (SEVERITIES[each.severity], [*SPLITS, "all"].index(each.split)))


def records_findings(records: Records, settings: Settings) -> Iterator[Finding]:
    """Yield what can be told of one split without opening an image."""
    yield from box_findings(records)
    yield from class_findings(records)
    yield from setting_findings(records, settings)


def between_splits(records: dict[str, Records]) -> Iterator[Finding]:
    """Yield what does not fit between the splits."""
    for one, two in itertools.combinations(records, 2):
        if one == "train" and records[one].categories:
            yield from compare_splits(records[one], records[two])


def read_split(data: DataSet, name: Split, transform: Transform, report: Report) -> tuple[Records, list[str]] | None:
    """Return a split as far as it can be read, and the folders of its images; what is wrong goes to the report."""
    if isinstance(data, CocoSplits) and read_raw(data):
        try:
            folders, files = data.places(name)
        except UserError:
            report.notes.append(f"{name}: not set, so not checked")
            return None
        if name == "test" and not any(map(os.path.exists, files)):
            report.notes.append(f"test: {', '.join(files)} is not there, so not checked; training does without it")
            return None
        faults = Faults(name)
        records = read_coco(name, folders, files, faults, masks=data.masks)
        report.findings += faults.findings()
        return records, folders
    if isinstance(data, Splits) and not data.has(name):
        report.notes.append(f"{name}: not there, so not checked")
        return None
    try:
        with quiet():
            images = data.split(name, transform=transform)
            annotations = data.part(name) if isinstance(data, Splits) and not isinstance(data, CocoPanoptic) else None
    except UserError as error:
        report.findings += REFUSED.found(name, [Place(detail=str(error)[:MAX_DETAIL])])
        return None
    if not isinstance(images, AnnotatedImages):
        report.notes.append(f"{name}: a data set of its own kind, of which nothing is known but that it can be read")
        return None
    records = Records.of(name, annotations or images.annotations)
    return records, sorted({file.rpartition("/")[0] for file in records.files.tolist()})


def read_raw(data: DataSet) -> bool:
    """Return whether the annotation files are read here, past every mistake, and not by the data set's own reader."""
    return isinstance(data, CocoSplits) and not isinstance(data, CocoPanoptic)


def refusal(data: DataSet, name: Split, transform: Transform) -> Iterator[Finding]:
    """Yield what a training would say of a split in which no error was found, if it does."""
    try:
        with quiet():
            data.split(name, transform=transform)
    except UserError as error:
        yield from REFUSED.found(name, [Place(detail=str(error)[:MAX_DETAIL])])


def startup_findings(train: object, val: object, settings: Settings) -> list[Finding]:
    """Return what costs nothing to find when a training starts; what it says or refuses itself is left out."""
    found: list[Finding] = []
    records = {
        name: Records.of(name, images.annotations)
        for name, images in (("train", train), ("val", val))
        if isinstance(images, AnnotatedImages)
    }
    for each in records.values():
        found += records_findings(each, settings)
        found += split_findings(each)
    found += between_splits(records)
    said = {"shared-images", "batch-larger-than-split", "more-objects-than-queries", "no-annotations", "no-objects"}
    return sorted((each for each in found if each.check not in said), key=lambda each: SEVERITIES[each.severity])


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what readers warn of, which the findings have already."""
    logger = logging.getLogger("detr.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
