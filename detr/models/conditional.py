"""The decoder of Conditional DETR (Meng et al. 2021, section 3; Atten4Vis/ConditionalDETR, models/transformer.py).

Content and location of a query are matched with content and location of a token apart from each other: in
cross-attention both are concatenated, head by head, instead of added. DAB-DETR's decoder has the same layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.decoder import Decoder, Reference, Refinement
from detr.models.layers import MLP, FeedForward, LayerConfig, ResidualLayer, xavier_uniform
from detr.models.operations import Linear, attend, heads_of
from detr.models.position_embedding import sine_embedding
from detr.models.structures import Decoded, Memory, QuerySet


class SeparateSelfAttention(nn.Module):
    """Lets queries attend to each other, with projections of content and of position that are added."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        d_model, self.num_heads, self.dropout = config.d_model, config.num_heads, config.dropout
        self.query_content, self.query_position = Linear(d_model, d_model), Linear(d_model, d_model)
        self.key_content, self.key_position = Linear(d_model, d_model), Linear(d_model, d_model)
        self.value, self.output = Linear(d_model, d_model), Linear(d_model, d_model)

    def forward(self, content: Tensor, position: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Attend: content and position [B, Q, D], attention_mask [Q, Q] bool, True = may not attend → [B, Q, D]."""
        query = self.query_content(content) + self.query_position(position)
        key = self.key_content(content) + self.key_position(position)
        query, key, value = (heads_of(each, self.num_heads) for each in (query, key, self.value(content)))
        allowed = None if attention_mask is None else ~attention_mask
        return self.output(_attend(query, key, value, allowed, self.dropout if self.training else 0.0))


class ConditionalCrossAttention(nn.Module):
    """Attends to tokens by content and by location, concatenated (section 3.2).

    Args:
        first: of the first layer, which adds the queries' position to their content, too: there is nothing yet in it.
    """

    def __init__(self, config: LayerConfig, *, first: bool) -> None:
        super().__init__()
        d_model, self.num_heads, self.dropout = config.d_model, config.num_heads, config.dropout
        self.query_content, self.query_spatial = Linear(d_model, d_model), Linear(d_model, d_model)
        self.key_content, self.key_position = Linear(d_model, d_model), Linear(d_model, d_model)
        self.value, self.output = Linear(d_model, d_model), Linear(d_model, d_model)
        self.query_position = Linear(d_model, d_model) if first else None

    def forward(self, content: Tensor, position: Tensor, spatial: Tensor, memory: Memory) -> Tensor:
        """Attend: content, position and spatial query (sines of the reference, transformed) [B, Q, D] → [B, Q, D]."""
        query, key = self.query_content(content), self.key_content(memory.tokens)
        key_position = self.key_position(memory.positions)
        if self.query_position is not None:
            query, key = query + self.query_position(position), key + key_position
        heads = self.num_heads
        queries = torch.cat([heads_of(query, heads), heads_of(self.query_spatial(spatial), heads)], -1)
        keys = torch.cat([heads_of(key, heads), heads_of(key_position, heads)], -1)
        values = heads_of(self.value(memory.tokens), heads)
        allowed = ~memory.padding[:, None, None]
        return self.output(_attend(queries, keys, values, allowed, self.dropout if self.training else 0.0))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, dropout: float) -> Tensor:
    """[B, heads, …, C] → [B, Q, heads · C of the values]."""
    return attend(queries, keys, values, allowed, dropout).transpose(1, 2).flatten(2)


class ConditionalLayer(ResidualLayer):
    """Applies self-attention among queries, conditional cross-attention, feed-forward."""

    def __init__(self, config: LayerConfig, *, first: bool) -> None:
        super().__init__(config, sublayers=3)
        self.self_attn = SeparateSelfAttention(config)
        self.cross_attn = ConditionalCrossAttention(config, first=first)
        self.feed_forward = FeedForward(config)

    def forward(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> Tensor:
        """Apply the layer: content, position, spatial query [B, Q, D], attention_mask [Q, Q] → [B, Q, D]."""
        content = self.residual(1, content, lambda x: self.self_attn(x, position, attention_mask))
        content = self.residual(2, content, lambda x: self.cross_attn(x, position, spatial, memory))
        return self.residual(3, content, self.feed_forward)


class ConditionalDecoder(Decoder):
    """Lets queries attend to a point, which is read off their learned position and scaled by their content.

    Boxes are corrections of that point; layers do not refine it.

    Args:
        layer, num_layers, eval_layers: as in `TransformerDecoder`.
        box_coder: how boxes follow from points.
    """

    references: tuple[Reference, ...] = ("point",)
    point_layers = 2

    def __init__(
        self, *, layer: LayerConfig, box_coder: BoxCoder, num_layers: int = 6, eval_layers: int | None = None
    ) -> None:
        layers = [ConditionalLayer(layer, first=index == 0) for index in range(num_layers)]
        super().__init__(layers=layers, norm=nn.LayerNorm(layer.d_model), box_coder=box_coder, eval_layers=eval_layers)
        if num_layers > 1:  # the first layer has no content yet to scale locations with
            self.spatial_scale = MLP(layer.d_model, layer.d_model, layer.d_model, 2)
        xavier_uniform(self)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        assert queries.position is not None  # queries with points have one
        content, hidden = queries.content, []
        # The authors' boxes start as half of the image.
        boxes = Refinement(queries, box_head, self.box_coder, refine=False, look_forward_twice=False, point_side=0.5)
        sines = location_embedding(boxes.location, content.shape[-1])
        for index, layer in enumerate(self.active_layers):
            spatial = sines if index == 0 else sines * self.spatial_scale(content)
            content = layer(content, queries.position, spatial, memory, queries.attention_mask)
            hidden.append(self.norm(content))
            boxes.add(hidden[-1], hidden[-1])
        return Decoded(torch.stack(hidden), torch.stack(boxes.boxes))


def location_embedding(points: Tensor, d_model: int) -> Tensor:
    """Convert points [..., 2] (x, y) in [0, 1] → sines [..., D], in the order of `SinePositionEmbedding`: y first."""
    return sine_embedding(points.flip(-1), d_model // 2).flatten(-2)
