"""Encoders and decoders (DETR, section 3.2 and appendix A.3; facebookresearch/detr, models/transformer.py).

Attention goes through `nn.MultiheadAttention(need_weights=False)`, which is `scaled_dot_product_attention`.
Positions are added to queries and keys only, in every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.decoder import Decoder, Refinement, needs_anchors
from detr.models.layers import (
    MLP,
    Activation,
    FeedForward,
    group_norm,
    xavier_uniform,
)
from detr.models.position_embedding import sine_embedding
from detr.structures import Features, Memory, QuerySet, at_least_fp32

if TYPE_CHECKING:
    from detr.models.queries import Queries


class ResidualLayer(nn.Module):
    """What encoder and decoder layers share: residual sublayers with layer norm after (paper) or before them."""

    def __init__(self, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm

    def residual(self, x: Tensor, norm: nn.Module, dropout: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))


class EncoderLayer(ResidualLayer):
    """Self-attention and feed-forward."""

    def __init__(
        self, d_model: int, num_heads: int, dim_feedforward: int, dropout: float, activation: Activation, pre_norm: bool
    ) -> None:
        super().__init__(pre_norm=pre_norm)
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.feed_forward = FeedForward(d_model, dim_feedforward, dropout, activation)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """tokens and positions [B, T, D], padding [B, T] → [B, T, D]."""

        def attend(x: Tensor) -> Tensor:
            placed = x + positions
            return self.self_attn(placed, placed, x, key_padding_mask=padding, need_weights=False)[0]

        tokens = self.residual(tokens, self.norm1, self.dropout1, attend)
        return self.residual(tokens, self.norm2, self.dropout2, self.feed_forward)


class DecoderLayer(ResidualLayer):
    """Self-attention among queries, cross-attention to the encoder's tokens, feed-forward."""

    def __init__(
        self, d_model: int, num_heads: int, dim_feedforward: int, dropout: float, activation: Activation, pre_norm: bool
    ) -> None:
        super().__init__(pre_norm=pre_norm)
        self.self_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(d_model, num_heads, dropout, batch_first=True)
        self.feed_forward = FeedForward(d_model, dim_feedforward, dropout, activation)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))

    def forward(self, content: Tensor, position: Tensor, memory: Memory, attention_mask: Tensor | None) -> Tensor:
        """content and position [B, Q, D], attention_mask [Q, Q] or None → [B, Q, D]."""

        def attend_queries(x: Tensor) -> Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, attn_mask=attention_mask, need_weights=False)[0]

        def attend_memory(x: Tensor) -> Tensor:
            keys = memory.tokens + memory.positions
            return self.cross_attn(
                x + position, keys, memory.tokens, key_padding_mask=memory.padding, need_weights=False
            )[0]

        content = self.residual(content, self.norm1, self.dropout1, attend_queries)
        content = self.residual(content, self.norm2, self.dropout2, attend_memory)
        return self.residual(content, self.norm3, self.dropout3, self.feed_forward)


class Encoder(nn.Module):
    """What every encoder offers.

    Attributes:
        num_levels: of the features that it takes; None: as many as there are.
    """

    num_levels: int | None = None
    layers: nn.ModuleList

    @property
    def reads_positions(self) -> bool:
        """An encoder without layers does not."""
        return len(self.layers) > 0

    def forward(self, features: Features) -> Memory:
        raise NotImplementedError


