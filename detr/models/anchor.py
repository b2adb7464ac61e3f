"""A decoder of our own: the paper's layers, with anchors that each of them refines."""

from __future__ import annotations

import torch
from torch import nn

from detr.models.box_coder import BoxCoder
from detr.models.decoder import Decoder, DecoderLayer, Refinement
from detr.models.layers import LayerConfig, xavier_uniform
from detr.models.relation import position_relation
from detr.models.structures import Decoded, Memory, QuerySet


class AnchorDecoder(Decoder):
    """Gives queries an anchor, which makes their position in each layer and which each layer corrects.

    Positions as DAB-DETR (Liu et al. 2022, section 4.2) makes them; refinement as in Deformable DETR
    (Zhu et al. 2021, appendix A.4), with the gradient of a layer's box reaching the layer before it
    (DINO, Zhang et al. 2022, section 3.6, "look forward twice").

    Args:
        layer, num_layers, eval_layers: as in `TransformerDecoder`.
        box_coder: how boxes follow from anchors.
        relation: bias self-attention by how boxes lie to each other (Relation-DETR, see `PositionRelation`).

    Raises:
        ValueError: relation with one layer.
    """

    references = ("anchor",)

    def __init__(
        self,
        *,
        layer: LayerConfig,
        box_coder: BoxCoder,
        num_layers: int = 6,
        eval_layers: int | None = None,
        relation: bool = False,
    ) -> None:
        layers = [DecoderLayer(layer) for _ in range(num_layers)]
        super().__init__(layers=layers, norm=nn.LayerNorm(layer.d_model), box_coder=box_coder, eval_layers=eval_layers)
        xavier_uniform(self)
        self.relation = position_relation(layer.num_heads, num_layers) if relation else None

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        content, hidden, mask = queries.content, [], queries.attention_mask
        refinement = Refinement(queries, box_head, self.box_coder, refine=True, look_forward_twice=True)
        for layer in self.active_layers:
            location = refinement.location
            content = layer(content, queries.positions_at(location), memory, mask)
            hidden.append(self.norm(content))
            refinement.add(hidden[-1], hidden[-1])
            if self.relation is not None:
                mask = self.relation(location, refinement.boxes[-1], queries.attention_mask)
        return Decoded(torch.stack(hidden), torch.stack(refinement.boxes))
