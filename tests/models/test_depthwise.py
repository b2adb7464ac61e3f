"""Depthwise convolutions beside PyTorch's: the same outputs, the same gradients up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detr.models.depthwise import depthwise

CHANNELS = 5


def gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
    return list(torch.autograd.grad((result * weights).sum(), inputs))


@pytest.mark.parametrize("size", [(5, 5), (7, 4), (3, 8)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("padding", [(2, 2), (0, 3), (1, 0)])
@pytest.mark.parametrize("image", [(11, 14), (8, 9)])
def test_gradients_are_those_of_pytorch(
    size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], image: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, CHANNELS, *image), (CHANNELS, 1, *size), (CHANNELS,)]
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    result = depthwise(*inputs, stride, padding)
    assert torch.equal(result, F.conv2d(*inputs, stride, padding, groups=CHANNELS))
    doubles = [each.detach().double().requires_grad_() for each in inputs]
    exact = gradients(F.conv2d(*doubles, stride, padding, groups=CHANNELS), doubles)
    for mine, true in zip(gradients(result, inputs), exact, strict=True):
        torch.testing.assert_close(mine, true.float(), rtol=1e-4, atol=1e-4)


def test_what_does_not_learn_has_no_gradient() -> None:
    image, weight = torch.randn(1, CHANNELS, 9, 9), torch.randn(CHANNELS, 1, 5, 5)
    depthwise(image, weight.requires_grad_(), None, (1, 1), (2, 2)).sum().backward()
    assert image.grad is None
    assert weight.grad is not None
    with torch.no_grad():
        assert not depthwise(image, weight, None, (1, 1), (2, 2)).requires_grad
