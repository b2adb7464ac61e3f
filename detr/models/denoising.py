"""Objects with noise as queries, whose answers need no matching (DN-DETR, Li et al. 2022; DINO, Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr.models.box_coder import BoxCoder
from detr.models.groups import append, blocks
from detr.models.structures import QuerySet
from detr.structures import Group, Matches, Targets


@dataclass(frozen=True)
class Noised:
    """Holds noisy objects, the queries of all groups; with negatives, the second half of each group is no object."""

    labels: Tensor  # [B, groups · size] class index; num_classes: no object
    boxes: Tensor  # [B, groups · size, 4] cxcywh in [0, 1]
    matches: Matches  # which query is to become which object
    groups: int
    size: int  # of a group


class Denoising(nn.Module):
    """Makes groups of all objects as DN-DETR (section 4), their classes flipped and boxes shifted and scaled at random.

    A query's content is an embedding of the class and an indicator; its anchor is the box. Images with fewer objects
    than the fullest of the batch, and batches without any, are filled up with queries that stand for no object and
    learn to say so: thus every parameter has a gradient in every step. Such queries are boxes of the whole image with a
    content that learns, and negatives like any other. DN-DETR's code leaves them out of its losses; they are zeros in
    its logits and its content, as in DINO's, and in RT-DETR's boxes of nothing in the corner. The losses are divided by
    the objects of all processes; DN-DETR's, by those of its own process.

    Args:
        num_classes: of the data set.
        d_model: width of the transformer.
        box_coder: how boxes follow from references.
        groups: how often all objects are given.
        label_noise: the part of the labels that are replaced by any class.
        box_noise: λ of the centres (in half sides) and of the sides (in sides), below 1.
        weight: of the losses.

    Raises:
        ValueError: a number out of its range.
    """

    negatives = False  # whether as many queries too far from the objects follow in each group

    def __init__(
        self,
        *,
        num_classes: int,
        box_coder: BoxCoder,
        d_model: int = 256,
        groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups: expected at least 1, got {groups}")
        if not (0 <= label_noise <= 1 and 0 <= box_noise <= 1):
            raise ValueError(f"label_noise, box_noise: expected numbers from 0 to 1, got {label_noise} and {box_noise}")
        if weight < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.num_classes, self.box_coder, self.groups = num_classes, box_coder, groups
        self.label_noise, self.box_noise, self.weight = label_noise, box_noise, weight
        self.add_embedding(num_classes, d_model)

    def add_embedding(self, num_classes: int, d_model: int) -> None:
        """Add a table with one row for each class, and one for no object. The indicator takes one column."""
        self.embedding = nn.Embedding(num_classes + 1, d_model - 1)

    def content(self, labels: Tensor) -> Tensor:
        """Convert [...] → [..., D], the last column telling these queries from others."""
        embedded = self.embedding(labels)
        return torch.cat([embedded, torch.ones_like(embedded[..., :1])], -1)

    def forward(self, queries: QuerySet, targets: Targets, position_of: Callable[[Tensor], Tensor | None]) -> QuerySet:
        """Return the query set with a group `denoising` after it.

        Args:
            position_of: positions of anchors [B, n, 4], where queries have such of their own.
        """
        noised = self.noised(targets)
        reference = self.box_coder.encode(noised.boxes)
        more = QuerySet(
            content=self.content(noised.labels),
            position=position_of(reference),
            reference=reference,
            attention_mask=blocks(noised.groups, noised.size, reference.device),
        )
        group = Group(matches=noised.matches, parts=noised.groups, weight=self.weight)
        return append(queries, "denoising", more, group, sees_queries=True)

    def noised(self, targets: Targets) -> Noised:
        """Draw the noise: return labels and boxes of all groups, and what they are to become."""
        images, largest = len(targets.counts), max(1, *targets.counts)
        groups = self.number_of_groups(largest)
        size = largest * (2 if self.negatives else 1)
        matches = self.matches(targets, groups, size)
        labels = targets.labels.new_full((images, groups * size), self.num_classes)
        boxes = targets.boxes.new_full((images, groups * size, 4), 0.5)
        boxes[..., 2:] = 1  # the whole image
        for offset in (0, largest)[: 2 if self.negatives else 1]:
            where = (matches.image, matches.query + offset)
            labels[where] = self.noisy_labels(targets.labels[matches.target])
            boxes[where] = self.noisy_boxes(targets.boxes[matches.target], negative=offset > 0)
        return Noised(labels, boxes, matches, groups, size)

    def number_of_groups(self, largest: int) -> int:
        """Return the number of groups for a batch whose fullest image has `largest` objects."""
        return self.groups

    def matches(self, targets: Targets, groups: int, size: int) -> Matches:
        """Return which query answers for which object: in each group the object's place in its image."""
        device = targets.image.device
        places = torch.cat([torch.arange(count, device=device) for count in targets.counts])
        starts = torch.arange(groups, device=device)[:, None] * size
        target = torch.arange(len(targets), device=device).repeat(groups)
        queries = (starts + places).flatten()
        return Matches(torch.zeros_like(target), targets.image.repeat(groups), queries, target, layers=1)

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """Return the labels with some of them replaced by any class, the true one among them."""
        random = torch.randint_like(labels, self.num_classes)
        return torch.where(torch.rand(labels.shape, device=labels.device) < self.label_noise, random, labels)

    def noisy_boxes(self, boxes: Tensor, *, negative: bool) -> Tensor:
        """Return cxcywh [M, 4]: centres stay inside of the boxes, and sides change by a factor of 1 ± λ."""
        spans = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], -1)
        return (boxes + (2 * torch.rand_like(boxes) - 1) * spans * self.box_noise).clamp(0, 1)


