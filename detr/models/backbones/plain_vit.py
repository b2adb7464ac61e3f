"""LW-DETR's plain vision transformer (Chen et al. 2024, section 3.1; Atten4Vis/LW-DETR, models/backbone/vit.py)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from timm.models.beit import Block
from torch import nn

from detr.models.backbones.windowed import WindowedViT, skipped
from detr.models.hub import read

GAMMA = 0.1  # what the scales of a block's branches start from


class PlainViT(WindowedViT):
    """Has CAE's blocks, which are BEiT's: keys without bias, scaled branches. There is no class token.

    Args:
        width, depth, patch_size, windows, global_blocks, levels, grid, checkpointing: as in `WindowedViT`.
        num_heads: of attention.
        weights: a local file with a state dict, as CAE v2's, or null.
        drop_path: part of the images that skip the last block while training; the first is never skipped.

    Raises:
        UserError: weights that cannot be read or do not fit.
    """

    def __init__(
        self,
        *,
        width: int = 192,
        depth: int = 10,
        num_heads: int = 12,
        patch_size: int = 16,
        windows: int = 4,
        global_blocks: Sequence[int] = (2, 4, 5, 8),
        levels: Sequence[int] = (3, 5, 6, 10),
        grid: int = 14,
        weights: str | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)
        super().__init__(
            width=width,
            depth=depth,
            patch_size=patch_size,
            windows=windows,
            global_blocks=global_blocks,
            levels=levels,
            grid=grid,
            block=lambda number: Block(
                width,
                num_heads,
                qkv_bias=True,
                init_values=GAMMA,
                drop_path=skipped(number, depth, drop_path),
                norm_layer=norm,
            ),
            checkpointing=checkpointing,
        )
        if weights is not None:
            state = read(weights)
            state = state.get("model", state)
            self.load({name.removeprefix("encoder."): tensor for name, tensor in state.items()}, weights)
