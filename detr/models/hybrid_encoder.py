"""RT-DETR's efficient hybrid encoder (Zhao et al. 2024, section 4.2; lyuwenyu/RT-DETR, rtdetr/hybrid_encoder.py)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.encoder import TransformerEncoder
from detr.models.layers import LayerConfig, group_norm
from detr.models.structures import Features, Memory

Normalization = Literal["batch", "group"]

REP_BLOCKS = 3  # of a fusion block


class HybridEncoder(TransformerEncoder):
    """Applies self-attention to the coarsest level only (AIFI), then fuses levels down and up by convolutions (CCFM).

    Args:
        layer, num_layers: as in `TransformerEncoder`.
        num_levels: of the features, at least 2.
        normalization: of the convolutions. `batch`: the paper's, for batches of some images; `group`: group norm with
            32 groups, where there are few.

    Raises:
        ValueError: fewer than two levels.
    """

    num_levels: int

    def __init__(
        self,
        *,
        layer: LayerConfig,
        num_layers: int = 1,
        num_levels: int = 3,
        normalization: Normalization = "batch",
    ) -> None:
        super().__init__(layer=layer, num_layers=num_layers)
        if num_levels < 2:
            raise ValueError(f"num_levels: expected at least 2 levels to fuse, got {num_levels}; use neck=multi_level")
        self.num_levels = num_levels
        steps, d_model = range(num_levels - 1), layer.d_model
        self.lateral = nn.ModuleList(_convolution(d_model, d_model, 1, normalization) for _ in steps)
        self.top_down = nn.ModuleList(FusionBlock(d_model, normalization) for _ in steps)
        self.downsampling = nn.ModuleList(_convolution(d_model, d_model, 3, normalization, stride=2) for _ in steps)
        self.bottom_up = nn.ModuleList(FusionBlock(d_model, normalization) for _ in steps)

    def forward(self, features: Features) -> Memory:
        levels = [*features.maps[:-1], self.encode_coarsest(features)]
        climbed = [levels[-1]]  # coarse to fine
        for finer, lateral, fuse in zip(reversed(levels[:-1]), self.lateral, self.top_down, strict=True):
            climbed[-1] = lateral(climbed[-1])
            climbed.append(fuse(torch.cat([_resized(climbed[-1], finer), finer], 1)))
        fused = [climbed.pop()]  # fine to coarse
        for coarser, downsample, fuse in zip(reversed(climbed), self.downsampling, self.bottom_up, strict=True):
            below = _resized(downsample(fused[-1]), coarser)
            fused.append(fuse(torch.cat([below, coarser], 1)))
        return Features(fused, features.padding, features.positions, features.strides).flatten()


class FusionBlock(nn.Module):
    """Fuses two levels, concatenated, to one: [B, 2 D, h, w] → [B, D, h, w] (figure 4 of the paper)."""

    def __init__(self, d_model: int, normalization: Normalization) -> None:
        super().__init__()
        self.direct = _convolution(2 * d_model, d_model, 1, normalization)
        self.entry = _convolution(2 * d_model, d_model, 1, normalization)
        self.blocks = nn.Sequential(*(RepBlock(d_model, normalization) for _ in range(REP_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.entry(x)) + self.direct(x)


class RepBlock(nn.Module):
    """Applies a 3×3 and a 1×1 convolution side by side (RepVGG, Ding et al. 2021), [B, D, h, w] → [B, D, h, w]."""

    def __init__(self, d_model: int, normalization: Normalization) -> None:
        super().__init__()
        self.wide = _convolution(d_model, d_model, 3, normalization, activation=False)
        self.narrow = _convolution(d_model, d_model, 1, normalization, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x) + self.narrow(x))


def _resized(level: Tensor, like: Tensor) -> Tensor:
    """A level as large as another: not every backbone halves its levels, or rounds up when it does."""
    if level.shape[-2:] == like.shape[-2:]:
        return level
    return F.interpolate(level, size=like.shape[-2:], mode="nearest")


def _convolution(
    channels: int, d_model: int, size: int, normalization: Normalization, *, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution, norm and SiLU."""
    norm = nn.BatchNorm2d(d_model) if normalization == "batch" else group_norm(d_model)
    convolution = nn.Conv2d(channels, d_model, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, norm, nn.SiLU() if activation else nn.Identity())
