"""Deformable attention against the formula written out, and what its encoder and decoder do with references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr.models.box_coder import LogitBoxCoder
from detr.models.deformable import DeformableDecoder, DeformableEncoder
from detr.models.deformable_attention import DeformableAttention, deformable_attention
from detr.models.heads import BoxHead, PerLayer
from detr.models.layers import LayerConfig
from detr.models.position_embedding import BoxPosition
from detr.models.queries import LearnedQueries, Surroundings
from detr.models.structures import Features, Memory, QuerySet

SHAPES = [(3, 4), (2, 2)]
LAYER = LayerConfig(d_model=16, num_heads=2, dim_feedforward=16, dropout=0.0)
TOKENS = sum(height * width for height, width in SHAPES)


def bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """Of a level [h, w, C] at (x, y) in [0, 1]: tokens lie in the middle of their cells, and outside are zeros."""
    height, width, channels = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(channels, dtype=level.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def nearest(level: Tensor, x: float, y: float) -> Tensor:
    """Of a level [h, w, C]: the token whose corner is nearest, or the last one."""
    height, width, _ = level.shape
    column, row = (max(0, min(size - 1, int(at * size + 0.5))) for at, size in ((x, width), (y, height)))
    return level[row, column]


@pytest.mark.parametrize("points", [[2, 2], [1, 3]])
@pytest.mark.parametrize("sample", [bilinear, nearest])
def test_the_formula_written_out(sample: Callable[..., Tensor], points: list[int]) -> None:
    torch.manual_seed(0)
    values, weights = torch.randn(2, TOKENS, 3, 4), torch.rand(2, 5, 3, 4)
    locations = torch.rand(2, 5, 3, 4, 2) * 1.4 - 0.2  # some of them outside
    got = deformable_attention(values, SHAPES, locations, weights, points, discrete=sample is nearest)
    assert got.shape == (2, 5, 12)
    level_of = [level for level, count in enumerate(points) for _ in range(count)]
    for image in range(2):
        levels = [
            v.view(*s, 3, 4) for v, s in zip(values[image].split([h * w for h, w in SHAPES]), SHAPES, strict=True)
        ]
        for query in range(5):
            for head in range(3):
                expected = torch.zeros(4)
                for point, level in enumerate(level_of):
                    x, y = locations[image, query, head, point].tolist()
                    expected += weights[image, query, head, point] * sample(levels[level][:, :, head], x, y)
                torch.testing.assert_close(got[image, query, head * 4 : head * 4 + 4], expected)


def test_gradients_in_double_precision() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, TOKENS, 2, 2, dtype=torch.double, requires_grad=True)
    locations = (torch.rand(1, 3, 2, 3, 2, dtype=torch.double) * 1.2 - 0.1).requires_grad_()
    weights = torch.rand(1, 3, 2, 3, dtype=torch.double, requires_grad=True)

    def attend(*inputs: Tensor) -> Tensor:
        return deformable_attention(inputs[0], SHAPES, inputs[1], inputs[2], [1, 2])

    assert torch.autograd.gradcheck(attend, (values, locations, weights))


def memory(images: int = 2, width: int = 16) -> Memory:
    """Two levels; of the second image the right half is padding."""
    torch.manual_seed(0)
    fine, coarse = torch.zeros(images, 3, 4, dtype=torch.bool), torch.zeros(images, 2, 2, dtype=torch.bool)
    fine[1:, :, 2:], coarse[1:, :, 1:] = True, True
    padding = torch.cat([fine.flatten(1), coarse.flatten(1)], 1)
    return Memory(torch.randn(images, TOKENS, width), torch.randn(images, TOKENS, width), padding, SHAPES, [8, 16])


def attention(**changes: Any) -> DeformableAttention:
    torch.manual_seed(0)
    return DeformableAttention(**{"d_model": 16, "num_heads": 4, "num_levels": 2, "num_points": 2} | changes)


def test_points_start_around_the_reference() -> None:
    """Of four heads: right, down, left and up; one step of a token and two."""
    offsets = attention().sampling_offsets.bias.view(4, 2, 2, 2)
    for head, direction in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        for level in range(2):
            for point in range(2):
                expected = torch.tensor(direction) * (point + 1.0)
                torch.testing.assert_close(offsets[head, level, point], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_padding_is_never_looked_at() -> None:
    layer, first = attention(), memory()
    queries, references = torch.randn(2, 5, 16), torch.rand(2, 5, 2, 2)
    second = memory()
    second.tokens[second.padding] = 100.0
    torch.testing.assert_close(
        layer(queries, references, first, first.tokens), layer(queries, references, second, second.tokens)
    )


def test_points_of_each_level() -> None:
    """A list of equal numbers is the number; others start around the reference in steps of their own."""
    listed, plain = attention(num_points=[2, 2]), attention(num_points=2)
    assert listed.state_dict().keys() == plain.state_dict().keys()
    for name, value in listed.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
    layer, seen = attention(num_points=[1, 3]), memory()
    box = torch.tensor([0.5, 0.4, 0.2, 0.6]).expand(2, 1, 2, 4)
    places, weights = layer.sampling(torch.zeros(2, 1, 16), box, seen)
    right = [[0.6, 0.4], [0.5 + 0.1 / 3, 0.4], [0.5 + 0.2 / 3, 0.4], [0.6, 0.4]]  # shares of half the box's width
    torch.testing.assert_close(places[0, 0, 0], torch.tensor(right))
    assert weights.shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"num_points: expected 2 numbers, one for each level, got \[1, 1, 1\]"):
        attention(num_points=[1, 1, 1])


def test_discrete_points_do_not_learn() -> None:
    """As in the authors' code: nothing says in which direction they should go."""
    layer, seen = attention(discrete=True), memory()
    layer(torch.randn(2, 5, 16), torch.rand(2, 5, 2, 4), seen, seen.tokens).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is None} == {
        "sampling_offsets.weight",
        "sampling_offsets.bias",
    }


