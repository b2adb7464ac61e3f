"""What a loss term sees: outputs beside the objects that they answer for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detr.errors import UserError
from detr.structures import Matches, Normalizer, Predictions, Targets


class Masks(NamedTuple):
    """Holds masks of the last layer's M matched queries and of their objects, in the size of the padded images."""

    logits: Tensor  # [M, H, W]
    wanted: Tensor  # [M, H, W] 0 or 1


@dataclass
class Matched:
    """Holds the outputs of one group, the objects, who answers for which, and what losses are divided by.

    The outputs that count are a group, too: the one without a name.
    """

    predictions: Predictions
    targets: Targets
    matches: Matches
    normalizer: Normalizer
    groups: Mapping[str, Matched]  # all of them by name, for terms that compare groups or layers with each other
    copies: int = 1  # queries that answer for one object
    memo: dict[Any, Any] = field(default_factory=dict)  # what terms have in common, by what they ask for

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Return predicted and wanted boxes of the M pairs, cxcywh in [0, 1], both [M, 4]."""
        return self._boxes

    @cached_property
    def _boxes(self) -> tuple[Tensor, Tensor]:
        """Picked out once for all terms, and so is their gradient put back once."""
        predicted = self.predictions.boxes[self.matches.index]
        return predicted, self.targets.boxes[self.matches.target].to(predicted)

    def labels(self) -> Tensor:
        """Return [M] the class of each pair's object."""
        return self.targets.labels[self.matches.target]

    def labels_of_queries(self, elsewhere: int) -> Tensor:
        """Return [L, B, Q] the class wanted of every query; `elsewhere` of those that answer for no object."""
        labels = self.targets.labels.new_full(self.predictions.logits.shape[:-1], elsewhere)
        labels[self.matches.index] = self.labels()
        return labels

    def ranks(self, quality: Tensor) -> Tensor:
        """Return [M] how many pairs of the same object and layer are better than each, by their quality [M]."""
        objects = self.matches.layer * len(self.targets) + self.matches.target
        order = quality.argsort(descending=True, stable=True)
        order = order[objects[order].argsort(stable=True)]  # objects one after the other, the best pair of each first
        sorted_objects = objects[order]
        places = torch.arange(len(order), device=order.device)
        ranks = places - torch.searchsorted(sorted_objects, sorted_objects)
        return torch.empty_like(ranks).index_put((order,), ranks)

    def sum_by_layer(self, values: Tensor) -> Tensor:
        """Sum values [M] of the pairs to [L]."""
        return values.new_zeros(len(self.predictions.logits)).index_add(0, self.matches.layer, values)

    @cached_property
    def masks(self) -> Masks:
        """Return masks of what the last layer matched, brought to the size of the images (bilinear).

        Raises:
            UserError: the model has no mask head, or the targets have no masks.
        """
        if self.predictions.masks is None or self.targets.masks is None:
            missing = "a mask head" if self.predictions.masks is None else "masks in the targets"
            raise UserError(f"loss terms of masks need {missing}; choose mask_head=fpn, or mask_head=none")
        matches = self.matches.of_last_layer()
        logits = self.predictions.masks(matches.image, matches.query)
        wanted = self.targets.masks[matches.target].to(logits)
        scaled = F.interpolate(logits[:, None], size=wanted.shape[-2:], mode="bilinear", align_corners=False)
        return Masks(scaled[:, 0], wanted)
