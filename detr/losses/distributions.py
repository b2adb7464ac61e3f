"""Losses of boxes as distributions (D-FINE, Peng et al. 2024, section 4; Peterande/D-FINE, dfine_criterion.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy, iou
from detr.losses.matched import Matched
from detr.losses.terms import Term
from detr.models.distribution import between_bins, movement


class FineGrainedLocalization(Term):
    """Computes cross-entropy with the two bins around where an edge belongs, weighted by the box's IoU (equation 6).

    The nearer a bin, the more it is wanted. Summed over edges, over the number of objects; no gradient goes through the
    IoU.

    Args:
        weight: what the criterion multiplies it with; at least 0.
    """

    localizes = True
    extras = ("distributions", "reference", "bins")

    def __init__(self, *, weight: float = 0.15) -> None:
        super().__init__(weight=weight)

    def forward(self, matched: Matched) -> Tensor:
        extras, index = matched.predictions.extras, matched.matches.index
        _, wanted = matched.boxes()
        places = movement(extras["reference"][index], wanted)
        left, share = between_bins(places, extras["bins"][0, 0, 0])
        log_probability = extras["distributions"][index].log_softmax(-1)
        nearby = log_probability.gather(-1, torch.stack([left, left + 1], -1))
        entropies = -((1 - share) * nearby[..., 0] + share * nearby[..., 1]).sum(-1)
        return matched.sum_by_layer(entropies * overlap(matched)) / matched.normalizer.objects


class DistributionDistillation(Term):
    """Computes how far each layer's distributions are from the last layer's, which teach them (equation 7, "DDF").

    Kullback-Leibler divergences with a temperature, weighted by the IoU of boxes that answer for an object, and of
    others by the surest class of the last layer. Both kinds have a mean of their own, weighted by the roots of their
    numbers among the queries that count. No gradient reaches the last layer.

    Args:
        weight: what the criterion multiplies it with; at least 0.
        temperature: T, above 0.

    Raises:
        ValueError: a number out of its range.
    """

    classification = "sigmoid"
    localizes = True
    extras = ("distributions",)

    def __init__(self, *, weight: float = 1.5, temperature: float = 5.0) -> None:
        super().__init__(weight=weight)
        if temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        self.temperature = temperature

    def forward(self, matched: Matched) -> Tensor:
        logits, index = matched.predictions.logits, matched.matches.index
        found = torch.zeros_like(logits[..., 0]).index_put(index, logits.new_ones(()))
        sure = logits[-1].detach().sigmoid().amax(-1).expand_as(found)
        losses = sure.index_put(index, overlap(matched)) * self.divergences(matched.predictions.extras["distributions"])
        pairs, others = counts(matched)
        of_pairs = (losses * found).sum((1, 2)) / max(pairs, 1)
        of_others = (losses * (1 - found)).sum((1, 2)) / max(others, 1)
        first, second = (math.sqrt(count) for count in counts(matched.groups[""]))
        balanced = (first * of_pairs + second * of_others) / (first + second)
        return balanced if matched.normalizer.whole_step else balanced / matched.normalizer.micro_batches

    def divergences(self, distributions: Tensor) -> Tensor:
        """Return [L, B, Q] of logits [L, B, Q, 4, bins + 1]: means over the edges, times the temperature squared."""
        teacher = (distributions[-1].detach() / self.temperature).log_softmax(-1)
        students = (distributions[:-1] / self.temperature).log_softmax(-1)
        divergences = (teacher.exp() * (teacher - students)).sum(-1).mean(-1) * self.temperature**2
        return torch.cat([divergences, torch.zeros_like(distributions[-1:, ..., 0, 0])])


def overlap(matched: Matched) -> Tensor:
    """Return [M] the IoU of each pair's boxes, without a gradient."""
    predicted, wanted = matched.boxes()
    return iou(cxcywh_to_xyxy(predicted.detach()), cxcywh_to_xyxy(wanted))


def counts(matched: Matched) -> tuple[float, float]:
    """Return how many queries of a layer answer for an object and how many do not; or a process's share of all."""
    images, queries = matched.predictions.logits.shape[1:3]
    if matched.normalizer.whole_step:
        return matched.normalizer.objects, matched.normalizer.images * queries - matched.normalizer.objects
    pairs = len(matched.matches) // matched.matches.layers
    return pairs, images * queries - pairs
