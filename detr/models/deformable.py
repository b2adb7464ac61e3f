"""Encoder and decoder of Deformable DETR (Zhu et al. 2021, section 4 and appendix A.4), which DINO builds on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from detr.models.decoder import Decoder, Refinement
from detr.models.deformable_attention import DeformableAttention
from detr.models.layers import (
    MLP,
    Activation,
    FeedForward,
    PerLayer,
    token_centres,
    valid_ratios,
    xavier_uniform,
    zero_last_layer,
)
from detr.models.position_embedding import sine_embedding
from detr.models.transformer import Encoder, ResidualLayer, flatten
from detr.structures import Features, Memory, QuerySet, at_least_fp32

if TYPE_CHECKING:
    from detr.models.queries import Queries

FIRST_SIDE = -2.0  # before the sigmoid: about an eighth of the image, where references are points


class DeformableEncoderLayer(ResidualLayer):
    """Deformable self-attention and feed-forward."""

    def __init__(
        self, attention: DeformableAttention, d_model: int, feed_forward: FeedForward, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__(pre_norm=pre_norm)
        self.self_attn = attention
        self.feed_forward = feed_forward
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, tokens: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """tokens [B, T, D], references [B, T, levels, 2] → [B, T, D]."""

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x + memory.positions, references, memory, x)

        tokens = self.residual(tokens, self.norm1, self.dropout1, attend)
        return self.residual(tokens, self.norm2, self.dropout2, self.feed_forward)


class DeformableDecoderLayer(ResidualLayer):
    """Self-attention among queries, deformable cross-attention, feed-forward."""

    def __init__(
        self,
        attention: DeformableAttention,
        d_model: int,
        num_heads: int,
        feed_forward: FeedForward,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__(pre_norm=pre_norm)
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        xavier_uniform(self.self_attn)
        self.cross_attn = attention
        self.feed_forward = feed_forward
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))

    def forward(
        self, content: Tensor, position: Tensor, references: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> Tensor:
        """content and position [B, Q, D], references [B, Q, levels, 2 or 4], mask [Q, Q] → [B, Q, D]."""

        def attend_queries(x: Tensor) -> Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, attn_mask=attention_mask, need_weights=False)[0]

        def attend_memory(x: Tensor) -> Tensor:
            return self.cross_attn(x + position, references, memory, memory.tokens)

        content = self.residual(content, self.norm1, self.dropout1, attend_queries)
        content = self.residual(content, self.norm2, self.dropout2, attend_memory)
        return self.residual(content, self.norm3, self.dropout3, self.feed_forward)


class DeformableEncoder(Encoder):
    """Every token of every level looks at points around itself in all levels.

    Args:
        num_levels: of the features.
        num_layers, d_model, num_heads, dim_feedforward, dropout, activation, pre_norm: as in `TransformerEncoder`.
        num_points: that a head looks at in a level.
    """

    num_levels: int

    def __init__(
        self,
        *,
        num_levels: int = 4,
        num_layers: int = 6,
        d_model: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        activation: Activation = "relu",
        pre_norm: bool = False,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                DeformableAttention(d_model=d_model, num_heads=num_heads, num_levels=num_levels, num_points=num_points),
                d_model,
                _feed_forward(d_model, dim_feedforward, dropout, activation),
                dropout,
                pre_norm,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if pre_norm else nn.Identity()

    def forward(self, features: Features) -> Memory:
        memory = flatten(features)
        references = token_centres(memory)[0][:, :, None] * valid_ratios(memory)[:, None]
        for layer in self.layers:
            memory.tokens = layer(memory.tokens, references, memory)
        memory.tokens = self.norm(memory.tokens)
        return memory


class DeformableDecoder(Decoder):
    """Queries look at points around their reference, which each layer may refine.

    The reference is the queries' anchor, from which each layer makes their position unless they bring one; or, where
    queries have a position only, a point that is read off it.

    Args:
        num_levels: of the memory.
        num_layers, d_model, num_heads, dim_feedforward, dropout, activation, pre_norm: as in `TransformerEncoder`.
        num_points: that a head looks at in a level.
        refine: each layer corrects the reference of the one before (appendix A.4, "iterative bounding box
            refinement"); else all correct the first.
        look_forward_twice: with refinement, the gradient of a layer's box reaches the layer before it, too
            (DINO, Zhang et al. 2022, section 3.6).
        final_norm: a layer norm for every layer's output, as DINO and pre-norm have it.
        eval_layers: how many layers an evaluation uses; null: all.

    Raises:
        ValueError: look_forward_twice without refinement.
    """

    corrects = True
    reads_positions = False
    num_levels: int

    def __init__(
        self,
        *,
        num_levels: int = 4,
        num_layers: int = 6,
        d_model: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        activation: Activation = "relu",
        pre_norm: bool = False,
        num_points: int = 4,
        refine: bool = True,
        look_forward_twice: bool = False,
        final_norm: bool = False,
        eval_layers: int | None = None,
    ) -> None:
        if look_forward_twice and not refine:
            raise ValueError("look_forward_twice goes by what a layer refines, but refine is false; set both or none")
        layers = [
            DeformableDecoderLayer(
                DeformableAttention(d_model=d_model, num_heads=num_heads, num_levels=num_levels, num_points=num_points),
                d_model,
                num_heads,
                _feed_forward(d_model, dim_feedforward, dropout, activation),
                dropout,
                pre_norm,
            )
            for _ in range(num_layers)
        ]
        norm = nn.LayerNorm(d_model) if final_norm or pre_norm else nn.Identity()
        super().__init__(layers=layers, norm=norm, eval_layers=eval_layers)
        self.num_levels = num_levels
        self.refine, self.look_forward_twice = refine, look_forward_twice
        self.normed_twice = final_norm and not pre_norm
        self.reference_head: nn.Linear | None = None
        self.position_head: MLP | None = None
        self.points_have_sides = False

    @classmethod
    def check(cls, queries: Queries | type[Queries]) -> None:
        """Any queries will do."""

    def fit(self, queries: Queries, d_model: int) -> None:
        if not queries.has_reference:
            self.reference_head = nn.Linear(d_model, 2)
            nn.init.xavier_uniform_(self.reference_head.weight)
            nn.init.zeros_(self.reference_head.bias)
        elif not queries.has_position:
            self.position_head = MLP(2 * d_model, d_model, d_model, 2)
            xavier_uniform(self.position_head)

    def start_boxes(self, box_head: nn.Module) -> None:
        """As the authors: no correction; where references are points, boxes of an eighth of the image.

        The sides are a bias of the head, the first where layers refine with one each. Where they refine and share one
        (the authors' never do) it would be added again in every layer, so that the first references have the sides.
        """
        zero_last_layer(box_head)
        if self.reference_head is None:
            return
        heads = list(box_head) if isinstance(box_head, PerLayer) else [box_head]
        self.points_have_sides = self.refine and not isinstance(box_head, PerLayer)
        if not self.points_have_sides:
            for head in heads[:1] if self.refine else heads:
                nn.init.constant_(cast(MLP, head).layers[-1].bias[2:], FIRST_SIDE)  # type: ignore[index]

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        content, hidden, boxes = queries.content, [], []
        ratios = valid_ratios(memory)[:, None]  # [B, 1, levels, 2]
        refinement = Refinement(
            self.first_reference(queries), box_head, refine=self.refine, look_forward_twice=self.look_forward_twice
        )
        for index, layer in enumerate(self.active_layers):
            place = at_least_fp32(refinement.reference).sigmoid()
            references = place[:, :, None] * torch.cat([ratios] * (place.shape[-1] // 2), -1)
            position = self.position(queries, place)
            content = layer(content, position, references, memory, queries.attention_mask)
            hidden.append(self.norm(content))
            # As DINO's authors: references are refined by the state before the final norm.
            boxes.append(refinement.box(index, hidden[-1], content if self.normed_twice else hidden[-1]))
        return torch.stack(hidden), torch.stack(boxes)

    def first_reference(self, queries: QuerySet) -> Tensor:
        """[B, Q, 2 or 4] before the sigmoid."""
        if self.reference_head is not None:
            points = at_least_fp32(self.reference_head(queries.position))
            if not self.points_have_sides:
                return points
            return torch.cat([points, torch.full_like(points, FIRST_SIDE)], -1)
        assert queries.reference is not None  # `fit` has seen to it
        return queries.reference

    def position(self, queries: QuerySet, place: Tensor) -> Tensor:
        """[B, Q, D] the queries' own position, or one made from their anchors [B, Q, 4] in [0, 1]."""
        if self.position_head is None:
            assert queries.position is not None
            return queries.position
        return self.position_head(sine_embedding(place, queries.content.shape[-1] // 2).flatten(-2))


def _feed_forward(d_model: int, dim_feedforward: int, dropout: float, activation: Activation) -> FeedForward:
    layers = FeedForward(d_model, dim_feedforward, dropout, activation)
    xavier_uniform(layers)
    return layers
