"""D-FINE's decoder (Peng et al. 2024, section 4.1; Peterande/D-FINE, dfine/dfine_decoder.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.decoder import Decoder
from detr.models.deformable_attention import DeformableAttention
from detr.models.distribution import bin_values, moved
from detr.models.heads import QUALITY, head_of_layer
from detr.models.layers import (
    MLP,
    FeedForward,
    LayerConfig,
    MLPActivation,
    ResidualLayer,
    multihead_attention,
    xavier_uniform,
)
from detr.models.operations import Dropout, Linear
from detr.models.structures import Decoded, Memory, QuerySet
from detr.structures import at_least_fp32

LARGEST = 10.0  # entry of a query's position, in either direction

SURE_BINS, QUALITY_WIDTH = 4, 64  # of an edge, that the quality of its place is read off; what reads it


class Gate(nn.Module):
    """Mixes what a query was and what it has seen, each as much as both of them say (the "target gating layer")."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = Linear(2 * d_model, 2 * d_model)
        self.norm = nn.LayerNorm(d_model)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, before: Tensor, seen: Tensor) -> Tensor:
        """Mix [B, Q, D] and [B, Q, D] → [B, Q, D]."""
        first, second = self.linear(torch.cat([before, seen], -1)).sigmoid().chunk(2, -1)
        return self.norm(first * before + second * seen)


class DFineLayer(ResidualLayer):
    """Applies self-attention among queries, deformable cross-attention with a gate, feed-forward."""

    def __init__(self, config: LayerConfig, attention: DeformableAttention) -> None:
        super().__init__(config, sublayers=2)
        self.self_attn = multihead_attention(config)
        self.cross_attn = attention
        self.seen_dropout = Dropout(config.dropout)
        self.gate = Gate(config.d_model)
        self.feed_forward = FeedForward(config)
        xavier_uniform(self.self_attn)
        xavier_uniform(self.feed_forward)

    def forward(
        self, content: Tensor, position: Tensor, locations: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> Tensor:
        """Apply the layer: content, position [B, Q, D], locations [B, Q, levels, 4], mask [Q, Q] → [B, Q, D]."""

        def attend_queries(x: Tensor) -> Tensor:
            placed = x + position
            return self.self_attn(placed, placed, x, attn_mask=attention_mask, need_weights=False)[0]

        content = self.residual(1, content, attend_queries)
        seen = self.cross_attn(content + position, locations, memory, memory.tokens)
        content = self.gate(content, self.seen_dropout(seen))
        return self.residual(2, content, self.feed_forward)


class LocationQuality(nn.Module):
    """Reads off the surest bins of all edges how good the box is: flat distributions are unsure ones."""

    def __init__(self, activation: MLPActivation) -> None:
        super().__init__()
        self.mlp = MLP(4 * (SURE_BINS + 1), QUALITY_WIDTH, 1, 2, activation)
        for parameter in self.mlp.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, distributions: Tensor) -> Tensor:
        """Return [B, Q, 1] of logits of bins [B, Q, 4, bins + 1]."""
        surest = distributions.softmax(-1).topk(SURE_BINS, -1).values
        return self.mlp(torch.cat([surest, surest.mean(-1, keepdim=True)], -1).flatten(-2))


