"""DINOv2 with windows (Oquab et al. 2024; registers: Darcet et al. 2024), which RF-DETR has (roboflow/rf-detr)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from detr.errors import UserError
from detr.models.backbones.windowed import INITIAL_STD, WindowedViT, skipped
from detr.models.hub import download_timeout, first_line, read

PUBLISHED = "https://dl.fbaipublicfiles.com/dinov2/{name}/{name}{registers}_pretrain.pth"
NAMES = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14"}  # by width


class DinoV2(WindowedViT):
    """Wraps DINOv2, each window with a class token and registers of its own; a layer norm finishes every level.

    Args:
        width, depth, patch_size, windows, global_blocks, levels, grid, checkpointing: as in `WindowedViT`.
        num_heads: of attention.
        registers: tokens beside the class token.
        weights: `dinov2` (Meta's, of the size with this width; downloaded), a local state dict of DINOv2, or null.
        drop_path: part of the images that skip the last block while training; the first is never skipped.

    Raises:
        UserError: weights that cannot be had or do not fit.
    """

    antialias = True

    def __init__(
        self,
        *,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        patch_size: int = 16,
        windows: int = 2,
        global_blocks: Sequence[int] = (3, 6, 9),
        levels: Sequence[int] = (3, 6, 9, 12),
        grid: int = 32,
        registers: int = 0,
        weights: str | None = "dinov2",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        if registers < 0:
            raise ValueError(f"registers: expected at least 0, got {registers}")
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
                init_values=1.0,
                drop_path=skipped(number, depth, drop_path),
                norm_layer=norm,
            ),
            checkpointing=checkpointing,
        )
        self.prefix = 1 + registers
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.norm = norm(width)
        for tokens in (self.cls_token, self.register_tokens):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=INITIAL_STD)
        if weights is not None:
            self.load(published(width, registers) if weights == "dinov2" else read(weights), weights)

    def with_prefix(self, tokens: Tensor) -> Tensor:
        first = [self.cls_token + self.pos_embed[:, :1]]
        if self.register_tokens is not None:
            first.append(self.register_tokens)
        return torch.cat([*(each.expand(tokens.shape[0], -1, -1) for each in first), tokens], 1)

    def finished(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)


def published(width: int, registers: int) -> dict[str, Tensor]:
    """Return Meta's weights.

    Raises:
        UserError: there are none of this size, or they are not here and cannot be downloaded.
    """
    if width not in NAMES or registers not in (0, 4):
        sizes = " or ".join(map(str, NAMES))
        raise UserError(f"backbone.weights=dinov2: there are weights for width {sizes} with 0 or 4 registers only")
    address = PUBLISHED.format(name=NAMES[width], registers="_reg4" if registers else "")
    try:
        with download_timeout():
            return dict(torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:  # no connection; a damaged file
        raise UserError(
            f"backbone.weights=dinov2: {address} could not be downloaded ({first_line(error)}); "
            "give backbone.weights=FILE or null"
        ) from error
