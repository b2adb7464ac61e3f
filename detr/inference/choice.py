"""Which of a detector's answers are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detr.config.suggest import did_you_mean
from detr.errors import UserError
from detr.structures import Classes, Detections


@dataclass(frozen=True)
class Choice:
    """Holds which answers are wanted; build it with `Choice.of`."""

    labels: frozenset[int]  # class indices
    threshold: float  # of the score
    top_k: int | None  # of an image, the best; None: all

    @classmethod
    def of(
        cls,
        known: Classes,
        *,
        threshold: float = 0.0,
        classes: str | Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> Choice:
        """Return a choice by names of classes, in upper or lower case; None: all that are classes.

        Raises:
            UserError: a class that the detector does not know, or a number out of its range.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold: expected a score from 0 to 1, got {threshold:g}")
        if top_k is not None and top_k < 1:
            raise UserError(f"top_k: expected at least 1, got {top_k}")
        rows = {name: row for row, name in enumerate(known.names) if name != Classes.HOLE}
        if classes is None:
            return cls(frozenset(rows.values()), threshold, top_k)
        wanted = [classes] if isinstance(classes, str) else list(classes)
        return cls(frozenset(_row(name, rows) for name in wanted), threshold, top_k)

    def rows(self, detections: Detections) -> Tensor:
        """Return the rows of detections, whose scores descend, that are wanted."""
        labels = torch.tensor(sorted(self.labels), device=detections.labels.device)
        wanted = (detections.scores >= self.threshold) & torch.isin(detections.labels, labels)
        return wanted.nonzero()[: self.top_k, 0]


def _row(name: str, rows: dict[str, int]) -> int:
    """The index of a class. Of names that differ in case only, the exact one counts."""
    folded = {known.casefold(): row for known, row in reversed(rows.items())}
    row = rows.get(name, folded.get(str(name).casefold()))
    if row is None:
        first = ", ".join(list(rows)[:10]) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
        raise UserError(
            f"classes: the detector knows no {name}{did_you_mean(str(name), rows) or f'; it knows {first}'}"
        )
    return row
