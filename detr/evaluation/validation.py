"""One pass over a split: predictions, metrics, and examples to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr import distributed
from detr.boxes import cxcywh_to_xyxy
from detr.data.dataset import ImageSet
from detr.data.images import read_image
from detr.data.loader import EvalLoader
from detr.errors import UserError, described, shown
from detr.evaluation.evaluator import Evaluator, Findings
from detr.evaluation.examples import KEPT_SCORE, Boxes, Example, Segments
from detr.evaluation.metrics import Evaluation
from detr.evaluation.results import Results
from detr.evaluation.submission import Submission
from detr.losses.criterion import SetCriterion
from detr.structures import Batch, Classification, Predictions

Autocast = Callable[[], Any]  # gives the context that the model computes in


@dataclass
class Outcome:
    """Holds what a pass over a split found."""

    results: Results  # COCO results format
    dataset: ImageSet  # that was looked at
    evaluation: Evaluation | None = None  # None: the split has no annotations
    loss: float | None = None
    examples: list[Example] = field(default_factory=list)
    submission: Submission | None = None  # of panoptic segments, where they are evaluated

    @property
    def metrics(self) -> dict[str, float]:
        """Return every number of the evaluation by its name, and the loss where it was computed."""
        numbers = self.evaluation.named() if self.evaluation else {}
        return numbers | ({"loss": self.loss} if self.loss is not None else {})


@dataclass
class _Part:
    """What a pass keeps of one batch: compact, since it may be sent to another process."""

    found: list[Any]  # of each image, for the evaluator
    examples: list[Example]
    loss: float | None  # times the number of images

    def __len__(self) -> int:
        return len(self.found)


class Validation:
    """Evaluates a model on one split, image by image exactly once.

    Several processes share the batches among them. The first one takes what they found in the order of the split, so
    that everything is as if it were alone.

    Args:
        loader: of the split, in order.
        evaluator: of the same split; says whether masks and segments are looked at.
        device: where the model is.
        autocast: the context of the model's forward pass.
        classification: what the class logits mean.
        criterion: for the loss; None: no loss.
        num_examples: how many images to keep with their predictions, the first of the split.
    """

    def __init__(
        self,
        *,
        loader: EvalLoader,
        evaluator: Evaluator,
        device: torch.device,
        autocast: Autocast,
        classification: Classification,
        criterion: SetCriterion | None = None,
        num_examples: int = 8,
    ) -> None:
        self.loader = loader
        self.evaluator = evaluator
        self.device = device
        self.autocast = autocast
        self.classification = classification
        self.criterion = criterion
        self.num_examples = num_examples

    @property
    def metric_names(self) -> list[str]:
        """Return what `Outcome.metrics` will have."""
        if not self.loader.dataset.annotated:
            return []
        return self.evaluator.metric_names + (["loss"] if self.criterion is not None else [])

    @torch.inference_mode()
    def __call__(self, model: nn.Module, advance: Callable[[int], None] = lambda images: None) -> Outcome | None:
        """
        Args:
            model: is put into evaluation mode.
            advance: is told after each round of batches how many images were done, for a progress bar; called equally
                often in every process, it may raise to break off.

        Returns:
            None in all processes but the first.
        """
        model.eval()
        self.evaluator.reset()
        outcome = Outcome(
            results=self.evaluator.results(),
            dataset=self.loader.dataset,
            loss=None if self.criterion is None else 0.0,
        )
        images = 0
        for index, batch in enumerate(self.loader.rounds()):
            mine = None if batch is None else self._part(model, batch, self.loader.sampler.starts[index])
            parts = [each for each in distributed.gather(mine) if each is not None]
            for part in parts:
                self._take(part, outcome)
            images += sum(map(len, parts))
            advance(sum(map(len, parts)))
        if not distributed.is_main():
            return None
        if outcome.loss is not None:
            outcome.loss /= images
        if self.loader.dataset.annotated:
            outcome.evaluation = self.evaluator.compute()
            self._check(isinstance(outcome.evaluation, Evaluation), "compute", outcome.evaluation, "an Evaluation")
        outcome.submission = self.evaluator.submission
        return outcome

    def _check(self, right: bool, method: str, given: Any, expected: str) -> None:
        """Raises UserError where an evaluator does not give what is expected of it."""
        if not right:
            made_by = described(type(self.evaluator))
            raise UserError(f"evaluator: {made_by}.{method} returns {shown(given)}, expected {expected}")

    def _part(self, model: nn.Module, cpu_batch: Batch, start: int) -> _Part:
        """What is found on one batch, which begins with image `start` of the split."""
        batch = cpu_batch.to(self.device, non_blocking=True)
        with self.autocast():
            predictions = model(batch.images, batch.padding)
        findings = self.evaluator.find(predictions, batch, self.classification)
        self._check(isinstance(findings, Findings), "find", findings, "Findings")
        self._check(len(findings.found) == len(batch), "find", findings.found, f"what was found in {len(batch)} images")
        return _Part(
            found=findings.found,
            examples=self._examples(cpu_batch, findings, self.num_examples - start),
            loss=self._loss(predictions, batch),
        )

    def _loss(self, predictions: Predictions, batch: Batch) -> float | None:
        if self.criterion is None:
            return None
        normalizer = self.criterion.normalizer(
            objects=len(batch.targets), images=len(batch), micro_batches=1, processes=1
        )
        return self.criterion(predictions, batch.targets, normalizer).total.item() * len(batch)

    def _take(self, part: _Part, outcome: Outcome) -> None:
        """Add one batch, of whichever process."""
        self.evaluator.take(part.found)
        outcome.examples += part.examples
        if part.loss is not None and outcome.loss is not None:
            outcome.loss += part.loss

    def _examples(self, batch: Batch, findings: Findings, count: int) -> list[Example]:
        """The first `count` images of a batch, none if it is negative, read anew in their original size."""
        names, segments = self.loader.dataset.classes.names, findings.segments
        examples = []
        for index in range(min(count, len(batch))):
            height, width = batch.original_sizes[index].tolist()
            mine = batch.targets.image == index
            corners = cxcywh_to_xyxy(batch.targets.boxes[mine]) * torch.tensor([width, height, width, height])
            masks = _truth_masks(batch, index)
            true = None if masks is None else Segments.from_masks(masks, batch.targets.labels[mine])
            examples.append(
                Example(
                    image=read_image(batch.files[index], size=(height, width)),
                    truth=Boxes.from_tensors(corners, batch.targets.labels[mine], masks=masks),
                    predicted=Boxes.of(findings.detections[index]).above(KEPT_SCORE),
                    names=names,
                    caption=batch.files[index].rpartition("/")[2],
                    segments=None if segments is None or true is None else (true, Segments.of(segments[index])),
                )
            )
        return examples


def _truth_masks(batch: Batch, index: int) -> Tensor | None:
    """[n, height, width] the masks of one image in its original size."""
    if batch.targets.masks is None:
        return None
    height, width = batch.sizes[index].tolist()
    masks = batch.targets.masks[batch.targets.image == index, :height, :width].to(torch.uint8)
    return F.interpolate(masks[:, None], size=batch.original_sizes[index].tolist(), mode="nearest")[:, 0].bool()
