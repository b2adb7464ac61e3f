"""Encoders: what each offers, and the paper's (DETR, section 3.2; facebookresearch/detr, models/transformer.py).

Positions are added to queries and keys only, in every layer.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from detr.models.layers import FeedForward, LayerConfig, ResidualLayer, multihead_attention, xavier_uniform
from detr.models.structures import Features, Memory, as_tokens


class EncoderLayer(ResidualLayer):
    """Applies self-attention and feed-forward."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config, sublayers=2)
        self.self_attn = multihead_attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """Apply the layer: tokens and positions [B, T, D], padding [B, T] → [B, T, D]."""

        def attend(x: Tensor) -> Tensor:
            placed = x + positions
            return self.self_attn(placed, placed, x, key_padding_mask=padding, need_weights=False)[0]

        tokens = self.residual(1, tokens, attend)
        return self.residual(2, tokens, self.feed_forward)


class Encoder(nn.Module):
    """Offers what every encoder does.

    Attributes:
        num_levels: of the features that it takes; None: as many as there are.
        d_model: width of these; None: any.
        output_width: of the memory; None: it does not tell.
        keeps_positions: whether positions in the memory are as wide as its tokens, and so can be added to them.
    """

    num_levels: int | None = None
    d_model: int | None = None
    output_width: int | None = None
    keeps_positions = True
    layers: nn.ModuleList

    @property
    def reads_positions(self) -> bool:
        """Return whether positions of the features play a role; without layers they do not."""
        return len(self.layers) > 0

    def forward(self, features: Features) -> Memory:
        raise NotImplementedError


def layers_of(make: Callable[[], nn.Module], num_layers: int) -> nn.ModuleList:
    """Return so many layers of an encoder, which may have none. Raises ValueError for a negative number."""
    if num_layers < 0:
        raise ValueError(f"num_layers: expected at least 0, got {num_layers}")
    return nn.ModuleList(make() for _ in range(num_layers))


class TransformerEncoder(Encoder):
    """Applies the paper's encoder. Levels, where there are several, are concatenated to one sequence.

    Args:
        layer: what each layer is like.
        num_layers: 0 passes the features on.
    """

    def __init__(self, *, layer: LayerConfig, num_layers: int = 6) -> None:
        super().__init__()
        self.d_model = self.output_width = layer.d_model
        self.layers = layers_of(lambda: EncoderLayer(layer), num_layers)
        self.norm = nn.LayerNorm(layer.d_model) if layer.pre_norm else nn.Identity()
        xavier_uniform(self)

    def forward(self, features: Features) -> Memory:
        memory = features.flatten()
        memory.tokens = self.encode(memory.tokens, memory.positions, memory.padding)
        return memory

    def encode(self, tokens: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        """Apply all layers: [B, T, D] → [B, T, D]."""
        for layer in self.layers:
            tokens = layer(tokens, positions, padding)
        return self.norm(tokens)

    def encode_coarsest(self, features: Features) -> Tensor:
        """Apply all layers to the coarsest level only, and return its map [B, D, h, w]."""
        level = (features.maps[-1], features.positions[-1], features.padding[-1])
        return self.encode(*(as_tokens(each) for each in level)).mT.unflatten(-1, features.maps[-1].shape[-2:])
