"""Between backbone and encoder: one width for all levels, their padding and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.layers import NORM_GROUPS
from detr.structures import Features


class Neck(nn.Module):
    """A 1×1 convolution for each level of the backbone (DETR's `input_proj`), and where every feature is.

    Args:
        channels: of the backbone's levels.
        d_model: width of the transformer.
        position_embedding: padding [B, h, w] → [B, D, h, w].
        normalization: after the convolution; `group` is group norm with 32 groups (Deformable DETR).
        level_embedding: add a learned vector for each level to its positions (Deformable DETR).
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        d_model: int,
        position_embedding: nn.Module,
        normalization: Literal["none", "group"] = "none",
        level_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(_projection(count, d_model, normalization) for count in channels)
        self.position_embedding = position_embedding
        self.level_embedding = nn.Parameter(torch.randn(len(channels), d_model)) if level_embedding else None

    def forward(self, features: list[Tensor], padding: Tensor) -> Features:
        """Levels [B, C, h, w] and padding [B, H, W] → features of width D."""
        maps = [projection(level) for projection, level in zip(self.projections, features, strict=True)]
        paddings = [
            F.interpolate(padding[:, None].float(), size=level.shape[-2:], mode="nearest")[:, 0].bool()
            for level in features
        ]
        positions = [self.position_embedding(each).to(maps[0].dtype) for each in paddings]
        if self.level_embedding is not None:
            positions = [
                each + vector[:, None, None] for each, vector in zip(positions, self.level_embedding, strict=True)
            ]
        return Features(maps, paddings, positions)


def _projection(channels: int, d_model: int, normalization: str) -> nn.Module:
    convolution = nn.Conv2d(channels, d_model, kernel_size=1)
    if normalization == "none":
        return convolution
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, d_model))
