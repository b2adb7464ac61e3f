"""Where a feature is, as a vector (DETR, appendix A.4; facebookresearch/detr, models/position_encoding.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detr.errors import UserError
from detr.models.layers import MLP, MLPActivation, xavier_uniform


class SinePositionEmbedding(nn.Module):
    """Gives sines and cosines of the row (first half of the channels) and of the column (second half).

    Args:
        d_model: number of channels, a multiple of 4.
        temperature: the longest wavelength is this many times the shortest.
        centered: a feature is where its middle is (Deformable DETR); else where its end is (DETR).
    """

    def __init__(self, *, d_model: int, temperature: float = 10000.0, centered: bool = False) -> None:
        super().__init__()
        if d_model % 4:
            raise ValueError(f"d_model: expected a multiple of 4 for sine positions, got {d_model}")
        if temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        self.d_model = d_model
        self.temperature = temperature
        self.centered = centered

    def forward(self, padding: Tensor) -> Tensor:
        """Embed padding [B, h, w] bool → [B, D, h, w]; positions run from 0 to 1 over the part that is not padding."""
        valid = ~padding
        rows, columns = valid.cumsum(1, dtype=torch.float32), valid.cumsum(2, dtype=torch.float32)
        eps = 1e-6
        shift = 0.5 if self.centered else 0.0
        y = (rows - shift) / (rows[:, -1:, :] + eps)
        x = (columns - shift) / (columns[:, :, -1:] + eps)
        half = self.d_model // 2
        return torch.cat(
            [sine_embedding(y, half, self.temperature), sine_embedding(x, half, self.temperature)], -1
        ).permute(0, 3, 1, 2)


class GridPositionEmbedding(nn.Module):
    """Gives sines and cosines of the number of the row, then of the column, whatever the image's size (RT-DETR).

    Sines and cosines are not interleaved, as in `SinePositionEmbedding`, but come one after the other.

    Args:
        d_model: number of channels, a multiple of 4.
        temperature: the longest wavelength is this many times the shortest.
    """

    def __init__(self, *, d_model: int, temperature: float = 10000.0) -> None:
        super().__init__()
        if d_model % 4:
            raise ValueError(f"d_model: expected a multiple of 4 for sine positions, got {d_model}")
        if temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        self.d_model, self.temperature = d_model, temperature

    def forward(self, padding: Tensor) -> Tensor:
        """Embed padding [B, h, w] bool → [B, D, h, w]; rows and columns of padding count on."""
        numbers = [torch.ones_like(padding, dtype=torch.float32).cumsum(axis) - 1 for axis in (1, 2)]
        sines = [sine_embedding(each / (2 * math.pi), self.d_model // 2, self.temperature) for each in numbers]
        return torch.cat([part for each in sines for part in (each[..., 0::2], each[..., 1::2])], -1).permute(
            0, 3, 1, 2
        )


def sine_embedding(values: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Embed values in [0, 1], [...] → [..., channels]: sine and cosine alternate, wavelengths grow from 1 upward."""
    index = torch.arange(channels, dtype=torch.float32, device=values.device)
    wavelength = temperature ** (2 * (index // 2) / channels)
    angles = values[..., None] * 2 * math.pi / wavelength
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


def box_sines(boxes: Tensor, d_model: int) -> Tensor:
    """Embed boxes cxcywh [..., 4] in [0, 1] → the sines of the four numbers [..., 2 D] (DAB-DETR, section 4.2)."""
    return sine_embedding(boxes, d_model // 2).flatten(-2)


class BoxPosition(nn.Module):
    """Makes the position of a query from its box (DAB-DETR, Liu et al. 2022, section 4.2).

    The authors put the sines of y before those of x, which is another order of the first layer's columns.
    """

    def __init__(self, d_model: int, activation: MLPActivation = "relu") -> None:
        super().__init__()
        self.d_model = d_model
        self.mlp = MLP(2 * d_model, d_model, d_model, 2, activation)
        xavier_uniform(self.mlp)

    def forward(self, boxes: Tensor) -> Tensor:
        """Embed boxes cxcywh [B, Q, 4] in [0, 1] → [B, Q, D]."""
        return self.mlp(box_sines(boxes, self.d_model))


class AnchorPosition(nn.Module):
    """Makes the position of a query from the four numbers of its box, without sines (RT-DETR)."""

    def __init__(self, d_model: int, activation: MLPActivation = "relu") -> None:
        super().__init__()
        self.mlp = MLP(4, 2 * d_model, d_model, 2, activation)
        xavier_uniform(self.mlp)

    def forward(self, boxes: Tensor) -> Tensor:
        """Embed boxes cxcywh [B, Q, 4] in [0, 1] → [B, Q, D]."""
        return self.mlp(boxes)


class LearnedPositionEmbedding(nn.Module):
    """Learns a vector for every column (first half of the channels) and every row (second half).

    Args:
        d_model: number of channels, even.
        size: rows of each table; the paper's 50 are enough for features of 50 × 50.
    """

    def __init__(self, *, d_model: int, size: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(size, d_model // 2)
        self.col_embed = nn.Embedding(size, d_model // 2)
        for table in (self.row_embed, self.col_embed):
            nn.init.uniform_(table.weight)

    def forward(self, padding: Tensor) -> Tensor:
        """Embed padding [B, h, w] bool → [B, D, h, w].

        Raises:
            UserError: h or w is larger than the tables.
        """
        images, height, width = padding.shape
        size = self.row_embed.num_embeddings
        if max(height, width) > size:
            raise UserError(
                f"position_embedding.size={size} is too small for features of {height} × {width}; "
                f"give position_embedding.size={max(height, width)} or more, or position_embedding=sine"
            )
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], -1).permute(2, 0, 1).expand(images, -1, -1, -1)
