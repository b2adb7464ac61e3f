"""Vision transformers whose blocks attend within windows, but for some (LW-DETR, Chen et al. 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm.layers
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from detr.errors import UserError
from detr.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detr.models.hub import load

INITIAL_STD = 0.02


class WindowedViT(Backbone):
    """Offers what windowed vision transformers share: tokens that stay sorted by windows from patches to features.

    All levels have the stride of a patch. A token attends to those of its window, in global blocks to those of the
    whole image; everything else that a block does, it does token by token, so that windows are nothing but a shape.

    Args:
        width: C, channels of a token.
        depth: blocks. Those behind the last level are not run, and frozen.
        patch_size: side of a patch, in pixels.
        windows: on a side of the image.
        global_blocks: numbers, from 0, of blocks that attend to the whole image.
        levels: after how many blocks features are taken.
        grid: rows and columns of the table of positions; it is interpolated for images of other sizes.
        block: its number → a block of timm's, [N, tokens, C] → the same.
        checkpointing: compute blocks again in the backward pass instead of keeping what is in them: less memory, a
            third more time.

    Raises:
        ValueError: no such block, or a number out of its range.

    Attributes:
        antialias: whether positions are smoothed where the table is larger than the image.
        prefix: tokens that every window has before its patches.
    """

    antialias = False
    prefix = 0

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        patch_size: int,
        windows: int,
        global_blocks: Sequence[int],
        levels: Sequence[int],
        grid: int,
        block: Callable[[int], nn.Module],
        checkpointing: bool,
    ) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        for name, value in {"width": width, "patch_size": patch_size, "windows": windows, "grid": grid}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if not levels or list(levels) != sorted(set(levels)) or not 1 <= levels[0] <= levels[-1] <= depth:
            raise ValueError(f"levels: expected ascending numbers from 1 to depth={depth}, got {list(levels)}")
        if not all(0 <= number < depth for number in global_blocks):
            raise ValueError(f"global_blocks: expected numbers from 0 to {depth - 1}, got {list(global_blocks)}")
        self.patch_size, self.windows, self.size_divisor = patch_size, windows, patch_size * windows
        self.global_blocks, self.levels = frozenset(global_blocks), list(levels)
        self.channels, self.strides = [width] * len(levels), [patch_size] * len(levels)
        self.checkpointing, self.grid = checkpointing, grid
        self.patch_embed = nn.Conv2d(3, width, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, width))  # the first is the class token's
        self.blocks = nn.ModuleList(block(number) for number in range(depth))
        self.stages = ["patch_embed", *(f"blocks.{number}" for number in range(levels[-1]))]
        self.blocks[levels[-1] :].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=INITIAL_STD)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise UserError(
                f"backbone: images of {height} × {width} cannot be cut into {self.windows} × {self.windows} windows of "
                f"whole patches; their sides have to be multiples of {self.size_divisor}"
            )
        patches = self.patch_embed(images).permute(0, 2, 3, 1)  # [B, h, w, C]
        tokens = self.with_prefix(self.to_windows(patches + self.positions(*patches.shape[1:3])))
        found = []
        for number, block in enumerate(self.blocks[: self.levels[-1]]):
            shape = tokens.shape
            if number in self.global_blocks:
                tokens = tokens.view(images.shape[0], -1, shape[-1])
            if self.checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            tokens = tokens.view(shape)
            if number + 1 in self.levels:
                level = self.from_windows(self.finished(tokens)[:, self.prefix :], *patches.shape[1:3])
                found.append(level.permute(0, 3, 1, 2))
        return found

    def with_prefix(self, tokens: Tensor) -> Tensor:
        """Return windows [N, tokens, C] with what stands before the patches of each."""
        return tokens

    def finished(self, tokens: Tensor) -> Tensor:
        """Return features of what a block says, [N, tokens, C]."""
        return tokens

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the table of positions for so many patches, [1, rows, columns, C]."""
        table = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid))
        if not torch.compiler.is_compiling() and (rows, columns) == (self.grid, self.grid):
            return table
        return resampled(table, rows, columns, antialias=self.antialias)

    def own_table(self, table: Tensor) -> Tensor:
        """Return a table of positions [1, n² + 1, C] for the grid here; one that is no square as it is."""
        side = round((table.shape[1] - 1) ** 0.5)
        if side == self.grid or side * side != table.shape[1] - 1:
            return table
        grid = resampled(table[:, 1:].unflatten(1, (side, side)), self.grid, self.grid, antialias=self.antialias)
        return torch.cat([table[:, :1], grid.flatten(1, 2)], 1)

    def to_windows(self, patches: Tensor) -> Tensor:
        """Sort patches [B, h, w, C] by windows: [B · windows², patches, C]."""
        images, height, width, channels = patches.shape
        side = self.windows
        parts = patches.reshape(images, side, height // side, side, width // side, channels).transpose(2, 3)
        return parts.reshape(images * side * side, (height // side) * (width // side), channels)

    def from_windows(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Undo `to_windows`: [B · windows², patches, C] → [B, h, w, C]."""
        side, channels = self.windows, tokens.shape[-1]
        parts = tokens.reshape(-1, side, side, height // side, width // side, channels).transpose(2, 3)
        return parts.reshape(-1, height, width, channels)

    def load(self, state: dict[str, Tensor], source: str) -> None:
        """Load weights of a vision transformer, its patches and its table of positions brought to the sizes here.

        Raises:
            UserError: a weight is missing or has another shape.
        """
        state = {name.replace("patch_embed.proj.", "patch_embed."): tensor for name, tensor in state.items()}
        patches, table = state.get("patch_embed.weight"), state.get("pos_embed")
        if patches is not None and patches.dim() == 4:
            state["patch_embed.weight"] = timm.layers.resample_patch_embed(patches, [self.patch_size] * 2)
        if table is not None:
            state["pos_embed"] = self.own_table(table)
        load(self, state, source)


def resampled(table: Tensor, rows: int, columns: int, *, antialias: bool) -> Tensor:
    """Return positions [1, h, w, C] for another grid, [1, rows, columns, C] (bicubic)."""
    resized = F.interpolate(
        table.permute(0, 3, 1, 2), size=(rows, columns), mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.permute(0, 2, 3, 1)


def skipped(number: int, depth: int, drop_path: float) -> float:
    """Return how often a block is skipped: it grows from 0 with the depth.

    Raises:
        ValueError: a part out of its range.
    """
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path: expected at least 0 and below 1, got {drop_path}")
    return drop_path * number / max(1, depth - 1)
