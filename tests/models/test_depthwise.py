"""Gradients of depthwise convolutions beside PyTorch's in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detr.models.depthwise import depthwise_gradients

CHANNELS = 5


@pytest.mark.parametrize("size", [(5, 5), (7, 4), (3, 8)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("padding", [(2, 2), (0, 3), (1, 0)])
@pytest.mark.parametrize("image", [(11, 14), (8, 9)])
def test_gradients_are_those_of_pytorch(
    size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], image: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, CHANNELS, *image), (CHANNELS, 1, *size), (CHANNELS,)]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    doubles = [each.double().requires_grad_() for each in inputs]
    result = F.conv2d(*doubles, stride, padding, groups=CHANNELS)
    weights = torch.randn(result.shape, generator=generator)
    exact = torch.autograd.grad((result * weights.double()).sum(), doubles)
    x, weight, _ = inputs
    for mine, true in zip(depthwise_gradients(weights, x, weight, stride, padding, [True] * 3), exact, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, true.float(), rtol=1e-4, atol=1e-4)


def test_only_what_is_wanted_is_computed() -> None:
    x, weight, gradient = torch.randn(1, CHANNELS, 9, 9), torch.randn(CHANNELS, 1, 5, 5), torch.randn(1, CHANNELS, 9, 9)
    for wanted in ([True, False, False], [False, True, False], [False, False, True]):
        found = depthwise_gradients(gradient, x, weight, (1, 1), (2, 2), wanted)
        assert [each is not None for each in found] == wanted