class DFineDecoder(Decoder):
    """Refines distributions over how far the edges of a first box move, layer by layer (section 4.1).

    The first layer corrects the anchor to a preliminary box, which has losses of its own while training. It is the
    reference of all layers: each adds to the distributions of the one before, and looks at the box that they mean.

    Args:
        layer, num_layers, eval_layers: as in `TransformerDecoder`; its activation is that of all its heads, too.
        box_coder: how the preliminary box follows from the anchor.
        num_levels: of the memory.
        num_points: that a head looks at in a level; a list: one number for each level.
        bins: N of a distribution, even; it has N + 1.
        reach: a: how far edges move at most, in sides of the box; the bins at the ends are for what lies beyond.
        curvature: c: the larger, the more evenly bins are spread.
        quality: add to all class logits of a box how good its distributions say that it is.

    Raises:
        ValueError: numbers out of their ranges, an activation other than relu and silu, or pre-norm.
    """

    references = ("anchor",)
    reads_positions = False
    extras = ("distributions", "reference", "bins")
    num_levels: int
    reach: Tensor
    curvature: Tensor

    def __init__(
        self,
        *,
        layer: LayerConfig,
        box_coder: BoxCoder,
        num_layers: int = 6,
        eval_layers: int | None = None,
        num_levels: int = 3,
        num_points: int | Sequence[int] = 4,
        bins: int = 32,
        reach: float = 0.5,
        curvature: float = 0.25,
        quality: bool = True,
    ) -> None:
        if bins < SURE_BINS or bins % 2:
            raise ValueError(f"bins: expected an even number, at least {SURE_BINS}, got {bins}")
        for name, value in {"reach": reach, "curvature": curvature}.items():
            if value <= 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        if layer.pre_norm:
            raise ValueError("pre_norm: this decoder normalises after each sublayer only; set it to false")
        if layer.activation not in ("relu", "silu"):
            raise ValueError(f"activation: expected relu or silu for this decoder, got {layer.activation}")
        attention = (
            DeformableAttention(
                d_model=layer.d_model,
                num_heads=layer.num_heads,
                num_levels=num_levels,
                num_points=num_points,
                projections=False,
            )
            for _ in range(num_layers)
        )
        super().__init__(
            layers=[DFineLayer(layer, each) for each in attention],
            norm=nn.Identity(),
            box_coder=box_coder,
            eval_layers=eval_layers,
        )
        self.num_levels, self.bins = num_levels, bins
        self.register_buffer("reach", torch.tensor([float(reach)]))
        self.register_buffer("curvature", torch.tensor([float(curvature)]))
        self.preliminary = MLP(layer.d_model, layer.d_model, box_coder.num_outputs, 3, layer.activation)
        for parameter in self.preliminary.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.quality = nn.ModuleList(LocationQuality(layer.activation) for _ in range(num_layers)) if quality else None

    @property
    def box_outputs(self) -> int:
        return 4 * (self.bins + 1)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> Decoded:
        assert queries.reference is not None  # the detector has seen to it
        assert self.box_coder is not None
        ratios = memory.valid_ratios[:, None].repeat(1, 1, 1, 2)  # [B, 1, levels, 4]
        anchor = at_least_fp32(queries.reference)
        values = bin_values(self.bins, self.reach, self.curvature)
        content, box = queries.content, self.box_coder.decode(anchor)
        hidden: list[Tensor] = []
        boxes: list[Tensor] = []
        distributions: list[Tensor] = []
        for index, layer in enumerate(self.active_layers):
            position = queries.positions_at(box).clamp(-LARGEST, LARGEST)
            before = content.detach() if index else 0
            content = layer(content, position, box[:, :, None] * ratios, memory, queries.attention_mask)
            if index == 0:
                correction = at_least_fp32(self.preliminary(content))
                preliminary = self.box_coder.decode(self.box_coder.correct(anchor, correction))
                reference = preliminary.detach()
            change = at_least_fp32(head_of_layer(box_head, index)(content + before)).unflatten(-1, (4, -1))
            distributions.append(distributions[-1] + change if index else change)
            boxes.append(moved(reference, distributions[-1], values))
            box = boxes[-1].detach()
            hidden.append(content)
        extras = {"distributions": torch.stack(distributions)}
        if self.quality is not None:
            extras[QUALITY] = torch.stack([self.quality[i](each) for i, each in enumerate(distributions)])
        extras["reference"] = reference.expand(len(boxes), -1, -1, -1)
        extras["bins"] = values.expand(*extras["reference"].shape[:-1], -1)
        return Decoded(torch.stack(hidden), torch.stack(boxes), extras, preliminary=preliminary)
