"""Image files against what the annotations say of them, and against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detr.checking.boxes import out_of
from detr.checking.duplicates import exact_duplicates, near_duplicates
from detr.checking.finding import MAX_PLACES, Finding, Kind, Place
from detr.checking.pixels import BROKEN_IMAGE, EMPTY, FINE, NO_IMAGE
from detr.checking.records import Looks, Records

EMPTY_FILE = Kind(
    "empty-file", "error", "image files of 0 bytes", "copy them again, or remove their entries; fix=true removes them"
)
NOT_AN_IMAGE = Kind(
    "not-an-image", "error", "files that are no images", "replace them, or remove their entries; fix=true removes them"
)
UNREADABLE = Kind(
    "unreadable-image",
    "error",
    "images that are truncated or broken",
    "copy them again, or remove their entries; fix=true removes them",
)
SIZE = Kind(
    "image-size-differs",
    "error",
    "images of another size than the annotations say",
    "restore the images, or scale the boxes; fix=true scales them where the shape is the same",
)
SIZE_EXCHANGED = Kind(
    "image-size-exchanged",
    "error",
    "images whose width and height are exchanged in the annotations",
    "exchange them; fix=true does",
)
EXIF_BOXES = Kind(
    "exif-other-frame",
    "damage",
    "images turned by an EXIF tag whose boxes fit only the other orientation",
    "save the images upright, with the boxes drawn there",
)
EXIF_UNCLEAR = Kind(
    "exif-unclear",
    "hint",
    "images with an EXIF orientation where sizes do not tell in which one the boxes were drawn; training turns them",
    "look at some; save them without the tag",
)
SLIVER = Kind(
    "sliver-of-16-bits",
    "damage",
    "16-bit images that use a small part of their range, and become nearly black in 8 bits",
    "scale them to the full range; fix=true does",
)
BLANK = Kind("blank-image", "hint", "images of one colour", "look at them: is it the right file?")
HUGE = Kind(
    "huge-image",
    "hint",
    "images of more than 50 megapixels, which take seconds to read",
    "scale them down, or cut tiles",
)
ELONGATED = Kind(
    "elongated-image",
    "hint",
    "images more than 5 times as long as wide: little remains of them when scaled",
    "cut them",
)
MIXED = Kind(
    "mixed-sizes",
    "hint",
    "images of very different sizes: objects of one kind appear at very different scales",
    "check that this is meant",
)
FRAMES = Kind(
    "several-frames", "hint", "animations or stacks, of which training reads the first frame", "save the frames apart"
)
EXACT = Kind(
    "exact-duplicates",
    "hint",
    "files with the same content as another one of the split",
    "remove one of each; fix=true does",
)
DISAGREE = Kind(
    "duplicates-disagree",
    "damage",
    "files with the same content as another one of the split, but with other objects",
    "decide for one of them",
)
NEAR = Kind(
    "near-duplicates", "hint", "images that are nearly the same as another one of the split", "keep one of each kind"
)
LEAKED = Kind(
    "leaked-duplicates",
    "damage",
    "files with the same content as one of another split: the metrics say little about new images",
    "remove them from one of the splits; fix=true removes them from train",
)
LEAKED_NEAR = Kind(
    "leaked-near-duplicates",
    "damage",
    "images that are nearly the same as one of another split: the metrics say little about new images",
    "put all of one scene into one split",
)

MEGAPIXELS = 50e6  # beyond it Pillow takes a second; cameras have less
LONG = 5.0  # times as long as wide; panoramas and lines of text
MIXED_RATIO = 8.0  # of the longer sides, between the 5th and the 95th percentile; COCO has 1.3, a mix of sources 4
DARK = 65535 // 8  # brightest sample of a 16-bit image: 12 bits of 16 give 4095


def file_findings(records: Records, looks: Looks, reasons: Mapping[int, str]) -> Iterator[Finding]:
    """Yield what is wrong with the image files of a split.

    Args:
        records: their annotations.
        looks: [I] what they are like.
        reasons: why those that cannot be read cannot.
    """
    for kind, status in ((EMPTY_FILE, EMPTY), (NOT_AN_IMAGE, NO_IMAGE), (UNREADABLE, BROKEN_IMAGE)):
        indices = np.flatnonzero(looks["status"] == status)
        yield from records.find_images(kind, indices, [reasons[index] for index in indices.tolist()])
    fine = looks["status"] == FINE
    yield from _sizes(records, looks, fine)
    stored = looks["size"].astype(np.int64)
    longer, shorter = stored.max(axis=1), np.maximum(stored.min(axis=1), 1)
    yield from records.find_images(HUGE, fine & (stored.prod(axis=1) > MEGAPIXELS))
    yield from records.find_images(ELONGATED, fine & (longer > LONG * shorter))
    yield from records.find_images(FRAMES, fine & (looks["frames"] > 1))
    if fine.any():
        low, high = np.quantile(longer[fine], [0.05, 0.95])
        if high > MIXED_RATIO * low:
            words = f"longer sides from {low:.0f} to {high:.0f} pixels"
            yield from MIXED.found(records.split, [Place(detail=words)])
    sliver = np.flatnonzero(fine & (looks["brightest"] < DARK))
    details = [f"brightest sample {looks['brightest'][index]} of 65535" for index in sliver[:MAX_PLACES]]
    yield from records.find_images(SLIVER, sliver, details)
    if looks["hash"].any():  # decoded
        blank = fine & (looks["brightest"] >= DARK) & (np.ptp(looks["thumb"], axis=1) == 0)
        yield from records.find_images(BLANK, blank)


def _sizes(records: Records, looks: Looks, fine: NDArray[np.bool_]) -> Iterator[Finding]:
    """As `detr.data.images` decides: upright if the size allows it, as stored if only that fits, else refused."""
    said, stored = records.sizes, looks["size"].astype(np.int64)
    sideways = looks["orientation"] >= 5
    upright = np.where(sideways[:, None], stored[:, ::-1], stored)
    as_upright, as_stored = (said == upright).all(axis=1), (said == stored).all(axis=1)
    wrong = fine & (said > 0).all(axis=1) & ~as_upright & ~as_stored
    exchanged = wrong & (said[:, ::-1] == upright).all(axis=1)
    for kind, rows in ((SIZE_EXCHANGED, exchanged), (SIZE, wrong & ~exchanged)):
        indices = np.flatnonzero(rows)
        sizes = [(upright[index][::-1], said[index][::-1]) for index in indices[:MAX_PLACES].tolist()]
        details = [f"{a[0]} × {a[1]} (width × height), the annotations say {b[0]} × {b[1]}" for a, b in sizes]
        yield from records.find_images(kind, indices, details)
    turned = fine & (looks["orientation"] != 1) & (as_upright | as_stored)
    beyond = np.zeros(len(records), dtype=np.bool_)
    fits_other = np.ones(len(records), dtype=np.bool_)
    out = out_of(records.corners, records.frames)
    beyond[records.owners[out]] = True
    fits_other[records.owners[out_of(records.corners, records.frames[:, ::-1])]] = False
    other_frame = turned & sideways & beyond & fits_other
    yield from records.find_images(EXIF_BOXES, other_frame)
    unclear = turned & ~other_frame & (as_upright & as_stored)
    details = [f"orientation {looks['orientation'][index]}" for index in np.flatnonzero(unclear)[:MAX_PLACES]]
    yield from records.find_images(EXIF_UNCLEAR, unclear, details)


def duplicate_findings(splits: list[tuple[Records, Looks]], *, pixels: bool) -> Iterator[Finding]:
    """Yield images that occur twice, within a split and in two of them."""
    looks = np.concatenate([each for _, each in splits])
    split = np.repeat(np.arange(len(splits)), [len(each) for _, each in splits])
    files = np.concatenate([records.files for records, _ in splits])
    index = np.concatenate([np.arange(len(records)) for records, _ in splits])
    readable = np.flatnonzero(looks["status"] == FINE)
    one, two = (readable[rows] for rows in exact_duplicates(looks[readable]))
    distinct = files[one] != files[two]  # else it is one file in two lists, which is another finding
    pairs = {"exact": (one[distinct], two[distinct])}
    if pixels:
        contrast = np.ptp(looks["thumb"], axis=1) > 0  # all blank images look the same
        unique = np.setdiff1d(readable[contrast[readable]], two)
        near = near_duplicates(looks[unique])
        pairs["near"] = (unique[near[0]], unique[near[1]])
    for name, (first, second) in pairs.items():
        within = split[first] == split[second]
        for number, (records, _) in enumerate(splits):
            inside = np.flatnonzero(within & (split[second] == number))
            again, once, others = index[second[inside]], index[first[inside]], files[first[inside]]
            if name == "exact":
                same = np.array(
                    [same_objects(records, *each) for each in zip(once, again, strict=True)], dtype=np.bool_
                )
                yield from _paired(records, DISAGREE, again[~same], others[~same])
                yield from _paired(records, EXACT, again[same], others[same])
            else:
                yield from _paired(records, NEAR, again, others)
            for before in range(number):
                across = np.flatnonzero((split[first] == before) & (split[second] == number))
                kind, whose = (LEAKED if name == "exact" else LEAKED_NEAR), f"{splits[before][0].split}'s "
                yield from _paired(records, kind, index[second[across]], files[first[across]], whose)


def same_objects(records: Records, one: int, two: int) -> bool:
    """Return whether two images of a split have the same boxes of the same classes."""
    tables = []
    for image in (one, two):
        rows = records.rows_of(image)
        table = np.column_stack([records.category_ids[rows], records.boxes[rows]])
        tables.append(table[np.lexsort(table.T[::-1])])
    return tables[0].shape == tables[1].shape and bool(np.allclose(tables[0], tables[1], atol=1))


def _paired(
    records: Records, kind: Kind, indices: NDArray[np.int64], others: NDArray[np.str_], whose: str = ""
) -> Iterator[Finding]:
    indices, first = np.unique(indices, return_index=True)
    places = [
        replace(records.image(index, f"like {whose}{others[place]}"), like=str(others[place]))
        for index, place in zip(indices[:MAX_PLACES].tolist(), first.tolist(), strict=False)
    ]
    yield from kind.found(records.split, places, count=len(indices))
