"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, section 4.1 and equation 3) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.operations import Linear
from detr.models.structures import Memory
from detr.structures import at_least_fp32


class DeformableAttention(nn.Module):
    """Lets each query look at a few points around its reference in every level, instead of at every token.

    Args:
        d_model: width of queries and memory.
        num_heads: each has points of its own.
        num_levels: of the memory.
        num_points: of each head in a level; a list: one number for each level, as in RT-DETRv2 and D-FINE.
        discrete: take the nearest token in the place of four that are mixed (RT-DETRv2, Lv et al. 2024, section 2.2).
            Points have no gradient then: offsets stay as they are.
        projections: linear layers before and behind the weighted sum; D-FINE has none.

    Attributes:
        points: in each level, of a head.

    Raises:
        ValueError: heads that do not divide the width, or not one number of points for each level.
    """

    level_of: Tensor  # [P] the level of each point; P: points of a head in all levels
    share: Tensor  # [P, 1] 1 / the number of points in its level

    def __init__(
        self,
        *,
        d_model: int,
        num_heads: int,
        num_levels: int,
        num_points: int | Sequence[int],
        discrete: bool = False,
        projections: bool = True,
    ) -> None:
        super().__init__()
        self.points = [num_points] * num_levels if isinstance(num_points, int) else list(num_points)
        for name, value in {"num_heads": num_heads, "num_levels": num_levels, "num_points": min(self.points)}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if len(self.points) != num_levels:
            raise ValueError(f"num_points: expected {num_levels} numbers, one for each level, got {self.points}")
        if d_model % num_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.discrete = num_heads, num_levels, discrete
        level_of = [level for level, count in enumerate(self.points) for _ in range(count)]
        share = [[1 / self.points[level]] for level in level_of]
        self.register_buffer("level_of", torch.tensor(level_of), persistent=False)
        self.register_buffer("share", torch.tensor(share), persistent=False)
        total = num_heads * len(level_of)
        self.sampling_offsets = Linear(d_model, 2 * total).requires_grad_(not discrete)
        self.attention_weights = Linear(d_model, total)
        self.value_proj = Linear(d_model, d_model) if projections else nn.Identity()
        self.output_proj = Linear(d_model, d_model) if projections else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors do: points of head m start at 1, 2, … steps in direction m, all with one weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto the square around the reference
        steps = torch.cat([torch.arange(1, count + 1) for count in self.points])
        offsets = directions[:, None] * steps[:, None]
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for projection in (self.value_proj, self.output_proj):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

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
        mixed = deformable_attention(values, memory.shapes, samples, weights, self.points, discrete=self.discrete)
        return self.output_proj(mixed.to(tokens.dtype))

    def sampling(self, queries: Tensor, locations: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return where each query looks, [B, Q, heads, P, 2] (x, y), and with which weights, [B, Q, heads, P].

        Arguments as for `forward`. The P points of a head are those of all levels, fine to coarse.
        """
        heads = (self.num_heads, -1)
        offsets = self.sampling_offsets(queries).unflatten(-1, (*heads, 2))
        weights = self.attention_weights(queries).unflatten(-1, heads).softmax(-1)
        locations = locations[:, :, self.level_of][:, :, None]  # of each point, for all heads
        if locations.shape[-1] == 4:
            steps = locations[..., 2:] / 2 * self.share
        else:
            steps = 1 / memory.sizes.to(locations.dtype)[self.level_of]
        return locations[..., :2] + offsets * steps, weights


def deformable_attention(
    values: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    points: list[int],
    *,
    discrete: bool = False,
) -> Tensor:
    """Return weighted sums of bilinear samples, in one `grid_sample` a level.

    Gathering the four neighbours of all levels at once (`embedding_bag`) takes twice as long on a CPU.

    Args:
        values: [B, T, heads, C].
        shapes: (h, w) of each level.
        locations: [B, Q, heads, P, 2] (x, y); a level reaches from 0 to 1, and beyond it are zeros.
        weights: [B, Q, heads, P].
        points: in each level; they add up to P.
        discrete: samples are single tokens, and beyond the level those at its edge.

    Returns:
        [B, Q, heads · C].
    """
    images, _, heads, channels = values.shape
    places = at_least_fp32(locations).transpose(1, 2).flatten(0, 1)  # [B · heads, Q, P, 2]
    maps = values.to(places.dtype).permute(0, 2, 3, 1).flatten(0, 1)  # [B · heads, C, T]
    levels = maps.split([height * width for height, width in shapes], -1)
    sample = _nearest if discrete else _bilinear
    samples = [
        sample(level.unflatten(-1, shape), place)
        for level, shape, place in zip(levels, shapes, places.split(points, 2), strict=True)
    ]
    mixed = torch.cat(samples, -1) * weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    return mixed.sum(-1).view(images, heads * channels, -1).mT


def _bilinear(level: Tensor, places: Tensor) -> Tensor:
    """Of maps [N, C, h, w] at places [N, Q, p, 2] in [0, 1] → [N, C, Q, p]."""
    return F.grid_sample(level, 2 * places - 1, mode="bilinear", padding_mode="zeros", align_corners=False)


def _nearest(level: Tensor, places: Tensor) -> Tensor:
    """As `_bilinear`. As the authors have it, tokens lie at the corners of their cells, not in the middle."""
    height, width = level.shape[-2:]
    column = (places[..., 0] * width + 0.5).long().clamp(0, width - 1)
    row = (places[..., 1] * height + 0.5).long().clamp(0, height - 1)
    index = row * width + column
    samples = level.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, level.shape[1], -1))
    return samples.unflatten(-1, index.shape[1:])
