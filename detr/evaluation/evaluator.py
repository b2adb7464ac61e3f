"""What every evaluator offers: predictions of one batch after the other go in, numbers come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from detr.evaluation.metrics import Evaluation
from detr.evaluation.results import Results
from detr.evaluation.submission import Submission
from detr.structures import Batch, Classification, Detections, PanopticSegments, Predictions


@dataclass
class Findings:
    """Holds what an evaluator finds in the predictions of a batch."""

    found: list[Any]  # of each image, for `Evaluator.take`: compact, and fit to be sent to another process
    detections: list[Detections]  # of each image, to be shown
    segments: list[PanopticSegments] | None = None  # of each image, to be shown instead


class Evaluator(ABC):
    """Collects what is found in the images of a split, whichever process found it, and sums it up.

    Attributes:
        needs_masks: the override that asks for a detector with masks, if any.
        metric_names: what `Evaluation.named` will have.
        submission: what is submitted of panoptic segments since the last reset; None: there are none.
    """

    needs_masks: str | None = None
    metric_names: list[str]
    submission: Submission | None = None

    @abstractmethod
    def reset(self) -> None:
        """Forget all images."""

    @abstractmethod
    def find(self, predictions: Predictions, batch: Batch, classification: Classification) -> Findings:
        """Return what the predictions of a batch come to in the original images. The evaluator takes nothing yet."""

    @abstractmethod
    def take(self, found: list[Any]) -> None:
        """Add what `find` found, here or in another process.

        Raises:
            ValueError: an image is not in the ground truth, or came before.
            UserError: the disk is full.
        """

    @abstractmethod
    def results(self) -> Results:
        """Return all detections since the last reset, in COCO's results format, in the order they were taken."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """Evaluate everything since the last reset.

        Raises:
            ValueError: nothing was taken.
        """