class ContrastiveDenoising(Denoising):
    """Adds a second query to each noisy object, further off, that has to say no object (DINO, section 3.3).

    Args:
        num_queries: about how many pairs there are: as many groups as fit into them, at least one.
        label_noise, weight: as in `Denoising`. DINO's 0.5 flips a quarter of the labels, which is 0.25 here.
        box_noise: λ of the corners, in half sides: noise up to λ is to be undone, noise from λ to 2 λ is no object.
        slivers: corners that pass each other make a box without area between them, as in the authors' code, where four
            in nine negatives are one; else the box that they span, which may be the object's again.

    The other arguments are those of `Denoising`.
    """

    negatives = True

    def __init__(
        self,
        *,
        num_classes: int,
        box_coder: BoxCoder,
        d_model: int = 256,
        num_queries: int = 100,
        label_noise: float = 0.25,
        box_noise: float = 1.0,
        weight: float = 1.0,
        slivers: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            box_coder=box_coder,
            d_model=d_model,
            label_noise=label_noise,
            box_noise=box_noise,
            weight=weight,
        )
        if num_queries < 1:
            raise ValueError(f"num_queries: expected at least 1, got {num_queries}")
        self.num_queries, self.slivers = num_queries, slivers

    def add_embedding(self, num_classes: int, d_model: int) -> None:
        self.embedding = nn.Embedding(num_classes + 1, d_model)

    def content(self, labels: Tensor) -> Tensor:
        return self.embedding(labels)

    def number_of_groups(self, largest: int) -> int:
        return max(1, self.num_queries // largest)

    def noisy_boxes(self, boxes: Tensor, *, negative: bool) -> Tensor:
        """Return boxes with corners moved by a random part of λ half sides, of negatives by λ half sides more."""
        spans = boxes[:, 2:].repeat(1, 2) / 2 * self.box_noise
        signs = torch.randint_like(boxes, 2) * 2 - 1
        corners = (cxcywh_to_xyxy(boxes) + signs * (torch.rand_like(boxes) + negative) * spans).clamp(0, 1)
        if self.slivers:
            boxes = xyxy_to_cxcywh(corners)
            return torch.cat([boxes[:, :2], boxes[:, 2:].clamp(min=0)], -1)
        first, second = corners.view(-1, 2, 2).unbind(1)  # which may have passed each other
        return xyxy_to_cxcywh(torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1))
