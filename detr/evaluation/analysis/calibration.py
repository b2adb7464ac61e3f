"""Whether a score of 0.8 means that four boxes of five are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 0.05  # boxes of lower scores are hundreds in an image, and would make any detector look well calibrated
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Holds the boxes whose scores are in [low, high); the last bin has 1, too."""

    low: float
    high: float
    boxes: int
    confidence: float | None  # their mean score; None: no boxes
    right: float | None  # how many of them are right, from 0 to 1


@dataclass(frozen=True)
class Calibration:
    """Holds the bins of a reliability diagram, and the expected calibration error."""

    bins: list[Bin]
    error: float | None  # mean of |confidence - right| over boxes; None: no boxes


def calibrate(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Return how well scores [n] of boxes say how many of them are right, from a score of `LEAST` on."""
    counted = scores >= LEAST
    scores, right = scores[counted], right[counted]
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    bins, gaps = [], 0.0
    for number in range(BINS):
        own = place == number
        boxes = int(own.sum())
        confidence, share = (float(scores[own].mean()), float(right[own].mean())) if boxes else (None, None)
        bins.append(Bin(number / BINS, (number + 1) / BINS, boxes, confidence, share))
        if confidence is not None and share is not None:
            gaps += boxes * abs(confidence - share)
    return Calibration(bins, gaps / len(scores) if len(scores) else None)
