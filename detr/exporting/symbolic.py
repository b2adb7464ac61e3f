"""Operations of other libraries in forms that can be traced for every size: what they compute stays the same.

Their own forms decide by the sizes at hand, which a trace would keep, or make expressions of sizes that grow with every
layer until nobody can solve them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

_interpolate = F.interpolate


@contextlib.contextmanager
def symbolic_sizes() -> Iterator[None]:
    """Put the forms of this module into their places."""
    with contextlib.ExitStack() as stack:
        for module in ("conv2d_same", "pool2d_same", "std_conv"):
            if f"timm.layers.{module}" in sys.modules:
                stack.enter_context(mock.patch(f"timm.layers.{module}.pad_same", pad_same))
        stack.enter_context(mock.patch("detr.models.folding.pad_same", pad_same))
        stack.enter_context(mock.patch("detr.models.two_stage.batched_nms", batched_nms))
        stack.enter_context(mock.patch("torch.nn.functional.interpolate", interpolate))
        yield


def pad_same(
    x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1), value: float = 0.0
) -> Tensor:
    """Pad [B, C, H, W] so that a convolution's output is the input over the stride, rounded up (timm's `pad_same`)."""
    for axis, (kernel, step, spread) in enumerate(zip(kernel_size, stride, dilation, strict=True), start=2):
        reach = (kernel - 1) * spread + 1
        if kernel == 1:  # which needs nothing
            continue
        side: Any = x.shape[axis]
        length = ((side + step - 1) // step - 1) * step + reach
        margin = (0, 0) * (3 - axis) + (reach - 1, reach - 1)
        padded = F.pad(x, margin, value=value)
        start = reach - 1 - torch.sym_max(length - side, 0) // 2
        x = padded.index_select(axis, torch.arange(length, device=x.device) + start)
    return x


def interpolate(x: Tensor, size: Sequence[int], mode: str, **options: Any) -> Tensor:
    """Resize [B, C, h, w] by the nearest pixel, with the rounding of PyTorch's CPU kernels; other modes as they are.

    Other libraries divide where PyTorch multiplies. Where a pixel is exactly between two that are padding and not, the
    last digit decides.
    """
    if mode != "nearest":
        return _interpolate(x, size=size, mode=mode, **options)
    for axis, target in enumerate(size, start=2):
        side: Any = x.shape[axis]
        given, wanted = (torch.ones((), device=x.device) * each for each in (side, target))
        places = (torch.arange(target, device=x.device, dtype=torch.float32) * (given / wanted)).long()
        x = x.index_select(axis, places.clamp(max=side - 1))
    return x


def batched_nms(boxes: Tensor, scores: Tensor, image: Tensor, threshold: float) -> Tensor:
    """Return the indices of boxes [N, 4] that none of the same image [N] suppresses: images are laid side by side."""
    shift = image.to(boxes) * (boxes.max() + 1)
    return nms(boxes + shift[:, None], scores, threshold)
