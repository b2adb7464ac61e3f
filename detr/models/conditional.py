"""The decoder of Conditional DETR (Meng et al. 2021, section 3; Atten4Vis/ConditionalDETR, models/transformer.py).

Content and place of a query are matched with content and place of a token apart from each other: in cross-attention
both are concatenated, head by head, instead of added. DAB-DETR's decoder has the same layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.decoder import Decoder, corrected
from detr.models.layers import MLP, Activation, FeedForward, xavier_uniform
from detr.models.position_embedding import sine_embedding
from detr.models.transformer import ResidualLayer
from detr.structures import Memory, QuerySet, at_least_fp32

if TYPE_CHECKING:
    from detr.models.queries import Queries


class SeparateSelfAttention(nn.Module):
    """Self-attention among queries, with projections of content and of position that are added."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content, self.query_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.key_content, self.key_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, content: Tensor, position: Tensor, attention_mask: Tensor | None) -> Tensor:
        """content and position [B, Q, D], attention_mask [Q, Q] bool, True = may not attend → [B, Q, D]."""
        query = self.query_content(content) + self.query_position(position)
        key = self.key_content(content) + self.key_position(position)
        query, key, value = (_by_head(each, self.num_heads) for each in (query, key, self.value(content)))
        allowed = None if attention_mask is None else ~attention_mask
        return self.output(_attend(query, key, value, allowed, self.dropout if self.training else 0.0))


class ConditionalCrossAttention(nn.Module):
    """Attention to tokens by content and by place, concatenated (section 3.2).

    Args:
        first: of the first layer, which adds the queries' position to their content, too: there is nothing yet in it.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query_content, self.query_place = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.key_content, self.key_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.query_position = nn.Linear(d_model, d_model) if first else None

    def forward(self, content: Tensor, position: Tensor, place: Tensor, memory: Memory) -> Tensor:
        """content, position and place (the sines of the reference, transformed) [B, Q, D] → [B, Q, D]."""
        query, key = self.query_content(content), self.key_content(memory.tokens)
        key_position = self.key_position(memory.positions)
        if self.query_position is not None:
            query, key = query + self.query_position(position), key + key_position
        heads = self.num_heads
        queries = torch.cat([_by_head(query, heads), _by_head(self.query_place(place), heads)], -1)
        keys = torch.cat([_by_head(key, heads), _by_head(key_position, heads)], -1)
        values = _by_head(self.value(memory.tokens), heads)
        allowed = ~memory.padding[:, None, None]
        return self.output(_attend(queries, keys, values, allowed, self.dropout if self.training else 0.0))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[B, Q, D] → [B, heads, Q, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, dropout: float) -> Tensor:
    """[B, heads, …, C] → [B, Q, heads · C of the values]."""
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class ConditionalLayer(ResidualLayer):
    """Self-attention among queries, conditional cross-attention, feed-forward."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        activation: Activation,
        pre_norm: bool,
        *,
        first: bool,
    ) -> None:
        super().__init__(pre_norm=pre_norm)
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of num_heads={num_heads}")
        self.self_attn = SeparateSelfAttention(d_model, num_heads, dropout)
        self.cross_attn = ConditionalCrossAttention(d_model, num_heads, dropout, first=first)
        self.feed_forward = FeedForward(d_model, dim_feedforward, dropout, activation)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))

    def forward(
        self, content: Tensor, position: Tensor, place: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> Tensor:
        """content, position and place [B, Q, D], attention_mask [Q, Q] → [B, Q, D]."""
        content = self.residual(
            content, self.norm1, self.dropout1, lambda x: self.self_attn(x, position, attention_mask)
        )
        content = self.residual(
            content, self.norm2, self.dropout2, lambda x: self.cross_attn(x, position, place, memory)
        )
        return self.residual(content, self.norm3, self.dropout3, self.feed_forward)


class ConditionalDecoder(Decoder):
    """Queries attend to a place, which is read off their learned position and scaled by their content.

    Boxes are corrections of that place; layers do not refine it.

    Arguments as in `TransformerDecoder`.
    """

    corrects = True

    def __init__(
        self,
        *,
        num_layers: int = 6,
        d_model: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        pre_norm: bool = False,
        eval_layers: int | None = None,
    ) -> None:
        layers = [
            ConditionalLayer(d_model, num_heads, dim_feedforward, dropout, activation, pre_norm, first=index == 0)
            for index in range(num_layers)
        ]
        super().__init__(layers=layers, norm=nn.LayerNorm(d_model), eval_layers=eval_layers)
        if num_layers > 1:  # the first layer has no content yet to scale places with
            self.place_scale = MLP(d_model, d_model, d_model, 2)
        self.add_parts(d_model)
        xavier_uniform(self)

    def add_parts(self, d_model: int) -> None:
        """What a variant has beside its layers, initialised with them."""
        self.reference_head = MLP(d_model, d_model, 2, 2)

    @classmethod
    def check(cls, queries: Queries | type[Queries]) -> None:
        if queries.has_reference or not queries.has_position:
            raise ValueError(
                "transformer.decoder reads its references off learned positions; use queries=learned, or "
                "transformer/decoder=dab for queries with anchors"
            )

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        assert queries.position is not None  # `check` has seen to it
        content, hidden = queries.content, []
        reference = at_least_fp32(self.reference_head(queries.position))  # [B, Q, 2] before the sigmoid
        sines = place_embedding(reference.sigmoid(), content.shape[-1])
        for index, layer in enumerate(self.active_layers):
            place = sines if index == 0 else sines * self.place_scale(content)
            content = layer(content, queries.position, place, memory, queries.attention_mask)
            hidden.append(self.norm(content))
        stacked = torch.stack(hidden)
        return stacked, corrected(reference, at_least_fp32(box_head(stacked)))


def place_embedding(points: Tensor, d_model: int) -> Tensor:
    """Points [..., 2] (x, y) in [0, 1] → sines [..., D], in the order of `SinePositionEmbedding`: y first."""
    return sine_embedding(points.flip(-1), d_model // 2).flatten(-2)
