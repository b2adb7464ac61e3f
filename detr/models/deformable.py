"""Encoder and decoder of Deformable DETR (Zhu et al. 2021, section 4 and appendix A.4), which DINO builds on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.decoder import Decoder, Reference, Refinement
from detr.models.deformable_attention import DeformableAttention
from detr.models.encoder import Encoder, layers_of
from detr.models.layers import FeedForward, LayerConfig, ResidualLayer, multihead_attention, xavier_uniform
from detr.models.relation import position_relation
from detr.models.structures import Decoded, Features, Memory, QuerySet


class DeformableEncoderLayer(ResidualLayer):
    """Applies deformable self-attention and feed-forward."""

    def __init__(self, config: LayerConfig, attention: DeformableAttention) -> None:
        super().__init__(config, sublayers=2)
        self.self_attn = attention
        self.feed_forward = FeedForward(config)
        xavier_uniform(self.feed_forward)

    def forward(self, tokens: Tensor, locations: Tensor, memory: Memory) -> Tensor:
        """Apply the layer: tokens [B, T, D], locations [B, T, levels, 2] → [B, T, D]."""
        tokens = self.residual(1, tokens, lambda x: self.self_attn(x + memory.positions, locations, memory, x))
        return self.residual(2, tokens, self.feed_forward)


class DeformableDecoderLayer(ResidualLayer):
    """Applies self-attention among queries, deformable cross-attention, feed-forward."""

    def __init__(self, config: LayerConfig, attention: DeformableAttention) -> None:
        super().__init__(config, sublayers=3)
        self.self_attn = multihead_attention(config)
        xavier_uniform(self.self_attn)
        self.cross_attn = attention
        self.feed_forward = FeedForward(config)
        xavier_uniform(self.feed_forward)

    def forward(
        self, content: Tensor, position: Tensor, locations: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> Tensor:
        """Apply the layer.

        Args:
            content, position: [B, Q, D].
            locations: [B, Q, levels, 2 or 4].
            attention_mask: [Q, Q] bool, or a bias [B · heads, Q, Q].
        """

        def attend_queries(x: Tensor) -> Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, attn_mask=attention_mask, need_weights=False)[0]

        def attend_memory(x: Tensor) -> Tensor:
            return self.cross_attn(x + position, locations, memory, memory.tokens)

        content = self.residual(1, content, attend_queries)
        content = self.residual(2, content, attend_memory)
        return self.residual(3, content, self.feed_forward)


class DeformableEncoder(Encoder):
    """Lets every token of every level look at points around itself in all levels.

    Args:
        layer, num_layers: as in `TransformerEncoder`.
        num_levels: of the features.
        num_points: that a head looks at in a level; a list: one number for each level.
    """

    num_levels: int

    def __init__(
        self, *, layer: LayerConfig, num_layers: int = 6, num_levels: int = 4, num_points: int | Sequence[int] = 4
    ) -> None:
        super().__init__()
        self.num_levels, self.d_model, self.output_width = num_levels, layer.d_model, layer.d_model
        self.layers = layers_of(
            lambda: DeformableEncoderLayer(layer, _attention(layer, num_levels, num_points)), num_layers
        )
        self.norm = nn.LayerNorm(layer.d_model) if layer.pre_norm else nn.Identity()

    def forward(self, features: Features) -> Memory:
        memory = features.flatten()
        locations = memory.centres[:, :, None] * memory.valid_ratios[:, None]
        for layer in self.layers:
            memory.tokens = layer(memory.tokens, locations, memory)
        memory.tokens = self.norm(memory.tokens)
        return memory


class DeformableDecoder(Decoder):
    """Lets queries look at points around their reference, a point or an anchor, which each layer may refine.

    Args:
        layer, num_layers, eval_layers: as in `TransformerDecoder`.
        box_coder: how boxes follow from references.
        num_levels: of the memory.
        num_points: that a head looks at in a level; a list: one number for each level (RT-DETRv2).
        discrete: it looks at single tokens (RT-DETRv2): no gradient, and nothing to interpolate on small devices.
        refine: each layer corrects the reference of the one before (appendix A.4, "iterative bounding box
            refinement"); else all correct the first.
        look_forward_twice: with refinement, the gradient of a layer's box reaches the layer before it, too
            (DINO, Zhang et al. 2022, section 3.6).
        final_norm: a layer norm for every layer's output, as DINO and pre-norm have it.
        cross_heads: of cross-attention; null: as many as of self-attention (LW-DETR: twice as many).
        place_in_padded: positions of queries are made from boxes relative to the padded image, as far as the finest
            level tells (DINO, LW-DETR); else to the image without padding.
        relation: bias self-attention by how boxes lie to each other (Relation-DETR, see `PositionRelation`).

    Raises:
        ValueError: look_forward_twice without refinement; heads that do not divide the width; relation with one layer.
    """

    references: tuple[Reference, ...] = ("point", "anchor")
    point_layers = 1
    reads_positions = False
    num_levels: int

    def __init__(
        self,
        *,
        layer: LayerConfig,
        box_coder: BoxCoder,
        num_layers: int = 6,
        eval_layers: int | None = None,
        num_levels: int = 4,
        num_points: int | Sequence[int] = 4,
        discrete: bool = False,
        refine: bool = True,
        look_forward_twice: bool = False,
        final_norm: bool = False,
        cross_heads: int | None = None,
        place_in_padded: bool = False,
        relation: bool = False,
    ) -> None:
        if look_forward_twice and not refine:
            raise ValueError("look_forward_twice goes by what a layer refines, but refine is false; set both or none")
        super().__init__(
            layers=[
                DeformableDecoderLayer(
                    layer, _attention(layer, num_levels, num_points, discrete=discrete, num_heads=cross_heads)
                )
                for _ in range(num_layers)
            ],
            norm=nn.LayerNorm(layer.d_model) if final_norm or layer.pre_norm else nn.Identity(),
            box_coder=box_coder,
            eval_layers=eval_layers,
        )
        self.num_levels = num_levels
        self.refine, self.look_forward_twice = refine, look_forward_twice
        self.normed_twice = final_norm and not layer.pre_norm
        self.place_in_padded = place_in_padded
        self.relation = position_relation(layer.num_heads, num_layers) if relation else None
        if relation:
            self.references = ("anchor",)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        content, hidden, mask = queries.content, [], queries.attention_mask
        ratios = memory.valid_ratios[:, None]  # [B, 1, levels, 2]
        refinement = Refinement(
            queries, box_head, self.box_coder, refine=self.refine, look_forward_twice=self.look_forward_twice
        )
        for layer in self.active_layers:
            location = refinement.location
            locations = location[:, :, None] * torch.cat([ratios] * (location.shape[-1] // 2), -1)
            position = queries.positions_at(locations[:, :, 0] if self.place_in_padded else location)
            content = layer(content, position, locations, memory, mask)
            hidden.append(self.norm(content))
            # As DINO's authors: references are refined by the state before the final norm.
            refinement.add(hidden[-1], content if self.normed_twice else hidden[-1])
            if self.relation is not None:
                mask = self.relation(location, refinement.boxes[-1], queries.attention_mask)
        return Decoded(torch.stack(hidden), torch.stack(refinement.boxes))


def _attention(
    layer: LayerConfig,
    num_levels: int,
    num_points: int | Sequence[int],
    *,
    discrete: bool = False,
    num_heads: int | None = None,
) -> DeformableAttention:
    return DeformableAttention(
        d_model=layer.d_model,
        num_heads=num_heads or layer.num_heads,
        num_levels=num_levels,
        num_points=num_points,
        discrete=discrete,
    )
