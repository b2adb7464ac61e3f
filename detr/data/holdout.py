"""Which images of a split are kept for validation, so that every class has its share in both parts.

This is iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, 2011) with
two parts and objects for labels: the rarest class is dealt out first, each of its images to the part that lacks most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detr.errors import UserError


def choose(counts: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the images that are kept for validation; the same for the same arguments.

    Args:
        counts: [I, C] objects of each class in each image.
        share: of images and of the objects of each class, between 0 and 1.
        seed: of the order in which images of a class are dealt out.

    Returns:
        [I] at least one True and one False.

    Raises:
        UserError: there are fewer than two images.
    """
    images = len(counts)
    if images < 2:
        raise UserError(f"dataset.holdout: {images} training image cannot be divided into training and validation")
    # An image without objects counts as one of a class of its own.
    labels = np.column_stack([counts, counts.sum(axis=1) == 0]).astype(np.int64)
    shares = np.array([1 - share, share])
    wanted = shares[:, None] * labels.sum(axis=0)  # [2, C + 1] objects that each part still lacks
    room = shares * images  # images that each part still lacks
    held = np.zeros(images, dtype=np.bool_)
    left = np.random.default_rng(seed).permutation(images)
    while len(left):
        totals = labels[left].sum(axis=0)
        rarest = int(np.where(totals > 0, totals, np.iinfo(np.int64).max).argmin())
        has = labels[left, rarest] > 0
        for image in left[has].tolist():
            lacks = wanted[:, rarest]
            part = int((room if lacks[0] == lacks[1] else lacks).argmax())
            held[image] = bool(part)
            wanted[part] -= labels[image]
            room[part] -= 1
        left = left[~has]
    if held.all() or not held.any():  # fewer than one image's share
        held[np.random.default_rng(seed).integers(images)] ^= True
    return held
