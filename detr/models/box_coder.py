"""How a box follows from a reference and a correction, and how boxes become references.

One box coder serves decoders, queries that propose and denoising alike: what they hand to each other are references in
its space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from detr.boxes import inverse_sigmoid


class BoxCoder(ABC):
    """Offers what every box coder does.

    Attributes:
        num_outputs: numbers that a box head says of each box.
    """

    num_outputs = 4

    @abstractmethod
    def encode(self, boxes: Tensor) -> Tensor:
        """Convert boxes cxcywh or points (x, y), [..., 2 or 4] in [0, 1] → references of the same shape."""

    @abstractmethod
    def decode(self, references: Tensor) -> Tensor:
        """Convert references [..., 2 or 4] → boxes or points in [0, 1]."""

    @abstractmethod
    def from_free(self, values: Tensor) -> Tensor:
        """Convert any numbers [..., 2 or 4], such as parameters that learn, → references."""

    @abstractmethod
    def correct(self, references: Tensor, corrections: Tensor) -> Tensor:
        """Correct references [..., 4] by what the box head says [..., num_outputs] → [..., 4]."""


class LogitBoxCoder(BoxCoder):
    """Takes logits for references, to which corrections are added (Deformable DETR, appendix A.3 and A.4)."""

    def encode(self, boxes: Tensor) -> Tensor:
        return inverse_sigmoid(boxes)

    def decode(self, references: Tensor) -> Tensor:
        return references.sigmoid()

    def from_free(self, values: Tensor) -> Tensor:
        return values

    def correct(self, references: Tensor, corrections: Tensor) -> Tensor:
        return references + corrections
