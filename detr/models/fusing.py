"""A convolution with the sum and the activation behind it, in one pass over memory where a library has one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from detr.models.depthwise import depthwise_gradients, has_slow_gradient
from detr.models.operations import eager_on_cpu

ACTIVATIONS: dict[type[nn.Module], str] = {nn.Identity: "none", nn.ReLU: "relu", nn.ReLU6: "relu6"}
ONE_DNN = {"none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}


class Geometry(NamedTuple):
    """Holds what a convolution is besides its weight, for rows and columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolve(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, geometry: Geometry, activation: str, shortcut: Tensor | None
) -> Tensor:
    """Return activation(convolution of x with scale · weight + bias + shortcut) [B, O, h', w'].

    What is kept for the backward pass are the input, which the layer before keeps too, and the output: no product with
    the scale, nothing from before the sum or the activation.

    Args:
        x: [B, I, h, w].
        weight: [O, I / groups, kh, kw].
        scale: [O, 1, 1, 1]; takes no gradient.
        bias: [O].
        geometry: of the convolution.
        activation: a name in `ACTIVATIONS`.
        shortcut: as the output, or None.
    """
    if torch.compiler.is_compiling():  # whoever compiles or exports fuses for himself
        return _plain(x, weight * scale, bias, geometry, activation, shortcut)
    learning = any(each is not None and each.requires_grad for each in (x, weight, bias, shortcut))
    if learning and torch.is_grad_enabled():
        return _Convolution.apply(x, weight, scale, bias, geometry, activation, shortcut)
    return _forward(x, weight * scale, bias, geometry, activation, shortcut)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, activation: str, shortcut: Tensor | None
) -> Tensor:
    """For autograd it does not exist: the fused forms have no derivative."""
    kind = x.device.type
    single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(kind)
    stride, padding, dilation, groups = geometry
    if kind == "cpu" and single and torch.backends.mkldnn.is_available():
        name, numbers = ONE_DNN[activation]
        shape = (padding, stride, dilation, groups)
        fused = torch.ops.mkldnn._convolution_pointwise
        if shortcut is None:
            return fused(x, weight, bias, *shape, name, numbers, "")
        return fused.binary(x, shortcut, weight, bias, *shape, "add", 1.0, name, numbers, "")
    if kind == "cuda" and activation == "relu" and torch.backends.cudnn.is_available() and weight.dtype != torch.double:
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        if shortcut is None:
            return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
        return torch.cudnn_convolution_add_relu(
            x, weight, shortcut.to(dtype), 1.0, bias, stride, padding, dilation, groups
        )
    return _plain(x, weight, bias, geometry, activation, shortcut)


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, activation: str, shortcut: Tensor | None
) -> Tensor:
    stride, padding, dilation, groups = geometry
    x = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if shortcut is not None:
        x += shortcut
    if activation == "relu":
        return F.relu_(x)
    return F.hardtanh_(x, 0, 6) if activation == "relu6" else x


class _Convolution(torch.autograd.Function):
    """`convolve` where something learns."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        geometry: Geometry,
        activation: str,
        shortcut: Tensor | None,
    ) -> Tensor:
        output = _forward(x, weight * scale, bias, geometry, activation, shortcut)
        ctx.save_for_backward(x, weight, scale, None if activation == "none" else output)
        ctx.geometry, ctx.activation = geometry, activation
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, output = ctx.saved_tensors
        if ctx.activation == "relu":
            gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        elif ctx.activation == "relu6":  # the output is at a bound where the input is at it or beyond
            gradient = torch.ops.aten.hardtanh_backward(gradient, output, 0, 6)
        dtype = gradient.dtype  # autocast's, if there is one
        of_x, of_weight, _, of_bias, *_, of_shortcut = ctx.needs_input_grad
        stride, padding, dilation, groups = ctx.geometry
        scale = scale.to(dtype)
        inputs = (gradient, x.to(dtype), weight.to(dtype) * scale)
        wanted = [of_x, of_weight, of_bias]
        if has_slow_gradient(weight, dilation, groups) and eager_on_cpu(x) and dtype != torch.bfloat16:
            by_x, by_weight, by_bias = depthwise_gradients(*inputs, stride, padding, wanted)
        else:
            shape = (stride, padding, dilation, False, [0, 0], groups)
            by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(*inputs, [len(weight)], *shape, wanted)
        return (
            None if by_x is None else by_x.to(x.dtype),
            None if by_weight is None else by_weight.mul_(scale).to(weight.dtype),
            None,
            by_bias,
            None,
            None,
            gradient if of_shortcut else None,
        )
