"""Panoptic evaluation: panoptic quality, with AP of boxes and masks beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.errors import UserError
from detr.evaluation.backends import Backend
from detr.evaluation.coco import CocoEvaluator, Converted
from detr.evaluation.evaluator import Findings
from detr.evaluation.metrics import Evaluation
from detr.evaluation.panoptic_quality import PanopticQuality
from detr.evaluation.segments import panoptic_segments
from detr.evaluation.submission import Submission
from detr.structures import Batch, Classes, Classification, PanopticSegments, Predictions


class MinScore(TypedDict):
    """Holds what a query's best class must score to become a segment, by what class logits mean."""

    softmax: float
    sigmoid: float


class PanopticEvaluator(CocoEvaluator):
    """Computes what `CocoEvaluator` does, and the panoptic quality of segments."""

    def __init__(
        self,
        *,
        backend: Backend,
        ground_truth: Mapping[str, Any],
        classes: Classes,
        min_score: MinScore,
        masks: bool = False,
        detections_per_image: int = 100,
    ) -> None:
        """
        Args:
            ground_truth: COCO JSON with the panoptic one under "panoptic", as `PanopticImages.ground_truth` has it.
            min_score: of segments; scores of a sigmoid are lower than those of a softmax.
            backend, classes, masks, detections_per_image: as for `CocoEvaluator`.

        Raises:
            UserError: the data set is not panoptic; else as `CocoEvaluator`.
        """
        if "panoptic" not in ground_truth:
            raise UserError(
                "evaluator=panoptic needs segments to compare with, which this data set does not have; choose "
                "dataset=coco_panoptic or dataset=shapes_panoptic, or evaluator=coco"
            )
        self.min_score = min_score
        self.quality = PanopticQuality(ground_truth=ground_truth["panoptic"], classes=classes)
        super().__init__(
            backend=backend,
            ground_truth=ground_truth,
            classes=classes,
            masks=masks,
            detections_per_image=detections_per_image,
        )

    def reset(self) -> None:
        super().reset()
        self.quality.reset()

    @property
    def needs_masks(self) -> str:  # type: ignore[override]
        return "evaluator=panoptic"

    @property
    def metric_names(self) -> list[str]:  # type: ignore[override]
        return super().metric_names + self.quality.metric_names

    @property
    def submission(self) -> Submission:  # type: ignore[override]
        return self.quality.submission

    def find(self, predictions: Predictions, batch: Batch, classification: Classification) -> Findings:
        findings = super().find(predictions, batch, classification)
        segments = self.segments(predictions, batch, classification)
        return Findings(list(zip(findings.found, segments, strict=True)), findings.detections, segments)

    def take(self, found: list[tuple[Converted, PanopticSegments]]) -> None:  # type: ignore[override]
        super().take([converted for converted, _ in found])
        self.quality.update([converted.image_id for converted, _ in found], [segments for _, segments in found])

    def segments(
        self, predictions: Predictions, batch: Batch, classification: Classification
    ) -> list[PanopticSegments]:
        """Return the segments of each image of a batch. The predictions must have masks."""
        return panoptic_segments(
            predictions,
            batch,
            classification=classification,
            things=self.quality.things,
            min_score=self.min_score[classification],
        )

    def compute(self) -> Evaluation:
        return replace(super().compute(), panoptic=self.quality.compute())
