"""Masks from attention (DETR, section 4.4 and appendix A.3; facebookresearch/detr, models/segmentation.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.operations import Linear
from detr.models.structures import Features, Memory
from detr.structures import MaskDecoder, Predictions, at_least_fp32

NORM_GROUPS = 8
BOX_CHANNELS = 3
MIN_SIDE = 1e-3  # of a box, in units of the image


class AttentionMap(nn.Module):
    """Tells where each query looks in each head; no values are gathered.

    Args:
        d_model: width of queries and memory.
        num_heads: N.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.query, self.key = Linear(d_model, d_model), Linear(d_model, d_model)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """Attend: queries [M, D], tokens [M, h·w, D] and padding [M, h·w] of each one's image → [M, N, h·w].

        The softmax runs over heads and pixels together, as in the paper's code: a query's heads share its attention.
        """
        query = self.query(queries).unflatten(-1, (self.num_heads, -1)) * (queries.shape[-1] // self.num_heads) ** -0.5
        key = self.key(memory).unflatten(-1, (self.num_heads, -1))
        weights = torch.einsum("mnc,mtnc->mnt", query, key).masked_fill(padding[:, None], -torch.inf)
        return weights.flatten(1).softmax(-1).view_as(weights)


class QueryMasks(nn.Module):
    """Offers what every mask head does: a mask for each query that somebody asks for.

    Attributes:
        climbs: whether it goes from the neck's levels to finer ones of the backbone.
        extras: what it adds to `Predictions.extras`.
        depth: how many decoder layers it has parts for; None: any number.
    """

    climbs = False
    extras: tuple[str, ...] = ()
    depth: int | None = None

    def layered(self, predictions: Predictions, hidden: Tensor, features: Features) -> Predictions:
        """Return the predictions with what masks of all layers and groups are made of; here they are as they were.

        Args:
            predictions: of the queries that count, with the groups.
            hidden: [L, B, Q, D] of all queries.
            features: of the neck.
        """
        return predictions

    def forward(
        self, hidden: Tensor, boxes: Tensor, memory: Memory, features: Features, backbone: list[Tensor]
    ) -> MaskDecoder:
        """Return a function that computes masks.

        Args:
            hidden: [B, Q, D] the decoder's last layer.
            boxes: [B, Q, 4] cxcywh in [0, 1], of the same.
            memory: of the encoder.
            features: of the neck.
            backbone: its levels [B, C, h, w].

        Returns:
            image [M], query [M] → mask logits [M, h, w].
        """
        raise NotImplementedError


class MaskHead(QueryMasks):
    """Finds a mask for each query: its attention map, refined by convolutions while climbing to the finest level.

    Starts on one of the levels that the transformer reads and adds every backbone level that is finer than it; with the
    paper's four levels (layer4 for the transformer, layer3 to layer1 to climb) it is `MaskHeadSmallConv`; masks then
    have stride 4.

    Args:
        channels: of the backbone's levels, fine to coarse.
        num_levels: how many of them, the coarsest, the transformer reads.
        d_model: width of the transformer.
        num_heads: of the attention map.
        level: whose tokens the attention map covers, one of the `num_levels`; -1 is the coarsest, as in the paper.
        box: tell the convolutions where the query's box is, too (CondInst, Tian et al. 2020, section 3.1, tells them
            coordinates relative to the instance). The paper's head has to learn from attention alone, which takes
            many epochs; with the box, masks are learned as fast as boxes.

    Raises:
        ValueError: no such level; heads that do not divide the width.
    """

    climbs = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_levels: int,
        d_model: int = 256,
        num_heads: int = 8,
        level: int = -1,
        box: bool = False,
    ) -> None:
        super().__init__()
        if not -num_levels <= level < num_levels:
            raise ValueError(
                f"level: expected an index into the {num_levels} backbone levels of the transformer, got {level}"
            )
        self.level = range(num_levels)[level]
        self.box = box
        finer = channels[: len(channels) - num_levels + self.level][::-1]
        widths = [d_model + num_heads, *(d_model // 2**step for step in range(1, len(finer) + 2))]
        self.attention = AttentionMap(d_model, num_heads)
        inputs = [widths[0] + BOX_CHANNELS * box, *widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in zip(inputs, widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(NORM_GROUPS, width), width) for width in widths)
        self.adapters = nn.ModuleList(
            nn.Conv2d(count, width, 1) for count, width in zip(finer, widths[1:], strict=False)
        )
        self.output = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(
        self, hidden: Tensor, boxes: Tensor, memory: Memory, features: Features, backbone: list[Tensor]
    ) -> MaskDecoder:
        """Return a function that computes masks.

        Args:
            hidden: [B, Q, D] the decoder's last layer.
            boxes: [B, Q, 4] cxcywh in [0, 1], of the same; no gradient reaches them.
            memory: of the encoder.
            features: of the neck, whose projection of the level goes in beside the attention.
            backbone: its levels [B, C, h, w].

        Returns:
            image [M], query [M] → mask logits [M, h, w].
        """
        start = sum(height * width for height, width in memory.shapes[: self.level])
        size = memory.shapes[self.level]
        tokens, padding, centres = (
            each[:, start : start + size[0] * size[1]] for each in (memory.tokens, memory.padding, memory.centres)
        )
        finer = [adapter(each) for adapter, each in zip(self.adapters, self._climb(backbone), strict=True)]
        context = self._context(features.maps[self.level])
        precision = current_autocast(hidden.device.type)  # the criterion asks from outside of it

        def decode(image: Tensor, query: Tensor) -> Tensor:
            # Not `tokens[image]`: on CPUs threads would add up its gradient in any order, and no run be repeatable.
            def of_image(each: Tensor) -> Tensor:
                return each.index_select(0, image)

            with precision:
                where = self.attention(hidden[image, query], of_image(tokens), of_image(padding))
                if self.box:
                    where = torch.cat([where, relative_to_box(of_image(centres), boxes[image, query].detach())], 1)
                return self._refine(of_image(context), where.unflatten(-1, size), list(map(of_image, finer)))

        return decode

    def _climb(self, backbone: list[Tensor]) -> list[Tensor]:
        """The levels finer than the one to start from, coarse to fine."""
        return backbone[: len(self.adapters)][::-1]

    def _context(self, projected: Tensor) -> Tensor:
        """What the first convolution makes of the features [B, D, h, w]: the same for all queries of an image."""
        first = cast(nn.Conv2d, self.convolutions[0])
        return F.conv2d(projected, first.weight[:, : projected.shape[1]], padding=1)

    def _refine(self, context: Tensor, where: Tensor, finer: list[Tensor]) -> Tensor:
        """Context [M, D + N, h, w], where to look [M, N, h, w], levels [M, C, h', w'] → logits as large as the last."""
        first, others = cast(nn.Conv2d, self.convolutions[0]), self.convolutions[1:]
        weight = first.weight[:, -where.shape[1] :]
        x = F.relu(self.norms[0](context + F.conv2d(where, weight, first.bias, padding=1)))
        x = F.relu(self.norms[1](others[0](x)))
        for level, convolution, norm in zip(finer, others[1:], self.norms[2:], strict=True):
            x = F.relu(norm(convolution(level + F.interpolate(x, size=level.shape[-2:], mode="nearest"))))
        return at_least_fp32(self.output(x)[:, 0])


def relative_to_box(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return centres of tokens [M, T, 2] relative to the middle of boxes [M, 4] cxcywh, and whether they lie inside.

    Returns:
        [M, BOX_CHANNELS, T].
    """
    offsets = (centres - boxes[:, None, :2]) / boxes[:, None, 2:].clamp(min=MIN_SIDE)
    inside = (offsets.abs() <= 0.5).all(-1, keepdim=True)
    return torch.cat([offsets.clamp(-1, 1), inside.to(offsets)], -1).mT


def current_autocast(device: str) -> torch.autocast:
    """Return a context with the mixed precision that is on now."""
    return torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))
