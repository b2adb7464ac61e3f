"""Decoded images of a split, kept in memory that worker processes share."""

from __future__ import annotations

import mmap
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detr import distributed
from detr.data.annotations import offsets_of
from detr.data.images import free_memory, reduction
from detr.errors import UserError

Cache = bool | Literal["auto"]

MOST = 2**30  # bytes of a split that is kept without being asked for
PART = 4  # of the free memory a quarter, likewise


class ImageCache:
    """Keeps RGB images as they were decoded first, by whichever process.

    Processes that are forked later share what it holds; those that are spawned, as on other systems, keep nothing.

    Args:
        room: [I] bytes for each image; one that takes more is not kept.
    """

    def __init__(self, room: NDArray[np.int64]) -> None:
        self._starts = offsets_of(room)
        # Anonymous, so that it takes what is written and no more, and the size of /dev/shm does not matter.
        self._bytes = mmap.mmap(-1, max(1, int(self._starts[-1])))
        self._sizes = np.frombuffer(mmap.mmap(-1, max(1, 8 * len(room))), np.int32, 2 * len(room)).reshape(-1, 2)

    def get(self, index: int) -> Image.Image | None:
        """Return a copy of an image; None where it is not kept yet."""
        height, width = self._sizes[index].tolist()
        if not height:
            return None
        start = int(self._starts[index])
        return Image.frombytes("RGB", (width, height), memoryview(self._bytes)[start : start + 3 * height * width])

    def put(self, index: int, image: Image.Image) -> None:
        """Keep an image. Two processes may: they write the same."""
        content = image.tobytes()
        start, end = self._starts[index : index + 2].tolist()
        if len(content) <= end - start:
            self._bytes[start : start + len(content)] = content
            self._sizes[index, 1] = image.width
            self._sizes[index, 0] = image.height  # last, since it says that all is there

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (np.zeros(len(self._sizes), dtype=np.int64),)


def image_cache(
    mode: Cache, files: NDArray[np.str_], sizes: NDArray[np.int64], longest: int | None
) -> ImageCache | None:
    """Build the cache of a split; None where it is not wanted or, with "auto", takes too much.

    Args:
        mode: whether to keep images.
        files: [I] paths.
        sizes: [I, 2] (height, width) of the images.
        longest: the longer side that is wanted, as for `read_image`.

    Raises:
        UserError: `mode` is True, and the images do not fit into the memory that is free.
    """
    if not mode:
        return None
    room = 3 * sizes.prod(axis=1)
    for index in np.flatnonzero(sizes.max(axis=1) >= 2 * longest) if longest else ():
        if files[index].lower().endswith((".jpg", ".jpeg")):
            room[index] = 3 * np.prod(-(-sizes[index] // reduction(int(sizes[index].max()), longest)))
    total, free = int(room.sum()) * distributed.world_size(), free_memory() or 0
    if mode == "auto":
        return ImageCache(room) if total <= min(MOST, free // PART) else None
    if total > free:
        raise UserError(
            f"dataset.cache=true: {len(files)} decoded images take {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free; use dataset.cache=auto"
        )
    return ImageCache(room)
