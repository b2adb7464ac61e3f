"""Gradients of depthwise convolutions with kernels wider than three, for whose weight oneDNN has no fast one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FAST = 3  # columns that oneDNN has a depthwise gradient for; with wider kernels it takes ten times as long

Pair = tuple[int, int]


def has_slow_gradient(weight: Tensor, dilation: Pair, groups: int) -> bool:
    """Return whether a convolution is one that `depthwise_gradients` is for."""
    outputs, inputs_of_group, _, columns = weight.shape
    return inputs_of_group == 1 and groups == outputs and dilation == (1, 1) and columns > FAST


def depthwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return those of input, weight and bias of a depthwise convolution, each None unless it is wanted.

    The one of the weight is computed three columns at a time.

    Args:
        gradient: of the output [B, C, h', w'].
        x: [B, C, h, w].
        weight: [C, 1, kh, kw].
        stride, padding: of the convolution.
        wanted: of input, weight, bias.
    """
    of_x = of_weight = None
    if wanted[0]:
        of_x = _gradient(gradient, x, weight, stride, padding, of=0)
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
    return of_x, of_weight, of_bias


def _gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of: int) -> Tensor:
    """That of x (0) or of the weight (1)."""
    wanted = [of == 0, of == 1, False]
    shape = (stride, padding, (1, 1), False, (0, 0), len(weight))
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *shape, wanted)[of]
