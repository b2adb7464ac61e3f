"""Transformer layers against the formula written out, and the refinement of anchors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr.models.anchor import AnchorDecoder
from detr.models.box_coder import LogitBoxCoder
from detr.models.dab import DabDecoder
from detr.models.decoder import TransformerDecoder
from detr.models.encoder import TransformerEncoder
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.layers import FeedForward, LayerConfig
from detr.models.position_embedding import BoxPosition
from detr.models.structures import Features, Memory, QuerySet

LAYER = LayerConfig(d_model=16, num_heads=2, dim_feedforward=16, dropout=0.0)


def memory_of_noise() -> Memory:
    padding = torch.zeros(1, 6, dtype=torch.bool)
    return Memory(torch.randn(1, 6, 16), torch.randn(1, 6, 16), padding, [(2, 3)], [32])


class PreNormReference:
    """The pre-norm transformer written out with plain matrices (Vaswani et al. 2017; DETR's forward_pre)."""

    def __init__(self, encoder: TransformerEncoder, decoder: TransformerDecoder, heads: int) -> None:
        self.encoder, self.decoder, self.heads = encoder, decoder, heads

    def attention(self, layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Of one image: [Q, D], [T, D], [T, D] → [Q, D]."""
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        q, k, v = (
            (x @ w.T + b).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = (q @ k.mT / q.shape[-1] ** 0.5).exp()
        mixed = scores / scores.sum(-1, keepdim=True) @ v
        return mixed.transpose(0, 1).flatten(1) @ layer.out_proj.weight.T + layer.out_proj.bias

    def feed_forward(self, part: FeedForward, x: Tensor) -> Tensor:
        inner = (x @ part.linear1.weight.T + part.linear1.bias).clamp(min=0)
        return inner @ part.linear2.weight.T + part.linear2.bias

    def __call__(self, x: Tensor, place: Tensor, queries: Tensor) -> list[Tensor]:
        """Tokens, their positions and the queries' positions of one image → normalised states of each layer."""
        for layer in self.encoder.layers:
            y = layer.norm1(x)
            x = x + self.attention(layer.self_attn, y + place, y + place, y)
            x = x + self.feed_forward(layer.feed_forward, layer.norm2(x))
        memory, state, states = self.encoder.norm(x), torch.zeros_like(queries), []
        for layer in self.decoder.layers:
            y = layer.norm1(state)
            state = state + self.attention(layer.self_attn, y + queries, y + queries, y)
            y = layer.norm2(state)
            state = state + self.attention(layer.cross_attn, y + queries, memory + place, memory)
            state = state + self.feed_forward(layer.feed_forward, layer.norm3(state))
            states.append(self.decoder.norm(state))
        return states


@torch.no_grad()
def test_pre_norm_equals_the_written_out_formula() -> None:
    torch.manual_seed(0)
    layer = LayerConfig(d_model=16, num_heads=4, dim_feedforward=24, dropout=0.1, pre_norm=True)
    encoder, decoder = (kind(num_layers=2, layer=layer).eval() for kind in (TransformerEncoder, TransformerDecoder))
    for part in (encoder, decoder):
        for norm in (module for module in part.modules() if isinstance(module, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
    tokens, positions = torch.randn(2, 16, 3, 4), torch.randn(2, 16, 3, 4)
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, :, 3] = True
    queries = QuerySet(content=torch.zeros(2, 5, 16), position=torch.randn(2, 5, 16))
    memory = encoder(Features([tokens], [padding], [positions], [32]))
    hidden = decoder(queries, memory, nn.Identity()).hidden
    for image in range(2):
        valid = ~padding[image].flatten()
        expected = PreNormReference(encoder, decoder, heads=4)(
            tokens[image].flatten(1).T[valid], positions[image].flatten(1).T[valid], queries.position[image]
        )
        torch.testing.assert_close(hidden[:, image], torch.stack(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["relu", "gelu", "glu"])
def test_activations(activation: Any) -> None:
    torch.manual_seed(0)
    layer = LayerConfig(d_model=8, num_heads=1, dim_feedforward=12, dropout=0.0, activation=activation)
    part, x = FeedForward(layer), torch.randn(3, 8)
    inner = x @ part.linear1.weight.T + part.linear1.bias
    expected = {
        "relu": lambda: inner.clamp(min=0),
        "gelu": lambda: inner * (1 + torch.erf(inner / 2**0.5)) / 2,
        "glu": lambda: inner[:, :12] / (1 + (-inner[:, 12:]).exp()),
    }[activation]()
    torch.testing.assert_close(part(x), expected @ part.linear2.weight.T + part.linear2.bias)


def refined(layers: int = 3) -> tuple[AnchorDecoder, QuerySet, Memory, list[Tensor], Tensor]:
    """An anchor decoder after its forward pass: each layer's correction (kept apart), and the logits of boxes."""
    torch.manual_seed(0)
    decoder = AnchorDecoder(num_layers=layers, layer=LAYER, box_coder=LogitBoxCoder())
    memory = memory_of_noise()
    reference = torch.randn(1, 4, 4, requires_grad=True)
    queries = QuerySet(content=torch.randn(1, 4, 16), reference=reference, embed=BoxPosition(16))
    corrections: list[Tensor] = []

    def box_head(hidden: Tensor) -> Tensor:
        corrections.append((hidden.detach()[..., :4] * 0.3).requires_grad_())
        return corrections[-1]

    boxes = decoder(queries, memory, box_head).boxes  # type: ignore[arg-type]
    return decoder, queries, memory, corrections, boxes.logit()


def test_anchors_are_refined_layer_by_layer() -> None:
    """Each layer's box is the first anchor plus all corrections so far."""
    _, queries, _, corrections, boxes = refined()
    expected = queries.reference + torch.stack(corrections).cumsum(0)
    torch.testing.assert_close(boxes, expected)


def test_look_forward_twice() -> None:
    """A layer's box reaches its own correction and that of the layer before, with a gradient of 1, and no other."""
    for layer in range(3):
        _, queries, _, corrections, boxes = refined()
        boxes[layer].sum().backward()
        for index, correction in enumerate(corrections):
            expected = 1.0 if index in (layer, layer - 1) else 0.0
            got = torch.zeros(()) if correction.grad is None else correction.grad
            torch.testing.assert_close(got, torch.full_like(got, expected), msg=f"{layer}, {index}")
        # The learned anchors are before layer 0: layers 0 and 1 reach them directly, layer 2 does not.
        direct = 0.0 if queries.reference.grad is None else queries.reference.grad.abs().max().item()  # type: ignore[union-attr]
        assert (direct > 0.5) == (layer < 2)


def test_later_layers_see_the_refined_anchor() -> None:
    """The position of layer 1's queries is made from the corrected anchor (detached), not from the first one."""
    decoder, queries, memory, corrections, _ = refined(layers=2)
    hidden, moved = (
        decoder(queries, memory, lambda state, by=by: state[..., :4] * 0 + by).hidden  # type: ignore[arg-type]
        for by in (0, 2)
    )
    torch.testing.assert_close(hidden[0], moved[0])
    assert (hidden[1] - moved[1]).abs().max() > 1e-2
    moved[1].sum().backward()
    assert all(correction.grad is None for correction in corrections)


@pytest.mark.parametrize("pre_norm", [False, True])
@torch.no_grad()
def test_dab_reads_boxes_off_normalised_states(pre_norm: bool) -> None:
    """In pre-norm, too, where what layers hand on is not."""
    torch.manual_seed(0)
    decoder = DabDecoder(num_layers=2, layer=replace(LAYER, pre_norm=pre_norm), box_coder=LogitBoxCoder())
    read: list[Tensor] = []

    def box_head(hidden: Tensor) -> Tensor:
        read.append(hidden)
        return hidden[..., :4]

    queries = QuerySet(content=3 + torch.randn(1, 4, 16), reference=torch.randn(1, 4, 4), embed=BoxPosition(16))
    decoder(queries, memory_of_noise(), box_head)  # type: ignore[arg-type]
    assert len(read) == (2 if pre_norm else 4)  # where it is the same state, it is read once
    means = torch.stack(read).mean(-1)
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "sizes", [[(12, 20), (6, 10), (3, 5)], [(9, 13), (4, 6), (2, 3)], [(12, 20), (6, 10), (6, 10)]]
)
@torch.no_grad()
def test_levels_of_any_size_are_fused(sizes: list[tuple[int, int]]) -> None:
    """Halved, as ResNets do; rounded down, as ConvNeXts do; or not halved, as with DC5."""
    encoder = HybridEncoder(num_levels=3, layer=replace(LAYER, d_model=32), normalization="group")
    maps, positions = ([torch.randn(1, 32, *size) for size in sizes] for _ in range(2))
    padding = [torch.zeros(1, *size, dtype=torch.bool) for size in sizes]
    memory = encoder(Features(maps, padding, positions, [8, 16, 32]))
    assert memory.shapes == sizes
    assert memory.tokens.shape == (1, sum(h * w for h, w in sizes), 32)
