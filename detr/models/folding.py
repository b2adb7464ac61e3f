"""Batch norm with fixed statistics and activations, computed as part of the convolution before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Conv2dSame, pad_same
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet

from detr.models.fusing import ACTIVATIONS, Geometry, convolve

BLOCKS = (resnet.BasicBlock, resnet.Bottleneck, BasicBlock, Bottleneck)


class FrozenBatchNorm(nn.Module):
    """Applies batch norm with fixed statistics and affine parameters, and the activation behind it.

    torchvision's and timm's frozen batch norms say the same in three elementwise passes; this is one, or none where a
    `FoldedConvolution` comes before it. Its names are theirs, so that state dicts fit.

    Attributes:
        act: the activation; timm puts some into its batch norms.
        folded: whether a `FoldedConvolution` does all of this.
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
        if self.folded:
            return x
        statistics = (self.running_mean, self.running_var, self.weight, self.bias)
        return self.act(F.batch_norm(x, *statistics, training=False, eps=self.eps))


class FoldedConvolution(nn.Conv2d):
    """Applies a convolution, the frozen batch norm behind it, a sum and an activation; gradients reach its weight.

    What it multiplies with is made in each forward pass, from its own weight and the norm's buffers: nothing can be
    out of date, and state dicts have what they have without it.

    Args:
        convolution: whose parameters become this one's.
        norm: does nothing from now on.
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
        self._norm = (norm,)  # not a module of this one: it has its place in state dicts
        norm.folded = True

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Return [B, O, h', w'] of x [B, I, h, w]; a shortcut, as the output, is added before the activation."""
        norm = self._norm[0]
        scale, shift = norm.scale_and_shift()
        bias = shift if self.bias is None else torch.addcmul(shift, self.bias, scale)
        if self.same:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        geometry: Any = Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        fused = ACTIVATIONS.get(type(norm.act))
        x = convolve(x, self.weight, scale[:, None, None, None], bias, geometry, fused or "none", shortcut)
        return x if fused else norm.act(x)


class Residual(nn.Module):
    """Does what a block of a ResNet does, with its sum and its activations as parts of its convolutions.

    Args:
        block: torchvision's or timm's, basic or bottleneck, its batch norms folded; without attention, dropout or
            smoothing. Its parameters keep their names.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.length = 3 if hasattr(block, "conv3") else 2
        for number in range(1, self.length + 1):
            norm = getattr(block, f"bn{number}")
            norm.act = nn.ReLU(inplace=True)
            setattr(self, f"conv{number}", getattr(block, f"conv{number}"))
            setattr(self, f"bn{number}", norm)
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.length):
            x = getattr(self, f"conv{number}")(x)
        return getattr(self, f"conv{self.length}")(x, shortcut)


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
    """Fold every frozen batch norm of a network, and an activation behind it, into the convolution before it.

    Which one that is shows in a pass with a small image: modules do not say what they are given. An activation has to
    work in place, since then nothing else can have been given what came before it.

    Args:
        network: is left in training mode.
        run: calls it, directly or not, with an image [1, 3, H, W].
    """
    # Tensors are kept: an id is one's own as long as it lives. Versions show what has been changed since, as by a sum.
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    norms: dict[nn.Module, FrozenBatchNorm] = {}  # by the convolution before it
    activations: dict[nn.Module, nn.Module] = {}  # by the norm before it
    calls: Counter[nn.Module] = Counter()

    def remember(module: nn.Module, _: Any, output: Tensor) -> None:
        made[id(output)] = module, output, output._version

    def pair(module: nn.Module, arguments: tuple[Tensor]) -> None:
        calls[module] += 1
        before, _, version = made.get(id(arguments[0]), (None, None, None))
        if before is None or version != arguments[0]._version:
            return
        if isinstance(module, FrozenBatchNorm) and isinstance(before, nn.Conv2d):
            norms[before] = module
        elif not isinstance(module, FrozenBatchNorm) and isinstance(before, FrozenBatchNorm):
            activations[before] = module

    handles = []
    for module in network.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros" and module.padding != "same":
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, FrozenBatchNorm):
            handles += [module.register_forward_pre_hook(pair), module.register_forward_hook(remember)]
        elif type(module) in ACTIVATIONS and getattr(module, "inplace", False):
            handles.append(module.register_forward_pre_hook(pair))
    network.eval()
    run(torch.zeros(1, 3, 64, 96))
    network.train()
    for handle in handles:
        handle.remove()
    for name, module in list(network.named_modules()):
        if module in norms and not module._forward_hooks:  # timm takes features from some models by hooks
            network.set_submodule(name, FoldedConvolution(module, norms[module]))
    names = {module: name for name, module in network.named_modules()}
    for norm, activation in activations.items():
        if norm.folded and type(norm.act) is nn.Identity and calls[activation] == calls[norm] == 1:
            norm.act = activation
            network.set_submodule(names[activation], nn.Identity())


def fuse_blocks(network: nn.Module) -> None:
    """Replace every block of a ResNet by a `Residual`; its batch norms are folded."""
    for name, module in list(network.named_modules()):
        if isinstance(module, BLOCKS):
            network.set_submodule(name, Residual(module))