class TransformerEncoder(Encoder):
    """The paper's encoder. Levels, where there are several, are concatenated to one sequence.

    Args:
        num_layers: of `EncoderLayer`; 0 passes the features on.
        d_model, num_heads, dim_feedforward, dropout: as in Vaswani et al. 2017.
        activation: relu, gelu or glu.
        pre_norm: layer norm before each sublayer, with a final one; the paper normalises after and has no final one.
    """

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
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, num_heads, dim_feedforward, dropout, activation, pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if pre_norm else nn.Identity()
        xavier_uniform(self)

    def forward(self, features: Features) -> Memory:
        memory = flatten(features)
        memory.tokens = self.encode(memory.tokens, memory.positions, memory.padding)
        return memory

    def encode(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """All layers: [B, T, D] → [B, T, D]."""
        for layer in self.layers:
            tokens = layer(tokens, positions, padding)
        return self.norm(tokens)

    def encode_coarsest(self, features: Features) -> Tensor:
        """All layers on the coarsest level only: its map [B, D, h, w]."""
        level = (features.maps[-1], features.positions[-1], features.padding[-1])
        return self.encode(*(_as_tokens(each) for each in level)).mT.unflatten(-1, features.maps[-1].shape[-2:])


class TopDownEncoder(TransformerEncoder):
    """Self-attention on the coarsest level only, then a convolutional top-down path into the finer ones.

    Attention over the coarsest level is what RT-DETR found to be worth its cost (Zhao et al. 2023, section 4.2); the
    top-down path is that of feature pyramids (Lin et al. 2017), each sum refined by a residual block of two 3×3
    convolutions. Frozen features need those: on the embedded data set they nearly doubled AP.

    Arguments as in `TransformerEncoder`, and
        num_levels: of the features; there is a block for each but the coarsest.
    """

    def __init__(
        self,
        *,
        num_levels: int = 3,
        num_layers: int = 1,
        d_model: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        pre_norm: bool = False,
    ) -> None:
        super().__init__(
            num_layers=num_layers,
            d_model=d_model,
            num_heads=num_heads,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            activation=activation,
            pre_norm=pre_norm,
        )
        self.num_levels = num_levels
        self.blocks = nn.ModuleList(ResidualBlock(d_model) for _ in range(num_levels - 1))

    def forward(self, features: Features) -> Memory:
        *maps, _ = features.maps
        fused = [self.encode_coarsest(features)]
        for finer, block in zip(reversed(maps), self.blocks, strict=True):
            fused.insert(0, block(finer + F.interpolate(fused[0], size=finer.shape[-2:], mode="nearest")))
        return flatten(Features(fused, features.padding, features.positions))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group norm around a shortcut, [B, D, h, w] → [B, D, h, w]."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(d_model, d_model, kernel_size=3, padding=1, bias=False),
            group_norm(d_model),
            nn.ReLU(),
            nn.Conv2d(d_model, d_model, kernel_size=3, padding=1, bias=False),
            group_norm(d_model),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.convolutions(x))


def flatten(features: Features) -> Memory:
    """Levels of [B, D, h, w] → one sequence of tokens, fine to coarse, row by row."""
    return Memory(
        tokens=torch.cat([_as_tokens(each) for each in features.maps], 1),
        positions=torch.cat([_as_tokens(each) for each in features.positions], 1),
        padding=torch.cat([_as_tokens(each) for each in features.padding], 1),
        shapes=[(each.shape[-2], each.shape[-1]) for each in features.maps],
    )


def _as_tokens(level: Tensor) -> Tensor:
    """[B, D, h, w] → [B, h·w, D]; [B, h, w] → [B, h·w]."""
    return level.flatten(2).mT if level.dim() == 4 else level.flatten(1)


class TransformerDecoder(Decoder):
    """The paper's decoder: queries have learned positions, and one box head reads every layer's output.

    Arguments as in `TransformerEncoder`; one final layer norm serves every layer's output.
    `eval_layers`: how many layers an evaluation uses; null: all.
    """

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
            DecoderLayer(d_model, num_heads, dim_feedforward, dropout, activation, pre_norm) for _ in range(num_layers)
        ]
        super().__init__(layers=layers, norm=nn.LayerNorm(d_model), eval_layers=eval_layers)
        self.add_parts(d_model)
        xavier_uniform(self)

    def add_parts(self, d_model: int) -> None:
        """What a variant has beside its layers, initialised with them."""

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        content, hidden = queries.content, []
        for layer in self.active_layers:
            content = layer(content, queries.position, memory, queries.attention_mask)
            hidden.append(self.norm(content))
        stacked = torch.stack(hidden)
        return stacked, at_least_fp32(box_head(stacked))


class AnchorDecoder(TransformerDecoder):
    """Queries carry an anchor box, from which each layer makes their position and which it corrects.

    Positions from anchors as DAB-DETR (Liu et al. 2022, section 4.2) makes them; refinement as in Deformable DETR
    (Zhu et al. 2021, appendix A.4), with the gradient of a layer's box reaching the layer before it
    (DINO, Zhang et al. 2022, section 3.6, "look forward twice").
    """

    corrects = True

    def add_parts(self, d_model: int) -> None:
        self.position_head = MLP(2 * d_model, d_model, d_model, 2)

    @classmethod
    def check(cls, queries: Queries | type[Queries]) -> None:
        needs_anchors(queries)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        assert queries.reference is not None  # the detector has seen to it
        content, hidden, boxes = queries.content, [], []
        refinement = Refinement(queries.reference, box_head, refine=True, look_forward_twice=True)
        for index, layer in enumerate(self.active_layers):
            sines = sine_embedding(refinement.reference.sigmoid(), content.shape[-1] // 2).flatten(-2)
            content = layer(content, self.position_head(sines), memory, queries.attention_mask)
            hidden.append(self.norm(content))
            boxes.append(refinement.box(index, hidden[-1], hidden[-1]))
        return torch.stack(hidden), torch.stack(boxes)
