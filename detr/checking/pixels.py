"""Image files looked at, in several processes: heads only, or decoded as a training decodes them."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detr.checking.records import Looks, Records
from detr.data.images import BROKEN, EXIF_ORIENTATION, check_memory, read_image
from detr.errors import UserError

FINE, MISSING, EMPTY, NO_IMAGE, BROKEN_IMAGE = range(5)  # status
THUMB = 16  # pixels a side: what near duplicates are compared by in the end
HEAD = 65536  # bytes; together with a file's length they tell files apart without reading all
CHUNK = 64  # images that a process looks at before it reports
FEW = 500  # images, for which starting processes takes longer than looking
LOOK = np.dtype(
    [
        ("status", np.uint8),
        ("size", np.int32, 2),  # (height, width) as stored
        ("orientation", np.uint8),  # EXIF, 1 where there is none
        ("frames", np.int32),
        ("brightest", np.int32),  # sample of a 16-bit image; 65535 for all others
        ("digest", "V16"),  # of the file
        ("hash", np.uint64),  # perceptual
        ("thumb", np.uint8, THUMB * THUMB),  # grey
    ]
)

Task = tuple[list[tuple[str, bool]], bool]


def look_at(
    records: Records, missing: NDArray[np.bool_], *, pixels: bool, advance: Callable[[int], object]
) -> tuple[Looks, dict[int, str]]:
    """Return what the files of all images are like, and of those that cannot be read why.

    Args:
        records: which images.
        missing: [I] which of them are not there.
        pixels: decode them; else only their heads are read.
        advance: called with how many images are done.
    """
    looks = np.zeros(len(records), dtype=LOOK)
    reasons: dict[int, str] = {}
    entries = list(zip(records.files.tolist(), missing.tolist(), strict=True))
    tasks = [(entries[start : start + CHUNK], pixels) for start in range(0, len(entries), CHUNK)]

    def keep(results: Any) -> None:
        for number, (part, failed) in enumerate(results):
            start = number * CHUNK
            looks[start : start + len(part)] = part
            reasons.update({start + index: reason for index, reason in failed.items()})
            advance(len(part))

    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(records) < FEW or processes == 1:
        keep(map(_look_at_some, tasks))
    else:
        with ProcessPoolExecutor(processes) as pool:
            keep(pool.map(_look_at_some, tasks))
    return looks, reasons


def _look_at_some(task: Task) -> tuple[Looks, dict[int, str]]:
    entries, pixels = task
    looks = np.zeros(len(entries), dtype=LOOK)
    reasons = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about sizes and broken EXIF
        for index, (path, missing) in enumerate(entries):
            if missing:
                looks["status"][index] = MISSING
            else:
                reason = _look(path, looks[index], pixels)
                if reason:
                    reasons[index] = reason
    return looks, reasons


def _look(path: str, look: Any, pixels: bool) -> str:
    """Fill one row; what is wrong with the file comes back."""
    look["status"], look["brightest"], look["orientation"], look["frames"] = FINE, 65535, 1, 1
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as stream:
            content = stream.read(-1 if pixels else HEAD)
        look["digest"] = hashlib.blake2b(content + str(length).encode(), digest_size=16).digest()
        if not length:
            look["status"] = EMPTY
            return "0 bytes"
        with Image.open(path) as stored:
            if pixels:
                check_memory(stored, path)
            look["size"] = stored.height, stored.width
            look["orientation"] = _orientation(stored)
            look["frames"] = getattr(stored, "n_frames", 1)
            if pixels and (stored.mode == "I" or stored.mode.startswith("I;16")):
                look["brightest"] = int(np.asarray(stored).max(initial=0))
        if pixels:
            _look_at_pixels(path, look)
    except UnidentifiedImageError:
        look["status"] = NO_IMAGE
        return _kind_of(content)
    except (UserError, *BROKEN) as error:
        look["status"] = BROKEN_IMAGE
        return " ".join(str(error).removeprefix(f"{path}: ").split())
    return ""


def _look_at_pixels(path: str, look: Any) -> None:
    grey = read_image(path).convert("L")
    grey.thumbnail((256, 256), reducing_gap=2.0)
    bits = imagehash.phash(grey).hash
    look["hash"] = np.packbits(bits).view(np.uint64)[0]
    look["thumb"] = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX)).reshape(-1)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if value in range(1, 9) else 1


def _kind_of(content: bytes) -> str:
    head = content[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: run git lfs pull"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download failed"
    return "no image format that Pillow knows"
