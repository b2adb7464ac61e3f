"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, section 4.1 and equation 3) in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.structures import Memory
from detr.structures import at_least_fp32


class DeformableAttention(nn.Module):
    """Lets each query look at a few points around its reference in every level, instead of at every token.

    Args:
        d_model: width of queries and memory.
        num_heads: each has points of its own.
        num_levels: of the memory.
        num_points: in each level and head.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, *, d_model: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        for name, value in {"num_heads": num_heads, "num_levels": num_levels, "num_points": num_points}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(d_model, 2 * points)
        self.attention_weights = nn.Linear(d_model, points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors do: points of head m start at 1, 2, … steps in direction m, all with one weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto the square around the reference
        steps = torch.arange(1, self.num_points + 1)[:, None]
        offsets = (directions[:, None, None] * steps).expand(-1, self.num_levels, -1, -1)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, locations: Tensor, memory: Memory, tokens: Tensor) -> Tensor:
        """Attend to points of the tokens.

        Args:
            queries: [B, Q, D], positions added.
            locations: [B, Q, levels, 2 or 4] (x, y) or cxcywh in [0, 1] of the padded image. Samples are taken in
                steps of a token around a point, of half a box's side over the number of points around a box.
            memory: for its shapes and its padding, where values are 0.
            tokens: [B, T, D] the values.

        Returns:
            [B, Q, D].
        """
        values = self.value_proj(tokens).masked_fill(memory.padding[..., None], 0).unflatten(-1, (self.num_heads, -1))
        samples, weights = self.sampling(queries, locations, memory)
        return self.output_proj(deformable_attention(values, memory.shapes, samples, weights).to(tokens.dtype))

    def sampling(self, queries: Tensor, locations: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return where each query looks, [B, Q, heads, levels, points, 2] (x, y), and with which weights (no 2).

        Arguments as for `forward`.
        """
        heads, points = (self.num_heads, -1), (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(queries).unflatten(-1, (*points, 2))
        weights = self.attention_weights(queries).unflatten(-1, heads).softmax(-1).unflatten(-1, points[1:])
        locations = locations[:, :, None, :, None]  # for all heads and points
        if locations.shape[-1] == 4:
            steps = locations[..., 2:] / 2 / self.num_points
        else:
            steps = 1 / memory.sizes.to(locations.dtype)[:, None]
        return locations[..., :2] + offsets * steps, weights


def deformable_attention(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of bilinear samples, in one `grid_sample` a level.

    Gathering the four neighbours of all levels at once (`embedding_bag`) takes twice as long on a CPU.

    Args:
        values: [B, T, heads, C].
        shapes: (h, w) of each level.
        locations: [B, Q, heads, levels, points, 2] (x, y); a level reaches from 0 to 1, and beyond it are zeros.
        weights: [B, Q, heads, levels, points].

    Returns:
        [B, Q, heads · C].
    """
    images, _, heads, channels = values.shape
    grids = (2 * at_least_fp32(locations) - 1).transpose(1, 2).flatten(0, 1)  # [B · heads, Q, levels, points, 2]
    maps = values.to(grids.dtype).permute(0, 2, 3, 1).flatten(0, 1)  # [B · heads, C, T]
    levels = maps.split([height * width for height, width in shapes], -1)
    samples = [
        F.grid_sample(level.unflatten(-1, shape), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for level, shape, grid in zip(levels, shapes, grids.unbind(2), strict=True)
    ]  # each [B · heads, C, Q, points]
    mixed = torch.cat(samples, -1) * weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    return mixed.sum(-1).view(images, heads * channels, -1).mT
