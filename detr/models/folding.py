"""Batch norm with fixed statistics, computed as part of the convolution before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.depthwise import FAST, depthwise
from detr.models.operations import eager_on_cpu


class FrozenBatchNorm(nn.Module):
    """Applies batch norm with fixed statistics and affine parameters, and the activation that timm puts after it.

    torchvision's and timm's frozen batch norms say the same in three elementwise passes; this is one, or none where a
    `FoldedConvolution` comes before it. Its names are theirs, so that state dicts fit.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())
        self.eps = norm.eps
        self.act = getattr(norm, "act", nn.Identity())
        self.folded = False

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return what each channel is multiplied with, and what is added to it then; both [C]."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            statistics = (self.running_mean, self.running_var, self.weight, self.bias)
            x = F.batch_norm(x, *statistics, training=False, eps=self.eps)
        return self.act(x)


class FoldedConvolution(nn.Conv2d):
    """Applies a convolution and the frozen batch norm behind it in one pass; gradients reach its weight as ever.

    What it multiplies with is made in each forward pass, from its own weight and the norm's buffers: nothing can be
    out of date, and state dicts have what they have without it.

    Args:
        convolution: whose parameters become this one's.
        norm: does nothing but its activation from now on.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.same = isinstance(convolution, Conv2dSame)
        alone = self.groups == self.in_channels == self.out_channels and self.dilation == (1, 1)
        self.wide = alone and self.kernel_size[1] > FAST
        self._norm = (norm,)  # not a module of this one: it has its place in state dicts
        norm.folded = True

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self._norm[0].scale_and_shift()
        bias = shift if self.bias is None else torch.addcmul(shift, self.bias, scale)
        if self.same:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        scale = scale[:, None, None, None]
        if not (self.weight.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return self._conv_forward(x, self.weight * scale, bias)
        if self.wide and eager_on_cpu(x) and not torch.is_autocast_enabled("cpu"):
            return depthwise(x, self.weight * scale, bias, self.stride, self.padding)  # type: ignore[arg-type]
        return _Scaled.apply(x, self.weight, scale, bias, (self.stride, self.padding, self.dilation, self.groups))


class _Scaled(torch.autograd.Function):
    """A convolution with a weight that is multiplied with a scale: autograd would keep their product, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.settings = settings
        return F.conv2d(x, weight * scale, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        scale = scale.to(gradient.dtype)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient,
            x.to(gradient.dtype),
            weight.to(gradient.dtype) * scale,
            [len(weight)],
            *(stride, padding, dilation),
            transposed=False,
            output_padding=[0, 0],
            groups=groups,
            output_mask=[ctx.needs_input_grad[0], True, ctx.needs_input_grad[3]],
        )
        of_x = None if of_x is None else of_x.to(x.dtype)
        return of_x, of_weight.mul_(scale).to(weight.dtype), None, of_bias, None


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside of `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm(child))
        else:
            freeze_batch_norm(child)
    return module


@torch.no_grad()
def fold_batch_norm(network: nn.Module, run: Callable[[Tensor], Any]) -> None:
    """Fold every frozen batch norm of a network into the convolution whose output it is given.

    Which one that is shows in a pass with a small image: modules do not say what they are given.

    Args:
        network: is left in training mode.
        run: calls it, directly or not, with an image [1, 3, H, W].
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # tensors are kept: an id is one's own as long as it lives
    pairs: dict[nn.Conv2d, FrozenBatchNorm] = {}

    def remember(convolution: nn.Conv2d, _: Any, output: Tensor) -> None:
        made[id(output)] = convolution, output

    def pair(norm: FrozenBatchNorm, arguments: tuple[Tensor]) -> None:
        convolution, _ = made.get(id(arguments[0]), (None, None))
        if convolution is not None:
            pairs[convolution] = norm

    handles = []
    for module in network.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros" and module.padding != "same":
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, FrozenBatchNorm):
            handles.append(module.register_forward_pre_hook(pair))
    network.eval()
    run(torch.zeros(1, 3, 64, 96))
    network.train()
    for handle in handles:
        handle.remove()
    for name, module in list(network.named_modules()):
        if module in pairs and not module._forward_hooks:  # timm takes features from some models by hooks
            network.set_submodule(name, FoldedConvolution(module, pairs[module]))
