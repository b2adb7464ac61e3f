"""RT-DETR's efficient hybrid encoder (Zhao et al. 2024, section 4.2; lyuwenyu/RT-DETR, rtdetr/hybrid_encoder.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.encoder import TransformerEncoder
from detr.models.layers import LayerConfig, Normalization, convolution
from detr.models.structures import Features, Memory

REP_BLOCKS = 3  # of RT-DETR's fusion block


@dataclass(frozen=True)
class Blocks:
    """Builds what levels are fused with, for a width of D.

    Args:
        normalization: of the convolutions.
        expansion: width of what is inside of a fusion block, in D.
    """

    normalization: Normalization = "batch"
    expansion: float = 1.0

    def lateral(self, d_model: int) -> nn.Module:
        """Return what a level goes through before it joins the finer one: [B, D, h, w] → [B, D, h, w]."""
        return convolution(d_model, d_model, 1, self.normalization)

    def fusion(self, d_model: int) -> nn.Module:
        """Return what makes one level of two: [B, 2 D, h, w] → [B, D, h, w]."""
        return FusionBlock(2 * d_model, d_model, self.normalization, expansion=self.expansion)

    def downsampling(self, d_model: int) -> nn.Module:
        """Return what a level goes through before it joins the coarser one: [B, D, h, w] → [B, D, h / 2, w / 2]."""
        return convolution(d_model, d_model, 3, self.normalization, stride=2)


class FusingEncoder(TransformerEncoder):
    """Applies self-attention to the coarsest level only (AIFI), then fuses levels down and up by convolutions (CCFM).

    Args:
        layer, num_layers: as in `TransformerEncoder`.
        num_levels: of the features, at least 2.
        blocks: what levels are fused with.
        output_width: of a 1×1 convolution with a norm that each level goes through in the end; null: none, and levels
            stay as wide as the encoder is. A decoder of that width must not read their positions.

    Raises:
        ValueError: fewer than two levels.
    """

    num_levels: int

    def __init__(
        self, *, layer: LayerConfig, num_layers: int, num_levels: int, blocks: Blocks, output_width: int | None
    ) -> None:
        super().__init__(layer=layer, num_layers=num_layers)
        if num_levels < 2:
            raise ValueError(f"num_levels: expected at least 2 levels to fuse, got {num_levels}; use neck=multi_level")
        if output_width is not None and output_width < 1:
            raise ValueError(f"output_width: expected at least 1, got {output_width}")
        self.num_levels, self.output_width = num_levels, output_width or layer.d_model
        steps, d_model = range(num_levels - 1), layer.d_model
        self.lateral = nn.ModuleList(blocks.lateral(d_model) for _ in steps)
        self.top_down = nn.ModuleList(blocks.fusion(d_model) for _ in steps)
        self.downsampling = nn.ModuleList(blocks.downsampling(d_model) for _ in steps)
        self.bottom_up = nn.ModuleList(blocks.fusion(d_model) for _ in steps)
        self.keeps_positions = output_width in (None, d_model)
        self.outputs = nn.ModuleList(
            nn.Identity()
            if output_width is None
            else convolution(d_model, output_width, 1, blocks.normalization, activation=nn.Identity)
            for _ in range(num_levels)
        )
        self.to(memory_format=torch.channels_last)  # as the maps that come in: else kernels are copied in each step

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
        fused = [output(level) for output, level in zip(self.outputs, fused, strict=True)]
        return Features(fused, features.padding, features.positions, features.strides).flatten()


class HybridEncoder(FusingEncoder):
    """Fuses levels with RT-DETR's blocks.

    Args:
        layer, num_layers, num_levels: as in `FusingEncoder`.
        normalization: of the convolutions. `batch`: the paper's, for batches of some images; `group`: group norm with
            32 groups, where there are few; `layer`: of a token's channels.
        expansion: width of what is inside of a fusion block, in units of the encoder's.
        output_width: as in `FusingEncoder`; RT-DETR has it, for its decoder.
    """

    def __init__(
        self,
        *,
        layer: LayerConfig,
        num_layers: int = 1,
        num_levels: int = 3,
        normalization: Normalization = "batch",
        expansion: float = 1.0,
        output_width: int | None = None,
    ) -> None:
        if int(expansion * layer.d_model) < 1:
            raise ValueError(f"expansion: expected a number above 0, got {expansion}")
        super().__init__(
            layer=layer,
            num_layers=num_layers,
            num_levels=num_levels,
            blocks=Blocks(normalization, expansion),
            output_width=output_width,
        )


class FusionBlock(nn.Module):
    """Applies RepVGG blocks beside a shortcut: [B, C, h, w] → [B, C', h, w] (figure 4 of the paper).

    Args:
        channels, width: C and C'.
        normalization: of the convolutions.
        num_blocks: one after the other.
        expansion: width inside, in units of C'.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        normalization: Normalization,
        num_blocks: int = REP_BLOCKS,
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        inside = int(width * expansion)
        self.direct = convolution(channels, inside, 1, normalization)
        self.entry = convolution(channels, inside, 1, normalization)
        self.blocks = nn.Sequential(*(RepBlock(inside, normalization) for _ in range(num_blocks)))
        self.exit = nn.Identity() if inside == width else convolution(inside, width, 1, normalization)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.blocks(self.entry(x)) + self.direct(x))


class RepBlock(nn.Module):
    """Applies a 3×3 and a 1×1 convolution side by side (RepVGG, Ding et al. 2021), [B, C, h, w] → [B, C, h, w]."""

    def __init__(self, channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.wide = convolution(channels, channels, 3, normalization, activation=nn.Identity)
        self.narrow = convolution(channels, channels, 1, normalization, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x) + self.narrow(x))


def _resized(level: Tensor, like: Tensor) -> Tensor:
    """A level as large as another: not every backbone halves its levels, or rounds up when it does."""
    if level.shape[-2:] == like.shape[-2:]:
        return level
    return F.interpolate(level, size=like.shape[-2:], mode="nearest")
