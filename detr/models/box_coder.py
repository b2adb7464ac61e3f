"""How a box follows from a reference and a correction, and how boxes become references.

One box coder serves decoders, queries that propose and denoising alike: what they hand to each other are references in
its space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
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
    """Takes logits for references, to which corrections are added (Deformable DETR, appendix A.3 and A.4).

    Args:
        eps: boxes become references as if their numbers were at least so far from 0 and 1 (DINO, DN-DETR: 1e-3).
        in_each_layer: references are kept so far away before each correction, too. The authors' decoders go back and
            forth between boxes and logits, and so do this; else a side may become smaller from layer to layer.

    Raises:
        ValueError: eps not between 0 and 0.5.
    """

    def __init__(self, *, eps: float = 1e-5, in_each_layer: bool = False) -> None:
        if not 0 < eps < 0.5:
            raise ValueError(f"eps: expected a number between 0 and 0.5, got {eps}")
        self.eps, self.in_each_layer = eps, in_each_layer

    def encode(self, boxes: Tensor) -> Tensor:
        if not self.in_each_layer:
            return inverse_sigmoid(boxes, self.eps)
        kept = boxes.clamp(0, 1)  # the authors' form, which differs from the other's by up to eps beyond it
        return torch.log(kept.clamp(min=self.eps) / (1 - kept).clamp(min=self.eps))

    def decode(self, references: Tensor) -> Tensor:
        return references.sigmoid()

    def from_free(self, values: Tensor) -> Tensor:
        return values

    def correct(self, references: Tensor, corrections: Tensor) -> Tensor:
        return (self.encode(self.decode(references)) if self.in_each_layer else references) + corrections


class RelativeBoxCoder(BoxCoder):
    """Takes boxes themselves for references; corrections are relative to their sides, as in Faster R-CNN (LW-DETR).

    Centres move by parts of the sides, sides change by factors; a box may reach beyond the image.
    """

    def encode(self, boxes: Tensor) -> Tensor:
        return boxes

    def decode(self, references: Tensor) -> Tensor:
        return references

    def from_free(self, values: Tensor) -> Tensor:
        return values.sigmoid()

    def correct(self, references: Tensor, corrections: Tensor) -> Tensor:
        centres, sides = references.chunk(2, -1)
        shifts, factors = corrections.chunk(2, -1)
        return torch.cat([centres + shifts * sides, factors.exp() * sides], -1)
