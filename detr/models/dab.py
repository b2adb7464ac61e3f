"""Encoder and decoder of DAB-DETR (Liu et al. 2022, section 4; IDEA-Research/DAB-DETR, models/DAB_DETR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.conditional import ConditionalDecoder, location_embedding
from detr.models.decoder import Reference, Refinement
from detr.models.encoder import TransformerEncoder
from detr.models.layers import MLP, LayerConfig, xavier_uniform
from detr.models.structures import Decoded, Memory, QuerySet
from detr.structures import at_least_fp32

MIN_SIDE = 1e-3  # of an anchor by whose sides attention is modulated, in units of the image


class DabEncoder(TransformerEncoder):
    """Applies the paper's encoder, in which every layer scales a token's position by its content.

    Args:
        layer, num_layers: as in `TransformerEncoder`.
    """

    def __init__(self, *, layer: LayerConfig, num_layers: int = 6) -> None:
        super().__init__(layer=layer, num_layers=num_layers)
        if num_layers:
            self.position_scale = MLP(layer.d_model, layer.d_model, layer.d_model, 2)
            xavier_uniform(self.position_scale)

    def encode(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, positions * self.position_scale(tokens), padding)
        return self.norm(tokens)


class DabDecoder(ConditionalDecoder):
    """Takes anchors for queries; sides widen or narrow attention, each layer refines them (sections 4.2–4.5).

    A layer's box reaches the layer before it with its gradient, in the authors' code as in DINO.

    Args:
        layer, num_layers, eval_layers: as in `TransformerDecoder`.
        box_coder: how boxes follow from anchors.
    """

    references: tuple[Reference, ...] = ("anchor",)
    point_layers = 0

    def __init__(
        self, *, layer: LayerConfig, box_coder: BoxCoder, num_layers: int = 6, eval_layers: int | None = None
    ) -> None:
        super().__init__(layer=layer, box_coder=box_coder, num_layers=num_layers, eval_layers=eval_layers)
        self.side_head = MLP(layer.d_model, layer.d_model, 2, 2)
        xavier_uniform(self.side_head)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        content, hidden = queries.content, []
        refinement = Refinement(queries, box_head, self.box_coder, refine=True, look_forward_twice=True)
        for index, layer in enumerate(self.active_layers):
            anchor = refinement.location
            spatial = self.spatial_query(content, anchor, first=index == 0)
            content = layer(content, queries.positions_at(anchor), spatial, memory, queries.attention_mask)
            hidden.append(self.norm(content))
            # As the authors: refined by the state before the final norm, which with pre-norm is the only one.
            refinement.add(hidden[-1], hidden[-1] if layer.pre_norm else content)
        return Decoded(torch.stack(hidden), torch.stack(refinement.boxes))

    def spatial_query(self, content: Tensor, anchor: Tensor, *, first: bool) -> Tensor:
        """Return [B, Q, D]: the sines of the centre, scaled by content and by the wanted ratio of the sides."""
        sines = location_embedding(anchor[..., :2], content.shape[-1])
        if not first:
            sines = sines * self.spatial_scale(content)
        wanted = at_least_fp32(self.side_head(content)).sigmoid()
        width, height = (wanted / anchor[..., 2:].clamp(min=MIN_SIDE)).unbind(-1)
        vertical, horizontal = sines.chunk(2, -1)
        return torch.cat([vertical * height[..., None], horizontal * width[..., None]], -1)
