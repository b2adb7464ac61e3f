"""Decoders: what each offers, and the paper's (DETR, section 3.2; facebookresearch/detr, models/transformer.py)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.heads import each_layer, head_of_layer
from detr.models.layers import FeedForward, LayerConfig, ResidualLayer, multihead_attention, xavier_uniform
from detr.models.structures import Decoded, Memory, QuerySet
from detr.structures import at_least_fp32

Reference = Literal["none", "point", "anchor"]  # what queries come with: nothing, (x, y), or a box

POINT_SIDE = 1 / (1 + math.exp(2))  # of the box around a point that nothing corrects, in units of the image


class Decoder(nn.Module):
    """Offers what every decoder does: layers, of which an evaluation may use the first ones only.

    Args:
        layers: one after the other; each one's output is supervised, so that any number of the first is a decoder.
        norm: of every layer's output.
        box_coder: how boxes follow from references; null: there are no references.
        eval_layers: how many of them an evaluation uses; null: all.

    Attributes:
        references: the kinds that it works with.
        point_layers: linear layers of the head that reads a point off a learned position; 0: it needs no points.
        num_levels: of the memory that it takes; None: any.
        reads_positions: those of the memory.
        extras: names of what else it says of every query, for losses.

    Raises:
        ValueError: no such number of layers.
    """

    references: tuple[Reference, ...] = ("none",)
    point_layers = 0
    num_levels: int | None = None
    reads_positions = True
    extras: tuple[str, ...] = ()

    def __init__(
        self, *, layers: Iterable[nn.Module], norm: nn.Module, box_coder: BoxCoder | None, eval_layers: int | None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.box_coder = box_coder
        if not self.layers:
            raise ValueError("num_layers: expected at least 1 layer, got none")
        if eval_layers is not None and not 1 <= eval_layers <= len(self.layers):
            raise ValueError(f"eval_layers: expected 1 to num_layers={len(self.layers)}, got {eval_layers}")
        self.eval_layers = eval_layers

    @property
    def active_layers(self) -> nn.ModuleList:
        """Return all layers while training, the first `eval_layers` in evaluations."""
        return self.layers if self.training or self.eval_layers is None else self.layers[: self.eval_layers]

    @property
    def box_outputs(self) -> int:
        """Return how many numbers the box head has to say of each box."""
        return 4 if self.box_coder is None else self.box_coder.num_outputs

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        """Return states and boxes of every layer, and what else later heads or losses read."""
        raise NotImplementedError


class Refinement:
    """Corrects a reference layer by layer, and keeps each one's box (Deformable DETR, appendix A.4).

    Args:
        queries: with references, for the first layer.
        box_head: of all layers, or of each its own.
        box_coder: how a box follows from a reference.
        refine: each layer corrects the reference of the one before; else all correct the first.
        look_forward_twice: the gradient of a layer's box reaches the layer before it, too (DINO, section 3.6).
        point_side: of the box around a point before it is corrected, in units of the image.

    Attributes:
        reference: for the layer that comes, detached from those before it.
        boxes: of the layers so far, each [B, Q, 4] in [0, 1].
    """

    def __init__(
        self,
        queries: QuerySet,
        box_head: nn.Module,
        box_coder: BoxCoder | None,
        *,
        refine: bool,
        look_forward_twice: bool,
        point_side: float = POINT_SIDE,
    ) -> None:
        assert queries.reference is not None  # the detector has seen to it
        assert box_coder is not None
        self.reference = self.previous = queries.reference  # `previous` may keep its gradient
        self.box_head, self.box_coder = box_head, box_coder
        self.refine, self.look_forward_twice, self.point_side = refine, look_forward_twice, point_side
        self.boxes: list[Tensor] = []

    @property
    def location(self) -> Tensor:
        """Return [B, Q, 2 or 4] where the next layer looks, in [0, 1]."""
        return self.box_coder.decode(at_least_fp32(self.reference))

    def add(self, normed: Tensor, state: Tensor) -> None:
        """Take the box of the next layer and make it the reference of the one after it.

        Args:
            normed: [B, Q, D] what the layer says, of which the box is.
            state: [B, Q, D] what refines the reference: the same, or the layer's output before the final norm.
        """
        head = head_of_layer(self.box_head, len(self.boxes))
        correction = at_least_fp32(head(normed))
        box = self._corrected(self.previous, correction)
        self.boxes.append(self.box_coder.decode(box))
        if self.refine:
            if state is not normed:
                correction = at_least_fp32(head(state))
            refined = self._corrected(self.reference, correction)
            self.reference = refined.detach()
            self.previous = refined if self.look_forward_twice else self.reference

    def _corrected(self, reference: Tensor, correction: Tensor) -> Tensor:
        """A box [B, Q, 4] as a reference."""
        if reference.shape[-1] == 2:
            sides = self.box_coder.encode(torch.full_like(reference, self.point_side))
            reference = torch.cat([reference, sides], -1)
        return self.box_coder.correct(reference, correction)


class DecoderLayer(ResidualLayer):
    """Applies self-attention among queries, cross-attention to the encoder's tokens, feed-forward."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config, sublayers=3)
        self.self_attn = multihead_attention(config)
        self.cross_attn = multihead_attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, content: Tensor, position: Tensor, memory: Memory, attention_mask: Tensor | None) -> Tensor:
        """Apply the layer to content and position [B, Q, D].

        Args:
            attention_mask: [Q, Q] bool, or a bias [B · heads, Q, Q].
        """

        def attend_queries(x: Tensor) -> Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, attn_mask=attention_mask, need_weights=False)[0]

        def attend_memory(x: Tensor) -> Tensor:
            keys = memory.tokens + memory.positions
            return self.cross_attn(
                x + position, keys, memory.tokens, key_padding_mask=memory.padding, need_weights=False
            )[0]

        content = self.residual(1, content, attend_queries)
        content = self.residual(2, content, attend_memory)
        return self.residual(3, content, self.feed_forward)


class TransformerDecoder(Decoder):
    """Applies the paper's decoder: queries have learned positions, and one box head reads every layer's output.

    Args:
        layer: what each layer is like; one final layer norm serves every layer's output.
        num_layers: decoder layers, at least 1.
        eval_layers: how many of them an evaluation uses; null: all.
    """

    def __init__(self, *, layer: LayerConfig, num_layers: int = 6, eval_layers: int | None = None) -> None:
        layers = [DecoderLayer(layer) for _ in range(num_layers)]
        super().__init__(layers=layers, norm=nn.LayerNorm(layer.d_model), box_coder=None, eval_layers=eval_layers)
        xavier_uniform(self)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        assert queries.position is not None  # the detector has seen to it
        content, hidden = queries.content, []
        for layer in self.active_layers:
            content = layer(content, queries.position, memory, queries.attention_mask)
            hidden.append(self.norm(content))
        stacked = torch.stack(hidden)
        return Decoded(stacked, at_least_fp32(each_layer(box_head, stacked)).sigmoid())
