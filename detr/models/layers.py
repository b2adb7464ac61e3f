"""Small layers that several parts share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.structures import Memory

NORM_GROUPS = 32  # of group norm, as in Deformable DETR's neck

Activation = Literal["relu", "gelu", "glu", "prelu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}


class MLP(nn.Module):
    """Linear layers with ReLU between them: the paper's box head has three (facebookresearch/detr, models/detr.py).

    Maps [..., in_features] to [..., out_features].
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int, num_layers: int) -> None:
        super().__init__()
        sizes = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """The two linear layers of a transformer layer.

    `glu` gates one half of a doubled first layer with the other; `prelu` learns its slope (DAB-DETR).
    """

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, activation: Activation) -> None:
        super().__init__()
        self.activation = nn.PReLU() if activation == "prelu" else ACTIVATIONS[activation]
        self.linear1 = nn.Linear(d_model, dim_feedforward * (2 if activation == "glu" else 1))
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def xavier_uniform(module: nn.Module) -> None:
    """Initialise every matrix of `module`, as the paper does for its transformer and for nothing else."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def token_centres(memory: Memory) -> tuple[Tensor, Tensor]:
    """Where each token of the encoder lies.

    Returns:
        Centres (x, y) [B, T, 2] in [0, 1] relative to the unpadded image, and the level of each token [T].
    """
    centres, levels = [], []
    for level, ((height, width), valid) in enumerate(zip(memory.shapes, _valid(memory), strict=True)):
        rows, columns = torch.meshgrid(
            torch.arange(height, device=valid.device) + 0.5,
            torch.arange(width, device=valid.device) + 0.5,
            indexing="ij",
        )
        valid_height, valid_width = valid[:, :, 0].sum(1), valid[:, 0, :].sum(1)
        x = columns.flatten() / valid_width[:, None]
        y = rows.flatten() / valid_height[:, None]
        centres.append(torch.stack([x, y], -1))
        levels.append(torch.full((height * width,), level, device=valid.device))
    return torch.cat(centres, 1), torch.cat(levels)


def valid_ratios(memory: Memory) -> Tensor:
    """[B, levels, 2]: how much of each level, (width, height) in [0, 1], is not padding."""
    return torch.stack(
        [torch.stack([v[:, 0].float().mean(-1), v[:, :, 0].float().mean(-1)], -1) for v in _valid(memory)], 1
    )


def _valid(memory: Memory) -> list[Tensor]:
    """What is not padding, level by level: each [B, h, w] bool."""
    levels = (~memory.padding).split([height * width for height, width in memory.shapes], 1)
    return [level.unflatten(1, shape) for level, shape in zip(levels, memory.shapes, strict=True)]


def group_norm(d_model: int) -> nn.GroupNorm:
    """Group norm of the transformer's width.

    Raises:
        ValueError: a width that cannot be grouped.
    """
    if d_model % NORM_GROUPS:
        raise ValueError(f"group norm needs a multiple of {NORM_GROUPS} as transformer.d_model, not {d_model}")
    return nn.GroupNorm(NORM_GROUPS, d_model)


def class_head(d_model: int, num_logits: int, *, sigmoid: bool) -> nn.Linear:
    """The linear class head. With sigmoids every class starts at a probability of 0.01 (Lin et al. 2017)."""
    head = nn.Linear(d_model, num_logits)
    if sigmoid:
        nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
    return head


def zero_last_layer(head: nn.Module) -> None:
    """Let a box head (or one for each layer) that corrects references start with no correction."""
    for each in head if isinstance(head, PerLayer) else [head]:
        for parameter in cast(MLP, each).layers[-1].parameters():
            nn.init.zeros_(parameter)


class PerLayer(nn.ModuleList):
    """A head for each decoder layer (Deformable DETR with refinement), in the place of one for all."""

    def forward(self, stacked: Tensor) -> Tensor:
        """Of each layer [L, …] its own head; L may be fewer than there are heads."""
        return torch.stack([head(each) for head, each in zip(self, stacked, strict=False)])


def head_of_layer(head: nn.Module, index: int) -> nn.Module:
    """What a decoder layer's output goes through: its own head, or the one for all."""
    return head[index] if isinstance(head, PerLayer) else head
