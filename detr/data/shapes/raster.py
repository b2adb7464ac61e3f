"""Polygons to pixels in exact integer arithmetic, so that the same masks come out on every machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUBPIXELS = 4  # samples a pixel in each direction
FULL = SUBPIXELS * SUBPIXELS  # coverage of a pixel that lies wholly inside
_UNITS = 16  # positions a subpixel: vertices are rounded to 1/64 pixel


class Stencil(NamedTuple):
    """Holds which part of each pixel a polygon covers, within a window of the canvas."""

    rows: slice
    columns: slice
    coverage: NDArray[np.int64]  # [h, w], 0 … FULL

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Return [h, w] pixels that are covered to at least one half."""
        return 2 * self.coverage >= FULL


def rasterize(polygon: NDArray[np.float64], side: int) -> Stencil:
    """Fill a polygon [V, 2] of (x, y) pixel coordinates on a canvas of `side` × `side` pixels, by the even-odd rule.

    What lies outside of the canvas is cut off.
    """
    low = np.clip(np.floor(polygon.min(axis=0)).astype(int), 0, side - 1)
    high = np.clip(np.ceil(polygon.max(axis=0)).astype(int), low + 1, side)
    width, height = (high - low).tolist()
    vertices = np.rint((polygon - low) * (SUBPIXELS * _UNITS)).astype(np.int64)
    row, sample = _crossings(vertices, height * SUBPIXELS)
    coverage = _fill(row // SUBPIXELS, np.clip(sample, 0, width * SUBPIXELS), height, width)
    return Stencil(slice(low[1], high[1]), slice(low[0], high[0]), coverage)


def _crossings(vertices: NDArray[np.int64], rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the outline crosses the middle lines of the rows of subpixels: the row, and the first sample beyond it.

    Sorted by row and sample; as the outline is closed, each row has an even number of them.
    """
    start, end = vertices, np.roll(vertices, -1, axis=0)
    down = (start[:, 1] < end[:, 1])[:, None]
    top, bottom = np.where(down, start, end), np.where(down, end, start)
    y = np.arange(rows) * _UNITS + _UNITS // 2
    edge, row = np.nonzero((top[:, 1:] <= y) & (y < bottom[:, 1:]))

    # The edge crosses the line at x = numerator / denominator; samples are at the middles of subpixels.
    denominator = (bottom - top)[edge, 1]
    numerator = top[edge, 0] * denominator + (y[row] - top[edge, 1]) * (bottom - top)[edge, 0]
    sample = (numerator - _UNITS // 2 * denominator) // (_UNITS * denominator) + 1
    order = np.lexsort((sample, row))
    return row[order], sample[order]


def _fill(row: NDArray[np.int64], sample: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """[height, width] samples inside, where every other crossing enters the polygon and the next one leaves it.

    A crossing changes its own pixel by the samples beyond it, and all pixels further right by SUBPIXELS: with the
    two parts of that change at two neighbouring pixels, a running sum along the row does it.
    """
    sign = np.where(np.arange(len(row)) % 2 == 0, 1, -1)
    pixel, skipped = sample // SUBPIXELS, sample % SUBPIXELS
    stride = width + 2
    position = row * stride + pixel
    changes = np.bincount(
        np.concatenate([position, position + 1]),
        weights=np.concatenate([sign * (SUBPIXELS - skipped), sign * skipped]),
        minlength=height * stride,
    )
    return np.cumsum(changes.reshape(height, stride).astype(np.int64), axis=1)[:, :width]