def test_width_and_heads_must_fit() -> None:
    with pytest.raises(ValueError, match="d_model=16 is not a multiple of num_heads=3"):
        attention(num_heads=3)


def test_valid_ratios() -> None:
    expected = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 1.0], [0.5, 1.0]]])
    torch.testing.assert_close(memory().valid_ratios, expected)


@torch.no_grad()
def test_the_encoder_does_not_see_padding() -> None:
    """Neither what is in it nor how much of it there is."""
    torch.manual_seed(0)
    encoder = DeformableEncoder(num_levels=1, num_layers=2, layer=LAYER).eval()
    for layer in encoder.layers:
        nn.init.normal_(layer.self_attn.sampling_offsets.weight, 0, 0.3)
    maps, positions = torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4)
    alone = encoder(Features([maps], [torch.zeros(1, 4, 4, dtype=torch.bool)], [positions], [8])).tokens
    for noise in (0.0, 5.0):
        larger, places = torch.full((1, 16, 6, 7), noise), torch.randn(1, 16, 6, 7)
        padding = torch.ones(1, 6, 7, dtype=torch.bool)
        larger[..., :4, :4], places[..., :4, :4], padding[:, :4, :4] = maps, positions, False
        padded = encoder(Features([larger], [padding], [places], [8])).tokens
        torch.testing.assert_close(padded[:, ~padding.flatten()], alone, rtol=1e-4, atol=1e-5)


def decoder(**changes: Any) -> DeformableDecoder:
    torch.manual_seed(0)
    return DeformableDecoder(num_levels=2, num_layers=3, layer=LAYER, box_coder=LogitBoxCoder(), **changes)


def anchors() -> QuerySet:
    return QuerySet(content=torch.randn(2, 5, 16), reference=torch.randn(2, 5, 4), embed=BoxPosition(16))


def points() -> QuerySet:
    """Learned ones, as a decoder that wants points gets them."""
    surroundings = Surroundings(num_logits=3, sigmoid=True, point_layers=DeformableDecoder.point_layers)
    return LearnedQueries(surroundings=surroundings, box_coder=LogitBoxCoder(), num_queries=5, d_model=16)(memory())


