"""The set criterion: match, then sum the terms over layers and groups (DETR, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from detr.losses.masks import MaskTerm, matched_masks
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import Term
from detr.structures import Classification, Group, Losses, Matches, Normalizer, Predictions, Targets


class SetCriterion(nn.Module):
    """Matches predictions to objects and sums the weighted terms.

    Args:
        matcher: who answers for which object.
        terms: by name; switch one off with `~loss.terms.NAME`.
        mask_terms: by name, for a model with a mask head.
        classification: what the class logits mean; terms and matcher must agree.
        normalization: `process`: as the paper, cross-entropy is a mean over the micro-batch of one process and box
            losses are divided by the objects of the whole step; `global`: everything as if the micro-batches of all
            processes were one batch, as far as they have equally many queries: softmax cross-entropy takes its own
            micro-batch's number for all, though that of denoising depends on the fullest image and that of the
            encoder's proposals on the padded size.
        auxiliary: supervise every decoder layer (the paper's auxiliary losses) or only the last.

    Raises:
        ValueError: a term or the matcher reads the logits otherwise.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        terms: Mapping[str, Term],
        mask_terms: Mapping[str, MaskTerm] | None = None,
        classification: Classification = "softmax",
        normalization: Literal["process", "global"] = "process",
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        readers = {"matcher": matcher.classification} | {
            f"terms.{name}": term.classification for name, term in terms.items() if term.classification
        }
        for reader, meaning in readers.items():
            if meaning != classification:
                raise ValueError(
                    f"{reader} reads logits as {meaning}, but classification is {classification}; "
                    "choose both with loss=detr (softmax), or loss=focal or varifocal (sigmoid)"
                )
        self.matcher = matcher
        self.terms = nn.ModuleDict(terms)
        self.mask_terms = nn.ModuleDict(mask_terms or {})
        self.classification = classification
        self.normalization = normalization
        self.auxiliary = auxiliary

    def forward(self, predictions: Predictions, targets: Targets, normalizer: Normalizer) -> Losses:
        """Losses of one micro-batch, in fp32 whatever the precision of the model.

        Raises:
            NonFiniteError: from the matcher.
        """
        if not self.auxiliary:
            predictions = _last_layer(predictions)
        with torch.autocast(predictions.logits.device.type, enabled=False):
            predictions = predictions.at_least_fp32()
            matches, group_matches = self.matcher(predictions, targets)
            terms = self._terms(predictions, targets, matches, normalizer)
            if self.mask_terms:
                masks = matched_masks(predictions, targets, matches)
                terms |= {name: term.weight * term(masks, normalizer) for name, term in self.mask_terms.items()}
            for name, group in predictions.groups.items():
                known = group_matches[name] if group.matches is None else group.matches
                terms |= self._group_terms(name, group, targets, known, normalizer)
            total = torch.stack([value.sum() for value in terms.values()]).sum()
            metrics = self._metrics(predictions, targets, matches)
        return Losses(total, terms, metrics)

    def _terms(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Normalizer
    ) -> dict[str, Tensor]:
        whole_step = self.normalization == "global"
        return {
            name: term.weight * term(predictions, targets, matches, normalizer, whole_step)
            for name, term in self.terms.items()
        }

    def _group_terms(
        self, name: str, group: Group, targets: Targets, matches: Matches, normalizer: Normalizer
    ) -> dict[str, Tensor]:
        normalizer = replace(normalizer, objects=normalizer.objects * group.copies)
        if group.class_agnostic:
            targets = replace(targets, labels=torch.zeros_like(targets.labels))
        terms = self._terms(group.predictions, targets, matches, normalizer)
        return {f"{name}/{term}": group.weight * value for term, value in terms.items()}

    @torch.no_grad()
    def _metrics(self, predictions: Predictions, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """Percentage of matched queries with a wrong class, and the mean error of the number of objects; each [L]."""
        logits = predictions.logits
        layers, images = logits.shape[:2]
        best = logits.argmax(-1)
        wrong = best[matches.layer, matches.image, matches.query] != targets.labels[matches.target]
        # Not torch.bincount, which makes the host wait for the device.
        per_layer = _count(matches.layer, torch.ones_like(matches.layer), layers).clamp(min=1)
        class_error = 100 * _count(matches.layer, wrong.long(), layers) / per_layer
        softmax = self.classification == "softmax"
        found = best != logits.shape[-1] - 1 if softmax else (logits > 0).any(-1)  # more likely than not
        counts = _count(targets.image, torch.ones_like(targets.image), images)
        cardinality = (found.sum(-1) - counts).abs().float().mean(-1)
        return {"class_error": class_error, "cardinality_error": cardinality}


def _count(places: Tensor, amounts: Tensor, size: int) -> Tensor:
    """Integers [M] added up at their places [M], as [size]."""
    return amounts.new_zeros(size).index_add(0, places, amounts)


def _last_layer(predictions: Predictions) -> Predictions:
    """Without the layers before the last one, of the groups, too."""
    groups = {
        name: replace(
            group,
            predictions=_last_layer(group.predictions),
            matches=None if group.matches is None else _of_one_layer(group.matches, len(group.predictions.logits)),
        )
        for name, group in predictions.groups.items()
    }
    return replace(predictions, logits=predictions.logits[-1:], boxes=predictions.boxes[-1:], groups=groups)


def _of_one_layer(matches: Matches, layers: int) -> Matches:
    """Of matches that are the same in each of `layers` (`Matches.for_layers`), those of the first, which come first."""
    first = slice(len(matches) // layers)
    return Matches(*(each[first] for each in (matches.layer, matches.image, matches.query, matches.target)))
