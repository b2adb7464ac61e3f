"""Which score to cut at: precision, recall and F1 of the boxes above every score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Threshold:
    """Holds a score, and what the boxes of at least this score come to."""

    score: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Sweep:
    """Holds what boxes come to at each of the S scores that occur, from the highest to the lowest."""

    scores: NDArray[np.float64]  # [S]
    precision: NDArray[np.float64]  # [S] how many of the boxes of at least this score are right
    recall: NDArray[np.float64]  # [S] how many of the objects they find

    @property
    def f1(self) -> NDArray[np.float64]:
        """Return [S] the harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros(len(total)), where=total > 0)

    @property
    def best(self) -> Threshold | None:
        """Return where F1 is highest, the highest such score; None where no box is right."""
        return None if not self.recall.any() else self._at(int(self.f1.argmax()))

    def at(self, score: float) -> Threshold:
        """Return what the boxes of at least a score come to; without such boxes precision counts as 0."""
        above = int((self.scores >= score).sum())
        return Threshold(score, 0.0, 0.0, 0.0) if not above else self._at(above - 1, score)

    def _at(self, index: int, score: float | None = None) -> Threshold:
        f1, precision, recall = (float(each[index]) for each in (self.f1, self.precision, self.recall))
        return Threshold(float(self.scores[index]) if score is None else score, f1, precision, recall)


def sweep(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> Sweep:
    """Return what boxes [n] come to above every score; equal scores are cut together.

    Args:
        scores: of the boxes that are right or wrong, in any order.
        right: which are right.
        objects: how many there are to be found.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, true = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True)[: len(scores)])
    return Sweep(sorted_scores[last], true[last] / (last + 1), true[last] / max(1, objects))
