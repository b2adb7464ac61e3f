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
        channels: of the backbone's levels, fine to coarse.
        num_levels: how many of them the transformer reads, the coarsest; null: all. A mask head reads the others, too.
        d_model: width of the transformer.
        position_embedding: padding [B, h, w] → [B, D, h, w].
        normalization: after the convolution; `group` is group norm with 32 groups (Deformable DETR).
        level_embedding: add a learned vector for each level to its positions (Deformable DETR).

    Raises:
        ValueError: the backbone has fewer levels.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        d_model: int,
        position_embedding: nn.Module,
        num_levels: int | None = None,
        normalization: Literal["none", "group"] = "none",
        level_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.num_levels = len(channels) if num_levels is None else num_levels
        if not 1 <= self.num_levels <= len(channels):
            raise ValueError(f"num_levels is {num_levels}, but backbone.levels has {len(channels)}")
        self.projections = nn.ModuleList(
            _projection(count, d_model, normalization) for count in channels[-self.num_levels :]
        )
        self.position_embedding = position_embedding
        self.level_embedding = nn.Parameter(torch.randn(self.num_levels, d_model)) if level_embedding else None

    def forward(self, features: list[Tensor], padding: Tensor) -> Features:
        """Levels [B, C, h, w] and padding [B, H, W] → features of width D."""
        features = features[-self.num_levels :]
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
