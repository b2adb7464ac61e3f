"""Depthwise convolutions with kernels wider than three, whose weight oneDNN has no fast gradient for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FAST = 3  # columns that oneDNN has a depthwise gradient for; with wider kernels it takes ten times as long

Pair = tuple[int, int]


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Convolve x [B, C, h, w] with a kernel for each channel, weight [C, 1, kh, kw] → [B, C, h', w'].

    The gradient of the weight is computed three columns at a time.
    """
    return _Depthwise.apply(x, weight, bias, stride, padding)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted, stride, padding = ctx.needs_input_grad, ctx.stride, ctx.padding
        before = of_weight = None
        if wanted[0]:
            before = _gradient(gradient, x, weight, stride, padding, of=0)
        if wanted[1]:
            columns = []
            for first in range(0, weight.shape[-1], FAST):
                part = weight[..., first : first + FAST]
                reached = stride[1] * (gradient.shape[-1] - 1) + part.shape[-1]
                left = padding[1] - first
                window = F.pad(x, (left, reached - left - x.shape[-1]))
                columns.append(_gradient(gradient, window, part, stride, (padding[0], 0), of=1))
            of_weight = torch.cat(columns, -1)
        of_bias = gradient.sum((0, 2, 3)) if wanted[2] else None  # oneDNN would compute the weight's with it
        return before, of_weight, of_bias, None, None


def _gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of: int) -> Tensor:
    """That of x (0) or of the weight (1)."""
    wanted = [of == 0, of == 1, False]
    shape = (stride, padding, (1, 1), False, (0, 0), len(weight))
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *shape, wanted)[of]
