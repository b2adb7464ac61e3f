"""Evaluating with tiles: what the whole image shows together with what its tiles show."""

from __future__ import annotations

from typing import Any

from detr.config.containers import Section
from detr.data.images import read_image
from detr.errors import UserError
from detr.evaluation.coco import CocoEvaluator
from detr.evaluation.evaluator import Evaluator, Findings
from detr.evaluation.metrics import Evaluation
from detr.evaluation.results import Results
from detr.inference.choice import Choice
from detr.inference.detector import Detector
from detr.inference.tiles import Tiling
from detr.models.detr import DETR
from detr.structures import Batch, Classes, Classification, Predictions


def tiled(
    evaluator: Evaluator, model: DETR, classes: Classes, values: Section, size: int, overlap: float
) -> TiledEvaluator:
    """Return an evaluator that also looks at tiles.

    Args:
        evaluator: of boxes.
        model: that is evaluated.
        classes: of the model.
        values: the config that it was built from.
        size: side of the tiles in pixels.
        overlap: of neighbouring tiles, as a part of their side.

    Raises:
        UserError: masks or segments are to be evaluated.
    """
    return TiledEvaluator(evaluator, Detector(model, classes, values), Tiling(size, overlap))


class TiledEvaluator(Evaluator):
    """Evaluates boxes as another evaluator does, after what was found in tiles of large images has been added.

    Images that fit a single tile are evaluated as without this.
    """

    def __init__(self, evaluator: Evaluator, detector: Detector, tiling: Tiling) -> None:
        """
        Args:
            evaluator: of boxes.
            detector: of the same model.
            tiling: how images are cut.

        Raises:
            UserError: masks or segments are to be evaluated.
        """
        if not isinstance(evaluator, CocoEvaluator) or evaluator.needs_masks is not None:
            raise UserError(
                f"tiles={tiling.size}: only boxes are evaluated in tiles; choose evaluator=coco evaluator.masks=false"
            )
        self.evaluator, self.detector, self.tiling = evaluator, detector, tiling
        self.choice = Choice.of(detector.classes)

    @property
    def metric_names(self) -> list[str]:  # type: ignore[override]
        return self.evaluator.metric_names

    def reset(self) -> None:
        self.evaluator.reset()

    def find(self, predictions: Predictions, batch: Batch, classification: Classification) -> Findings:
        findings = self.evaluator.find(predictions, batch, classification)
        for index, (file, size) in enumerate(zip(batch.files, batch.original_sizes.tolist(), strict=True)):
            height, width = size
            if self.tiling.views((width, height)):
                image, whole = read_image(file, size=(height, width)), findings.detections[index]
                found = self.detector.with_tiles(image, whole, self.tiling, self.choice, self.detector.batch_size)
                findings.detections[index] = found
                findings.found[index : index + 1] = self.evaluator.convert([batch.image_ids[index]], [found])
        return findings

    def take(self, found: list[Any]) -> None:
        self.evaluator.take(found)

    def results(self) -> Results:
        return self.evaluator.results()

    def compute(self) -> Evaluation:
        return self.evaluator.compute()
