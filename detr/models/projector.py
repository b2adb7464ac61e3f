"""The projector of LW-DETR and RF-DETR (Chen et al. 2024, section 3.1): levels of one stride become those wanted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from detr.models.layers import Normalization, convolution
from detr.models.neck import LevelNeck

WIDE = 512  # channels beyond which a level is narrowed before it is made finer


class C2fProjector(LevelNeck):
    """Joins levels of one stride, as of a plain vision transformer, to a pyramid, by a C2f block (YOLOv8) each.

    Args:
        channels: of the backbone's levels.
        strides: of the same, in pixels of the image: all alike.
        d_model: width of the transformer.
        position_embedding: padding [B, h, w] → [B, D, h, w].
        scales: how much finer than the backbone each level is: 2, 1 or 0.5, fine to coarse.
        num_levels: how many these are.
        num_blocks: of two 3×3 convolutions in each C2f block.
        normalization: of the convolutions: `layer` (RF-DETR), `batch` (LW-DETR) or `group`.

    Raises:
        ValueError: other scales, another number of them, or strides that differ.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        d_model: int,
        position_embedding: nn.Module,
        scales: Sequence[float] = (1.0,),
        num_levels: int = 1,
        num_blocks: int = 3,
        normalization: Normalization = "layer",
    ) -> None:
        if len(scales) != num_levels or list(scales) != sorted(set(scales), reverse=True):
            raise ValueError(f"scales: expected num_levels={num_levels}, finest first, got {list(scales)}")
        if not set(scales) <= {2.0, 1.0, 0.5}:
            raise ValueError(f"scales: expected 2, 1 or 0.5, got {list(scales)}")
        if len(set(strides)) > 1:
            raise ValueError(
                f"it joins levels of one stride, but those of the backbone have {', '.join(map(str, strides))}; use "
                "neck=multi_level, or a vision transformer as backbone"
            )
        super().__init__(
            strides=[int(strides[0] / scale) for scale in scales],
            backbone_levels=len(channels),
        )
        self.d_model = d_model
        self.sampling = nn.ModuleList(
            nn.ModuleList(_sampling(count, scale, normalization) for count in channels) for scale in scales
        )
        joined = [sum(_sampled(count, scale) for count in channels) for scale in scales]
        self.projections = nn.ModuleList(C2f(count, d_model, num_blocks, normalization) for count in joined)
        self.norms = nn.ModuleList(LayerNorm2d(d_model, eps=1e-6) for _ in scales)
        self.position_embedding = position_embedding

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        found = []
        for sampling, projection, norm in zip(self.sampling, self.projections, self.norms, strict=True):
            assert isinstance(sampling, nn.ModuleList)
            sampled = [sample(level) for sample, level in zip(sampling, features, strict=True)]
            found.append(norm(projection(torch.cat(sampled, 1))))
        return found


class C2f(nn.Module):
    """Splits what a convolution says in two; blocks continue with the second half, and all between is joined.

    Args:
        channels: that go in.
        d_model: D, channels that come out.
        num_blocks: of two 3×3 convolutions.
        normalization: of every convolution.
    """

    def __init__(self, channels: int, d_model: int, num_blocks: int, normalization: Normalization) -> None:
        super().__init__()
        half = d_model // 2
        self.entry = convolution(channels, 2 * half, 1, normalization)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(convolution(half, half, 3, normalization) for _ in range(2))) for _ in range(num_blocks)
        )
        self.exit = convolution((2 + num_blocks) * half, d_model, 1, normalization)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: [B, C, h, w] → [B, D, h, w]."""
        parts = list(self.entry(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.exit(torch.cat(parts, 1))


def _sampling(channels: int, scale: float, normalization: Normalization) -> nn.Module:
    """What brings a level to its scale."""
    if scale == 1:
        return nn.Identity()
    if scale == 0.5:
        return nn.Sequential(convolution(channels, channels, 3, normalization, stride=2, activation=nn.ReLU))
    if channels <= WIDE:
        return nn.Sequential(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
    narrow = convolution(channels, channels // 2, 1, normalization, activation=nn.ReLU)
    return nn.Sequential(narrow, nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2))


def _sampled(channels: int, scale: float) -> int:
    """Channels of a level that was brought to its scale."""
    if scale != 2:
        return channels
    return channels // 4 if channels > WIDE else channels // 2
