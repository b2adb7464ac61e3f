"""Relation-DETR's bias of self-attention by where boxes lie (Hou et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detr.models.position_embedding import sine_embedding

CHANNELS = 16  # of each of the four numbers of a relation
SCALE = 100.0  # of these numbers, of which those around 0 have to be told apart
EPSILON = 1e-5  # beside sides that may be 0


class PositionRelation(nn.Module):
    """Says how much queries attend to each other because of their boxes (equations 4 and 5).

    Between layers: from the boxes that a layer was given to those that it found.

    Args:
        num_heads: of the self-attention.
    """

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.projection = nn.Linear(4 * CHANNELS, num_heads)

    def forward(self, before: Tensor, after: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return what is added to attention weights before the softmax, [B · heads, Q, Q], at least 0.

        Args:
            before, after: boxes cxcywh [B, Q, 4], which get no gradient.
            attention_mask: [Q, Q] bool, True = may not attend, which becomes minus infinity.
        """
        relation = relations(before.detach(), after.detach())
        embedded = sine_embedding(relation * SCALE / (2 * torch.pi), CHANNELS).flatten(-2)
        bias = self.projection(embedded.to(self.projection.weight.dtype)).relu().permute(0, 3, 1, 2)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask, -torch.inf)
        return bias.flatten(0, 1)


def position_relation(num_heads: int, num_layers: int) -> PositionRelation:
    """Build the bias of a decoder with so many layers. Raises ValueError for one: it acts between layers."""
    if num_layers < 2:
        raise ValueError("relation biases a layer by the boxes of the one before: num_layers has to be 2 or more")
    return PositionRelation(num_heads=num_heads)


def relations(first: Tensor, second: Tensor) -> Tensor:
    """Return how boxes cxcywh [B, Q, 4] lie to others [B, K, 4]: [B, Q, K, 4] (equation 3).

    Distances of the centres in units of the first one's sides, and ratios of the sides, all as logarithms.
    """
    centres, sides = first[:, :, None].split(2, -1)
    other_centres, other_sides = second[:, None].split(2, -1)
    distances = ((centres - other_centres).abs() / (sides + EPSILON) + 1).log()
    ratios = ((sides + EPSILON) / (other_sides + EPSILON)).log()
    return torch.cat([distances, ratios], -1)
