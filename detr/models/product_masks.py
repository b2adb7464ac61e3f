"""Masks as products of queries and pixels (RF-DETR-Seg, roboflow/rf-detr, models/heads/segmentation.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.mask_head import QueryMasks, current_autocast
from detr.models.operations import Linear
from detr.models.structures import Features, Memory
from detr.structures import MaskDecoder, at_least_fp32


class PixelBlock(nn.Module):
    """Applies a depthwise convolution and a linear layer, and adds them: [B, D, h, w] → the same (after ConvNeXt)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(d_model, d_model, 3, padding=1, groups=d_model)
        self.norm = nn.LayerNorm(d_model, eps=1e-6)
        self.linear = Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + F.gelu(self.linear(changed)).permute(0, 3, 1, 2)


class ProductMaskHead(QueryMasks):
    """Scales the finest level of the neck up, and multiplies each pixel with what a query says.

    The authors supervise masks of every decoder layer, each after one block more, and of the proposals; here all blocks
    serve the last layer.

    Args:
        channels, num_levels: of the backbone, which this head has no use for.
        d_model: width of the transformer.
        num_blocks: of pixels; the authors have as many as decoder layers.
        stride: of a mask's pixels, in pixels of the image.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(
        self, *, channels: Sequence[int], num_levels: int, d_model: int = 256, num_blocks: int = 4, stride: int = 4
    ) -> None:
        super().__init__()
        for name, value in {"num_blocks": num_blocks, "stride": stride}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.stride = stride
        self.blocks = nn.Sequential(*(PixelBlock(d_model) for _ in range(num_blocks)))
        self.pixels = nn.Conv2d(d_model, d_model, 1)
        self.norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(Linear(d_model, 4 * d_model), nn.GELU(), Linear(4 * d_model, d_model))
        self.queries = Linear(d_model, d_model)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden: Tensor, boxes: Tensor, memory: Memory, features: Features, backbone: list[Tensor]
    ) -> MaskDecoder:
        finest, stride = features.maps[0], features.strides[0]
        size = [side * stride // self.stride for side in finest.shape[-2:]]
        scaled = F.interpolate(finest, size=size, mode="bilinear", align_corners=False)
        pixels = self.pixels(self.blocks(scaled))
        queries = self.queries(hidden + self.mlp(self.norm(hidden)))
        precision = current_autocast(hidden.device.type)  # the criterion asks from outside of it

        def decode(image: Tensor, query: Tensor) -> Tensor:
            with precision:
                # Not `pixels[image]`: on CPUs threads would add up its gradient in any order, and no run be repeatable.
                products = torch.einsum("mc,mchw->mhw", queries[image, query], pixels.index_select(0, image))
                return at_least_fp32(products + self.bias)

        return decode
