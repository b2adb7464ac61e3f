"""The set criterion: match, then sum the terms over layers and groups (DETR, section 3.1)."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from detr.errors import UserError, described, shown
from detr.losses.matched import Matched
from detr.losses.matcher import Matcher
from detr.losses.terms import Term
from detr.losses.union import united
from detr.structures import Classification, Group, Losses, Matches, Normalizer, Predictions, Targets, at_least_fp32

RESERVED = {  # in rows, all of these and the terms are called train/NAME
    *("loss", "class_error", "cardinality_error", "grad_norm", "lr"),
    *("seconds", "images_per_second", "step_seconds", "memory_gb"),
}


class SetCriterion(nn.Module):
    """Matches predictions to objects and sums the weighted terms.

    Args:
        matcher: who answers for which object.
        terms: by name; switch one off with `~loss.terms.NAME`.
        classification: what the class logits mean; terms and matcher must agree.
        normalization: `process`: as the paper, cross-entropy is a mean over the micro-batch of one process and box
            losses are divided by the objects of the whole step; `global`: everything as if the micro-batches of all
            processes were one batch, as far as they have equally many queries: softmax cross-entropy takes its own
            micro-batch's number for all, though that of denoising depends on the fullest image and that of the
            encoder's proposals on the padded size.
        auxiliary: supervise every decoder layer (the paper's auxiliary losses) or only the last.
        unite_matches: terms of boxes let every layer answer for what any layer is matched to (D-FINE); else, as all
            others do, for what it is matched to itself.

    Raises:
        ValueError: there are no terms, or one or the matcher reads the logits otherwise.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        terms: Mapping[str, Term],
        classification: Classification = "softmax",
        normalization: Literal["process", "global"] = "process",
        auxiliary: bool = True,
        unite_matches: bool = False,
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("terms: expected at least one, got none")
        for name in terms:
            if name in RESERVED or "/" in name:
                why = "contains a slash" if "/" in name else "is that of another value in the rows"
                raise ValueError(f"terms.{name}: this name {why}; give the term another one")
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
        self.classification = classification
        self.normalization = normalization
        self.auxiliary, self.unite_matches = auxiliary, unite_matches

    def check_extras(self, extras: Collection[str]) -> None:
        """Raise UserError if a term reads what the decoder does not say.

        Args:
            extras: names of what it says beside logits and boxes.
        """
        for name, term in self.terms.items():
            missing = [extra for extra in cast("Term", term).extras if extra not in extras]
            if missing:
                raise UserError(
                    f"loss.terms.{name} needs {missing[0]}, which this transformer.decoder does not predict; use "
                    "another loss, or parts that do (distributions: transformer/decoder=d_fine; mask_queries: "
                    "mask_head=product)"
                )

    def normalizer(self, *, objects: float, images: float, micro_batches: int, processes: int) -> Normalizer:
        """Return what the losses of each micro-batch of an optimizer step are divided by.

        Args:
            objects, images: of the whole step, in all processes.
            micro_batches: of this process in the step.
            processes: how many there are.
        """
        whole_step = self.normalization == "global"
        # The paper's code: at least one object a process on average; as one batch, at least one in all of it.
        least = 1 / processes if whole_step else 1
        return Normalizer(max(least, objects / processes), images / processes, micro_batches, whole_step, processes)

    def forward(self, predictions: Predictions, targets: Targets, normalizer: Normalizer) -> Losses:
        """Return losses of one micro-batch, in fp32 at any precision of the model.

        Raises:
            NonFiniteError: from the matcher.
        """
        self.check_extras(predictions.extras)
        if not self.auxiliary:
            predictions = predictions.last_layer()
        with torch.autocast(predictions.logits.device.type, enabled=False):
            groups = predictions.map(at_least_fp32).supervised()
            matches = self.matcher(groups, targets)
            _check_matches(self.matcher, matches, groups)
            seen: dict[str, Matched] = {}
            for name, group in groups.items():
                seen[name] = _matched(group, targets, matches[name], normalizer, seen)
            boxed = united(groups, seen) if self.unite_matches else seen
            terms: dict[str, Tensor] = {}
            for name, group in groups.items():
                terms |= self._terms(name, group.weight, seen[name], boxed[name])
            total = torch.stack([value.sum() for value in terms.values()]).sum()
            metrics = self._metrics(seen[""])
        return Losses(total, terms, metrics)

    def _terms(self, group: str, weight: float, seen: Matched, boxed: Matched) -> dict[str, Tensor]:
        """Weighted losses by name; those of a group with its name before them. `boxed` is what terms of boxes see."""
        found = {}
        for name, module in self.terms.items():
            term = cast("Term", module)
            matched = boxed if term.localizes else seen
            if not group or (term.of_groups and set(term.extras) <= matched.predictions.extras.keys()):
                value = term(matched)
                _check_shape(name, term, value, layers=len(matched.predictions.logits))
                found[f"{group}/{name}" if group else name] = weight * (term.weight * value)
        return found

    @torch.no_grad()
    def _metrics(self, matched: Matched) -> dict[str, Tensor]:
        """Percentage of matched queries with a wrong class, and the mean error of the number of objects; each [L]."""
        logits, matches, targets = matched.predictions.logits, matched.matches, matched.targets
        layers, images = logits.shape[:2]
        wrong = logits[matches.index].argmax(-1) != matched.labels()
        # Not torch.bincount, which makes the host wait for the device.
        per_layer = _count(matches.layer, torch.ones_like(matches.layer), layers).clamp(min=1)
        class_error = 100 * _count(matches.layer, wrong.long(), layers) / per_layer
        # More likely than not; the largest logit is found in a tenth of the time that its index takes.
        softmax = self.classification == "softmax"
        found = logits[..., :-1].amax(-1) >= logits[..., -1] if softmax else (logits > 0).any(-1)
        counts = _count(targets.image, torch.ones_like(targets.image), images)
        cardinality = (found.sum(-1) - counts).abs().float().mean(-1)
        return {"class_error": class_error, "cardinality_error": cardinality}


def _check_matches(matcher: Matcher, matches: Mapping[str, Matches], groups: Mapping[str, Group]) -> None:
    """Raises UserError unless a matcher says of every group who answers for which object."""
    for name in groups:
        found = matches.get(name) if isinstance(matches, Mapping) else None
        if not isinstance(found, Matches):
            raise UserError(
                f"matcher: {described(type(matcher))} returns {shown(found)} for the group {name!r}, expected "
                "detr.structures.Matches for every group by its name"
            )


def _check_shape(name: str, term: Term, value: Tensor, layers: int) -> None:
    """Raises UserError unless a term gives a value a layer: a sum over others would be the loss all the same."""
    wanted = [1 if term.last_layer_only else layers]
    found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if found != wanted:
        raise UserError(
            f"loss.terms.{name}: {type(term).__qualname__} ({inspect.getfile(type(term))}) returns {found}, expected "
            f"{wanted}, the loss of each layer"
        )


def _matched(
    group: Group, targets: Targets, matches: Matches, normalizer: Normalizer, seen: Mapping[str, Matched]
) -> Matched:
    """What the terms of a group see; `seen` is of all groups, and may still be filled."""
    if group.class_agnostic:
        targets = replace(targets, labels=torch.zeros_like(targets.labels))
    normalizer = replace(normalizer, objects=normalizer.objects * group.answers)
    return Matched(group.outputs, targets, matches, normalizer, seen, group.copies)


def _count(places: Tensor, amounts: Tensor, size: int) -> Tensor:
    """Integers [M] added up at their places [M], as [size]."""
    return amounts.new_zeros(size).index_add(0, places, amounts)
