"""Between backbone and encoder: one width for all levels, their padding and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.errors import UserError, described, shown
from detr.models.layers import group_norm
from detr.models.structures import Features


class LevelNeck(nn.Module):
    """Offers what every neck does: levels of the transformer's width, each with its padding and positions.

    Args:
        strides: of the levels that it makes, in pixels of the image.
        backbone_levels: how many of the backbone's levels, the coarsest, the transformer reads.

    Attributes:
        num_levels: that it makes.
        d_model: their width; None: it does not tell.
        position_embedding: padding [B, h, w] → [B, D, h, w]. A constructor sets it last: the order decides which random
            numbers a part gets.
        level_embedding: a learned vector for each level [levels, D], which is added to its positions; None: none.
    """

    d_model: int | None = None
    position_embedding: nn.Module
    level_embedding: nn.Parameter | None

    def __init__(self, *, strides: Sequence[int], backbone_levels: int) -> None:
        super().__init__()
        self.strides, self.num_levels, self.backbone_levels = list(strides), len(strides), backbone_levels
        self.register_parameter("level_embedding", None)

    def freeze_positions(self) -> None:
        """Freeze positions that nothing reads: parameters without a gradient stop a training in several processes."""
        self.position_embedding.requires_grad_(False)
        if self.level_embedding is not None:
            self.level_embedding.requires_grad_(False)

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        """Return the levels [B, D, h, w], fine to coarse, of the backbone's [B, C, h, w] that the transformer reads."""
        raise NotImplementedError

    def forward(self, features: list[Tensor], padding: Tensor) -> Features:
        """Return features of width D of levels [B, C, h, w] and padding [B, H, W]."""
        maps = self.maps(features[-self.backbone_levels :])
        paddings = [
            F.interpolate(padding[:, None].float(), size=level.shape[-2:], mode="nearest")[:, 0].bool()
            for level in maps
        ]
        positions = [self._positions(each, level).to(level.dtype) for each, level in zip(paddings, maps, strict=True)]
        if self.level_embedding is not None:
            positions = [
                each + vector[:, None, None] for each, vector in zip(positions, self.level_embedding, strict=True)
            ]
        return Features(maps, paddings, positions, self.strides)

    def _positions(self, padding: Tensor, level: Tensor) -> Tensor:
        """Positions of a level. Raises UserError for another shape, which would be spread over it all the same."""
        positions = self.position_embedding(padding)
        if not isinstance(positions, Tensor) or positions.shape != level.shape:
            made_by = described(type(self.position_embedding))
            raise UserError(f"position_embedding: {made_by} returns {shown(positions)}, expected {shown(level)}")
        return positions


class Neck(LevelNeck):
    """Applies a 1×1 convolution to each level of the backbone (DETR's `input_proj`), and tells where every feature is.

    Args:
        channels: of the backbone's levels, fine to coarse.
        strides: of the same, in pixels of the image.
        num_levels: that the transformer reads: the backbone's coarsest; null: all, for transformers that take any
            number. A mask head reads the others, too.
        extra_levels: how many of `num_levels` are coarser than the backbone's: a 3×3 convolution with stride 2 makes
            the first from the backbone's coarsest, and each further one from the one before (Deformable DETR, A.2).
        d_model: width of the transformer.
        position_embedding: padding [B, h, w] → [B, D, h, w].
        normalization: after the convolution; `group` is group norm with 32 groups (Deformable DETR), `batch` batch norm
            behind a convolution without a bias (RT-DETR).
        level_embedding: add a learned vector for each level to its positions (Deformable DETR).

    Raises:
        ValueError: the backbone has fewer levels; group norm with a width that is not a multiple of 32.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        d_model: int,
        position_embedding: nn.Module,
        num_levels: int | None = 1,
        extra_levels: int = 0,
        normalization: Literal["none", "group", "batch"] = "none",
        level_embedding: bool = False,
    ) -> None:
        own = (len(channels) if num_levels is None else num_levels - extra_levels) if extra_levels >= 0 else 0
        if own < 1:
            raise ValueError(f"extra_levels: expected 0 to num_levels - 1, got {extra_levels}")
        if own > len(channels):
            extra = f" and extra_levels is {extra_levels}" if extra_levels else ""
            raise ValueError(f"num_levels is {num_levels}{extra}, but backbone.levels has {len(channels)}")
        coarser = [strides[-1] * 2**step for step in range(1, extra_levels + 1)]
        super().__init__(strides=[*strides[-own:], *coarser], backbone_levels=own)
        self.d_model = d_model
        self.projections = nn.ModuleList(_projection(count, d_model, normalization) for count in channels[-own:])
        self.extra = nn.ModuleList(
            _projection(count, d_model, normalization, kernel_size=3, stride=2, padding=1)
            for count in [channels[-1], *[d_model] * extra_levels][:extra_levels]
        )
        self.position_embedding = position_embedding
        if level_embedding:
            self.level_embedding = nn.Parameter(torch.randn(self.num_levels, d_model))

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        maps = [projection(level) for projection, level in zip(self.projections, features, strict=True)]
        coarsest = features[-1]
        for convolution in self.extra:
            coarsest = convolution(coarsest)
            maps.append(coarsest)
        return maps


def _projection(
    channels: int, d_model: int, normalization: str, *, kernel_size: int = 1, stride: int = 1, padding: int = 0
) -> nn.Module:
    convolution = nn.Conv2d(
        channels, d_model, kernel_size=kernel_size, stride=stride, padding=padding, bias=normalization != "batch"
    )
    if normalization == "none":
        return convolution
    if normalization == "batch":
        return nn.Sequential(convolution, nn.BatchNorm2d(d_model))
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, group_norm(d_model))
