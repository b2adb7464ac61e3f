"""Images with what is in them and what was found, in plain numbers: to be drawn, or logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from detr.boxes import cxcywh_to_xyxy
from detr.data.loader import TrainLoader
from detr.structures import Detections, PanopticSegments

Corners = tuple[float, float, float, float]

KEPT_SCORE = 0.05  # predictions below never help a reader


@dataclass(frozen=True)
class Boxes:
    """Holds n boxes of one image, in plain numbers, and maybe their masks."""

    corners: list[Corners]  # [n] xyxy in pixels
    labels: list[int]  # [n] class index
    scores: list[float] | None = None  # [n]; None: ground truth
    masks: NDArray[np.bool_] | None = None  # [n, height, width] of the image's size

    @classmethod
    def of(cls, detections: Detections) -> Self:
        return cls.from_tensors(detections.boxes, detections.labels, detections.scores, detections.masks)

    @classmethod
    def from_tensors(
        cls, boxes: Tensor, labels: Tensor, scores: Tensor | None = None, masks: Tensor | None = None
    ) -> Self:
        """Convert boxes [n, 4] xyxy in pixels, labels [n], scores [n], masks [n, height, width]."""
        return cls(
            corners=[(left, top, right, bottom) for left, top, right, bottom in boxes.tolist()],
            labels=labels.tolist(),
            scores=None if scores is None else scores.tolist(),
            masks=None if masks is None else masks.cpu().numpy(),
        )

    @classmethod
    def from_xywh(
        cls,
        boxes: Sequence[Sequence[float]],
        labels: list[int],
        scores: list[float] | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Convert boxes [n] of (left, top, width, height) in pixels; masks [n, height, width]."""
        corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
        return cls(corners, labels, scores, masks)

    def above(self, score: float) -> Boxes:
        """Return those with at least this score; all where there are no scores."""
        if self.scores is None:
            return self
        return self._only([index for index, value in enumerate(self.scores) if value >= score])

    def best(self, count: int) -> Boxes:
        """Return those with the highest scores, at most `count`."""
        scores = self.scores or []
        return self._only(sorted(range(len(scores)), key=lambda index: -scores[index])[:count])

    def _only(self, keep: list[int]) -> Boxes:
        return Boxes(
            corners=[self.corners[index] for index in keep],
            labels=[self.labels[index] for index in keep],
            scores=None if self.scores is None else [self.scores[index] for index in keep],
            masks=None if self.masks is None else self.masks[keep],
        )


@dataclass(frozen=True)
class Segments:
    """Holds n panoptic segments of one image."""

    ids: NDArray[np.integer]  # [height, width] 0 void, i + 1 segment i
    labels: list[int]  # [n] class index

    @classmethod
    def of(cls, segments: PanopticSegments) -> Self:
        return cls(segments.ids.numpy(), segments.labels.tolist())

    @classmethod
    def from_masks(cls, masks: Tensor, labels: Tensor) -> Self:
        """Convert masks [n, height, width], of which the last wins where they overlap, and labels [n]."""
        numbers = np.arange(1, len(masks) + 1)[:, None, None]
        return cls((masks.cpu().numpy() * numbers).max(axis=0, initial=0), labels.tolist())


@dataclass(frozen=True)
class Example:
    """Holds an image, what is in it and what was found."""

    image: Image.Image
    truth: Boxes
    predicted: Boxes
    names: Sequence[str]  # of all classes; index = label
    caption: str = ""  # e.g. the file's name
    segments: tuple[Segments, Segments] | None = None  # true and predicted, of a panoptic evaluation


def first_seen(loader: TrainLoader, count: int) -> list[Example]:
    """Return the first images that a training sees, augmented as it sees them."""
    examples = []
    for sample in loader.first(count):
        height, width = sample.image.shape[-2:]
        corners = cxcywh_to_xyxy(sample.boxes) * torch.tensor([width, height, width, height])
        examples.append(
            Example(
                image=to_pil_image(sample.image),
                truth=Boxes.from_tensors(corners, sample.labels),
                predicted=Boxes([], [], []),
                names=loader.dataset.classes.names,
                caption=sample.file.rpartition("/")[2],
            )
        )
    return examples
