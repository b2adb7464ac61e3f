"""Images that are the same, or nearly: re-encoded, resized, a frame later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detr.checking.records import Looks

RADIUS = 6  # bits of 64 in which perceptual hashes of near duplicates differ at most; others of BCCD differ in 14
ALIKE = 4.0  # grey values, mean difference of thumbnails; a JPEG saved again stays below 1, another image is beyond 6
BLOCK = 4096  # hashes compared with each other at once

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def exact_duplicates(looks: Looks) -> Pairs:
    """Return pairs of rows ([P], [P]) whose files are the same: each with the first of its kind."""
    _, first, inverse = np.unique(looks["digest"].view("V16"), return_index=True, return_inverse=True)
    firsts = first[inverse.reshape(-1)]
    later = np.flatnonzero(firsts != np.arange(len(looks)))
    return firsts[later], later


def near_duplicates(looks: Looks) -> Pairs:
    """Return pairs of rows ([P], [P]) whose pictures are nearly the same; the files should all be different.

    Hashes that differ in at most r of their bits agree in one of r + 1 parts, so only those are compared.
    """
    hashes, first, inverse = np.unique(looks["hash"], return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    same = np.flatnonzero(first[inverse] != np.arange(len(looks)))
    left, right = [first[inverse[same]]], [same]
    bounds = np.linspace(0, 64, RADIUS + 2).astype(int)
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(part, kind="stable")
        ends = np.flatnonzero(np.diff(part[order])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                for one, two in _within(hashes, bucket):
                    left.append(first[one])
                    right.append(first[two])
    pairs = np.unique(np.sort(np.stack([np.concatenate(left), np.concatenate(right)], axis=1), axis=1), axis=0)
    thumbs = looks["thumb"]
    alike = np.zeros(len(pairs), dtype=np.bool_)
    for start in range(0, len(pairs), BLOCK):
        one, two = pairs[start : start + BLOCK].T
        difference = np.abs(thumbs[one].astype(np.int16) - thumbs[two]).mean(axis=1)
        alike[start : start + BLOCK] = difference <= ALIKE
    pairs = pairs[alike]
    return pairs[:, 0], pairs[:, 1]


def _within(hashes: NDArray[np.uint64], bucket: NDArray[np.int64]) -> list[Pairs]:
    """Pairs of a bucket whose hashes are near each other."""
    found = []
    for start in range(0, len(bucket), BLOCK):
        rows = bucket[start : start + BLOCK]
        for other in range(start, len(bucket), BLOCK):
            columns = bucket[other : other + BLOCK]
            near = np.bitwise_count(hashes[rows][:, None] ^ hashes[columns][None]) <= RADIUS
            one, two = np.nonzero(np.triu(near, k=1) if other == start else near)
            found.append((rows[one], columns[two]))
    return found