class Corrections(nn.Module):
    """A box head that says what it is told to, layer by layer, and keeps it for its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.said.append((hidden.detach()[..., :4] * 0.3).requires_grad_())
        return self.said[-1]


@pytest.mark.parametrize("twice", [False, True])
def test_refinement_adds_corrections_up(twice: bool) -> None:
    """Each box is the anchor plus all corrections; its gradient reaches its own correction, and twice: the last."""
    for layer in range(3):
        head, queries = Corrections(), anchors()
        boxes = decoder(look_forward_twice=twice)(queries, memory(), head).boxes.logit()
        torch.testing.assert_close(boxes, queries.reference + torch.stack(head.said).cumsum(0))
        boxes[layer].sum().backward()
        reached = [each.grad is not None and bool(each.grad.abs().max() > 0) for each in head.said]
        assert reached == [index == layer or (twice and index == layer - 1) for index in range(3)]


def test_looking_forward_needs_refinement() -> None:
    with pytest.raises(ValueError, match="look_forward_twice goes by what a layer refines"):
        decoder(look_forward_twice=True, refine=False)


def test_the_state_before_the_final_norm_refines() -> None:
    """As in DINO: the box is that of the state behind it."""
    head, queries = Corrections(), anchors()
    built = decoder(final_norm=True)
    nn.init.constant_(built.norm.weight, 3.0)
    boxes = built(queries, memory(), head).boxes.logit()
    normed, refining = torch.stack(head.said[::2]), torch.stack(head.said[1::2])
    torch.testing.assert_close(normed, 3 * refining, rtol=1e-3, atol=1e-3)  # layers end with a norm of their own
    before = torch.cat([torch.zeros_like(refining[:1]), refining.cumsum(0)[:-1]])
    torch.testing.assert_close(boxes, queries.reference + before + normed)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("refine", [True, False])
@torch.no_grad()
def test_points_start_as_boxes_of_an_eighth_in_every_layer(heads: int, refine: bool) -> None:
    """Also where layers that refine share one head."""
    each = [BoxHead(d_model=16, corrects=True) for _ in range(heads)]
    sides = decoder(refine=refine)(points(), memory(), each[0] if heads == 1 else PerLayer(each)).boxes[..., 2:]
    torch.testing.assert_close(sides, torch.full_like(sides, 0.1192), rtol=1e-3, atol=1e-4)


def test_without_refinement_every_layer_corrects_the_first_point() -> None:
    head, queries = Corrections(), points()
    queries.reference = queries.reference.detach().requires_grad_()
    boxes = decoder(refine=False)(queries, memory(), head).boxes.logit()
    said = torch.stack(head.said)
    torch.testing.assert_close(boxes[..., :2], queries.reference.expand(3, -1, -1, -1) + said[..., :2])
    torch.testing.assert_close(boxes[..., 2:], said[..., 2:] - 2)
    boxes.sum().backward()
    assert (queries.reference.grad > 2.9).all()


@torch.no_grad()
def test_a_box_is_looked_at_in_its_own_size() -> None:
    """With offsets of one step, points of a box lie on its border at the last step, whatever the level's shape."""
    layer, seen = attention(num_heads=4, num_points=2), []
    nn.init.zeros_(layer.attention_weights.weight)

    def record(values: Tensor, shapes: Any, locations: Tensor, *rest: Any, **flags: Any) -> Tensor:
        seen.append(locations)
        return torch.zeros(2, 1, 16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detr.models.deformable_attention.deformable_attention", record)
        box = torch.tensor([0.5, 0.4, 0.2, 0.6]).expand(2, 1, 2, 4)
        layer(torch.randn(2, 1, 16), box, memory(), memory().tokens)
    outermost = seen[0][0, 0, :, 1]  # of each head, in the first level
    torch.testing.assert_close(outermost, torch.tensor([[0.6, 0.4], [0.5, 0.7], [0.4, 0.4], [0.5, 0.1]]))
