"""Encoder and decoder of DAB-DETR (Liu et al. 2022, section 4; IDEA-Research/DAB-DETR, models/DAB_DETR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detr.models.conditional import ConditionalDecoder, place_embedding
from detr.models.decoder import Refinement, needs_anchors
from detr.models.layers import MLP, Activation, xavier_uniform
from detr.models.position_embedding import sine_embedding
from detr.models.transformer import TransformerEncoder
from detr.structures import Memory, QuerySet, at_least_fp32

if TYPE_CHECKING:
    from detr.models.queries import Queries

MIN_SIDE = 1e-3  # of an anchor by whose sides attention is modulated, in units of the image


class DabEncoder(TransformerEncoder):
    """The paper's encoder, in which every layer scales a token's position by its content.

    Arguments as in `TransformerEncoder`.
    """

    def __init__(
        self,
        *,
        num_layers: int = 6,
        d_model: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.0,
        activation: Activation = "prelu",
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
        if num_layers:
            self.position_scale = MLP(d_model, d_model, d_model, 2)
            xavier_uniform(self.position_scale)

    def encode(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, positions * self.position_scale(tokens), padding)
        return self.norm(tokens)


class DabDecoder(ConditionalDecoder):
    """Queries are anchor boxes; their sides widen or narrow attention, and each layer refines them (sections 4.2–4.5).

    A layer's box reaches the layer before it with its gradient, in the authors' code as in DINO.

    Arguments as in `TransformerDecoder`.
    """

    def add_parts(self, d_model: int) -> None:
        self.position_head = MLP(2 * d_model, d_model, d_model, 2)
        self.side_head = MLP(d_model, d_model, 2, 2)

    @classmethod
    def check(cls, queries: Queries | type[Queries]) -> None:
        needs_anchors(queries)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        assert queries.reference is not None  # `check` has seen to it
        content, hidden, boxes = queries.content, [], []
        refinement = Refinement(queries.reference, box_head, refine=True, look_forward_twice=True)
        for index, layer in enumerate(self.active_layers):
            box = refinement.reference.sigmoid()
            position = self.position_head(sine_embedding(box[..., [1, 0, 2, 3]], content.shape[-1] // 2).flatten(-2))
            place = self.place(content, box, first=index == 0)
            content = layer(content, position, place, memory, queries.attention_mask)
            hidden.append(self.norm(content))
            # As the authors: refined by the state before the final norm, which with pre-norm is the only one.
            boxes.append(refinement.box(index, hidden[-1], hidden[-1] if layer.pre_norm else content))
        return torch.stack(hidden), torch.stack(boxes)

    def place(self, content: Tensor, box: Tensor, *, first: bool) -> Tensor:
        """[B, Q, D]: the sines of the centre, scaled by content and by how the sides relate to those that it wants."""
        sines = place_embedding(box[..., :2], content.shape[-1])
        if not first:
            sines = sines * self.place_scale(content)
        wanted = at_least_fp32(self.side_head(content)).sigmoid()
        width, height = (wanted / box[..., 2:].clamp(min=MIN_SIDE)).unbind(-1)
        vertical, horizontal = sines.chunk(2, -1)
        return torch.cat([vertical * height[..., None], horizontal * width[..., None]], -1)
