"""Linear layers, dropout and attention against torch.nn's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models import operations
from detr.models.operations import Attention, Linear, attend, dropout, linear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(300, 256), (2, 150, 256), (6, 2, 40, 256), (0, 256), (3, 256)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_products_are_those_of_a_linear_layer(
    shape: tuple[int, ...], with_bias: bool, strided: bool, threads: int
) -> None:
    x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] if strided else torch.randn(shape)
    weight, bias = torch.randn(96, 256) / 16, torch.randn(96) if with_bias else None
    found = []
    for function in (linear, F.linear):
        leaves = [each.clone().requires_grad_() for each in (x, weight, *([bias] if bias is not None else []))]
        y = function(*leaves)
        found.append((y, torch.autograd.grad(y.square().sum(), leaves)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_large_products_go_through_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above compares F.linear with itself."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked: list[int] = []
    convolve = F.conv2d
    monkeypatch.setattr(operations.F, "conv2d", lambda *arguments: (asked.append(1), convolve(*arguments))[1])
    layer = Linear(256, 96)
    layer(torch.randn(300, 256))
    assert asked == [1]
    layer(torch.randn(3, 256))
    layer.double()(torch.randn(300, 256).double())
    with torch.autocast("cpu", torch.bfloat16):
        layer.float()(torch.randn(300, 256))
    assert asked == [1]


# Dropout.


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_as_many_and_scales_the_others(p: float) -> None:
    x = torch.rand(301, 1003) + 1
    y = dropout(x, p, training=True)
    dropped = y == 0
    count = x.numel()
    assert abs(dropped.float().mean() - p) < 5 * (p * (1 - p) / count) ** 0.5
    torch.testing.assert_close(y[~dropped], x[~dropped] / (1 - p), rtol=2e-4, atol=0)
    # Neighbours do not know of each other, least of all the four that share a random number.
    flat = dropped.flatten()
    for distance in (1, 2, 3, 4, 1003):
        both = (flat[distance:] & flat[:-distance]).float().mean()
        assert abs(both - p * p) < 5 * (p * p / count) ** 0.5
    for offset in range(4):
        assert abs(flat[offset::4].float().mean() - p) < 10 * (p * (1 - p) / count) ** 0.5


def test_dropout_is_repeated_from_the_random_state() -> None:
    x = torch.rand(33, 7)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5, True), first)
    assert torch.equal(dropout(x, 0.5, True), second)
    assert not torch.equal(first, second)


def test_gradients_go_where_values_do() -> None:
    x = (torch.rand(20, 30) + 1).requires_grad_()
    y = dropout(x, 0.3, True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach() / x.detach())


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.4, False)])
def test_nothing_is_dropped(p: float, training: bool) -> None:
    x = torch.rand(5, 6)
    assert torch.equal(dropout(x, p, training), x)


def test_everything_is_dropped() -> None:
    assert not dropout(torch.rand(5, 6), 1.0, True).any()


# Attention.


def masks(kind: str) -> dict[str, Tensor]:
    padding = torch.zeros(2, 9, dtype=torch.bool)
    if kind in ("padding", "both", "padding and bias"):
        padding[1, 6:] = True
    allowed = torch.rand(9, 9) < 0.3
    allowed.fill_diagonal_(False)
    found = {} if kind == "none" else {"key_padding_mask": padding}
    if kind in ("mask", "both"):
        found["attn_mask"] = allowed
    if kind in ("bias", "padding and bias"):
        found["attn_mask"] = torch.randn(2 * 4, 9, 9)
    return found


@pytest.mark.parametrize("kind", ["none", "no padding", "padding", "mask", "bias", "both", "padding and bias"])
@pytest.mark.parametrize("same", [True, False])
def test_attention_is_that_of_torch(kind: str, same: bool) -> None:
    theirs = nn.MultiheadAttention(32, 4, 0.1, batch_first=True).double().eval()
    ours = Attention(32, 4, 0.1).double().eval()
    ours.load_state_dict(theirs.state_dict())
    query, value = torch.randn(2, 9, 32).double(), torch.randn(2, 9, 32).double()
    key = query if same else torch.randn(2, 9, 32).double()
    given = {name: mask.double() if mask.is_floating_point() else mask for name, mask in masks(kind).items()}
    found = []
    for module in (ours, theirs):
        mixed, _ = module(query, key, value, need_weights=False, **given)
        found.append((mixed, torch.autograd.grad(mixed.square().sum(), list(module.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    weights = [module(query, key, value, need_weights=True, **given)[1] for module in (ours, theirs)]
    torch.testing.assert_close(weights[0], weights[1])


def test_dropout_of_attention_has_the_mean_of_none() -> None:
    queries, keys, values = (torch.randn(1, 1, 4, 8) for _ in range(3))
    mask = torch.tensor([True, True, True, False]).expand(1, 1, 4, 4)
    expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    many = attend(*(each.expand(40000, -1, -1, -1) for each in (queries, keys, values)), mask, 0.2)
    torch.testing.assert_close(many.mean(0, keepdim=True), expected, rtol=0, atol=0.02)
    assert many.std(0).min() > 0.01
