"""D-FINE's hybrid encoder (Peng et al. 2024, section 4.5; Peterande/D-FINE, dfine/hybrid_encoder.py).

RT-DETR's frame with other blocks: those of YOLOv9 (GELAN, Wang et al. 2024) and of YOLOv10 (SCDown).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detr.models.hybrid_encoder import Blocks, FusingEncoder, FusionBlock
from detr.models.layers import LayerConfig, convolution


@dataclass(frozen=True)
class ElanBlocks(Blocks):
    """Builds D-FINE's blocks; convolutions between levels have no activation.

    Args:
        expansion: width of a fusion block's branches, in halves of D.
        num_blocks: RepVGG blocks in each half of a branch.
    """

    expansion: float = 1.0
    num_blocks: int = 3

    def lateral(self, d_model: int) -> nn.Module:
        return convolution(d_model, d_model, 1, activation=nn.Identity)

    def fusion(self, d_model: int) -> nn.Module:
        return ElanBlock(d_model, int(self.expansion * d_model // 2), self.num_blocks)

    def downsampling(self, d_model: int) -> nn.Module:
        """Return a 1×1 convolution, which mixes channels, and a 3×3 one that does not (SCDown)."""
        return nn.Sequential(
            convolution(d_model, d_model, 1, activation=nn.Identity),
            convolution(d_model, d_model, 3, stride=2, groups=d_model, activation=nn.Identity),
        )


class ElanBlock(nn.Module):
    """Splits the channels and lets the second half pass two stages, whose outputs are all kept (RepNCSPELAN4).

    Args:
        d_model: D; maps [B, 2 D, h, w] to [B, D, h, w].
        width: of a stage.
        num_blocks: RepVGG blocks in a stage.
    """

    def __init__(self, d_model: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.entry = convolution(2 * d_model, 2 * d_model, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(FusionBlock(channels, width, "batch", num_blocks), convolution(width, width, 3))
            for channels in (d_model, width)
        )
        self.merge = convolution(2 * d_model + 2 * width, d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = list(self.entry(x).chunk(2, 1))
        for stage in self.stages:
            kept.append(stage(kept[-1]))
        return self.merge(torch.cat(kept, 1))


class DFineEncoder(FusingEncoder):
    """Fuses levels with D-FINE's blocks.

    Args:
        layer, num_layers, num_levels: as in `FusingEncoder`.
        expansion: width of the stages in a fusion block, in halves of the transformer's width.
        num_blocks: RepVGG blocks in each stage.
        output_width: as in `FusingEncoder`.

    Raises:
        ValueError: no blocks, or stages without channels.
    """

    def __init__(
        self,
        *,
        layer: LayerConfig,
        num_layers: int = 1,
        num_levels: int = 3,
        expansion: float = 1.0,
        num_blocks: int = 3,
        output_width: int | None = None,
    ) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks: expected at least 1, got {num_blocks}")
        if expansion * layer.d_model < 2:
            raise ValueError(f"expansion: expected at least {2 / layer.d_model}, got {expansion}")
        blocks = ElanBlocks(expansion=expansion, num_blocks=num_blocks)
        super().__init__(
            layer=layer, num_layers=num_layers, num_levels=num_levels, blocks=blocks, output_width=output_width
        )
