"""Masks as products of queries and pixels (RF-DETR-Seg, roboflow/rf-detr, models/heads/segmentation.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.mask_head import QueryMasks, current_autocast
from detr.models.operations import Linear
from detr.models.structures import Features
from detr.structures import MASK_QUERIES, STATES, Group, MaskDecoder, Predictions, at_least_fp32


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

    Pixels pass through a block more before each decoder layer's masks; those of the proposals are made of them as they
    are. The 1 × 1 convolution of pixels is taken to the queries' side of the product: there are fewer of them.

    Args:
        channels, num_levels: of the backbone, which this head has no use for.
        d_model: width of the transformer.
        num_blocks: of pixels, as many as decoder layers; of fewer, the last one serves the layers that are left.
        stride: of a mask's pixels, in pixels of the image.

    Raises:
        ValueError: a number below 1.
    """

    extras = (MASK_QUERIES,)

    def __init__(
        self, *, channels: Sequence[int], num_levels: int, d_model: int = 256, num_blocks: int = 4, stride: int = 4
    ) -> None:
        super().__init__()
        for name, value in {"num_blocks": num_blocks, "stride": stride}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.stride, self.depth = stride, num_blocks
        self.blocks = nn.Sequential(*(PixelBlock(d_model) for _ in range(num_blocks)))
        self.pixels = nn.Conv2d(d_model, d_model, 1)
        self.norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(Linear(d_model, 4 * d_model), nn.GELU(), Linear(4 * d_model, d_model))
        self.queries = Linear(d_model, d_model)
        self.bias = nn.Parameter(torch.zeros(1))

    def layered(self, predictions: Predictions, hidden: Tensor, features: Features) -> Predictions:
        finest, stride = features.maps[0], features.strides[0]
        size = [side * stride // self.stride for side in finest.shape[-2:]]
        scaled = F.interpolate(finest, size=size, mode="bilinear", align_corners=False)
        pixels = [scaled]
        for block in self.blocks[: len(hidden)]:
            pixels.append(block(pixels[-1]))
        pixels = pixels[1:] + pixels[-1:] * (len(hidden) - len(self.blocks))
        asked = self.ask(hidden)

        def described(said: Predictions, queries: Tensor, of_layers: list[Tensor]) -> Predictions:
            return replace(said, extras={**said.extras, MASK_QUERIES: queries}, pixels=of_layers)

        def of_group(group: Group) -> Group:
            said = group.outputs
            if group.queries is not None and len(said.boxes) == len(hidden):
                return replace(group, predictions=described(said, asked[:, :, group.queries], pixels))
            if STATES in said.extras:
                return replace(group, predictions=described(said, self.ask(said.extras[STATES]), [scaled]))
            return group

        matching = asked[:, :, : predictions.boxes.shape[2]]
        groups = {name: of_group(group) for name, group in predictions.groups.items()}
        masks = last_masks(matching[-1], pixels[-1])
        return replace(described(predictions, matching, pixels), groups=groups, masks=masks)

    def ask(self, states: Tensor) -> Tensor:
        """Return what pixels are multiplied with, [L, B, Q, D + 1], of states [L, B, Q, D]; the last is added."""
        queries = self.queries(states + self.mlp(self.norm(states)))
        assert self.pixels.bias is not None
        offset = queries @ self.pixels.bias[:, None] + self.bias
        return torch.cat([queries @ self.pixels.weight[:, :, 0, 0], offset], -1)


def last_masks(queries: Tensor, pixels: Tensor) -> MaskDecoder:
    """Return a function that computes masks of queries [B, Q, D + 1] times pixels [B, D, h, w]."""
    precision = current_autocast(queries.device.type)  # the criterion asks from outside of it

    def decode(image: Tensor, query: Tensor) -> Tensor:
        with precision:
            asked = queries[image, query]
            # Not `pixels[image]`: on CPUs threads would add up its gradient in any order, and no run be repeatable.
            products = torch.einsum("mc,mchw->mhw", asked[:, :-1], pixels.index_select(0, image))
            return at_least_fp32(products + asked[:, -1, None, None])

    return decode
