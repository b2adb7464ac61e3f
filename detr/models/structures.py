"""The containers that flow through a detector: neck → encoder → queries → decoder → heads.

Letters as in `detr.structures`, and D the width of the transformer, T tokens of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from detr.structures import Group


@dataclass
class Features:
    """Holds what the neck hands to the encoder: levels from fine to coarse, all of width D."""

    maps: list[Tensor]  # each [B, D, h, w]
    padding: list[Tensor]  # each [B, h, w] bool, True = padding
    positions: list[Tensor]  # each [B, D, h, w]
    strides: list[int]  # of each level, in pixels of the image

    def flatten(self) -> Memory:
        """Return one sequence of tokens, fine to coarse, row by row."""
        return Memory(
            tokens=torch.cat([as_tokens(each) for each in self.maps], 1),
            positions=torch.cat([as_tokens(each) for each in self.positions], 1),
            padding=torch.cat([as_tokens(each) for each in self.padding], 1),
            shapes=[(each.shape[-2], each.shape[-1]) for each in self.maps],
            strides=self.strides,
        )


@dataclass
class Memory:
    """Holds what the encoder hands to queries and decoder: the tokens of all levels in one sequence."""

    tokens: Tensor  # [B, T, D]
    positions: Tensor  # [B, T, D]
    padding: Tensor  # [B, T] bool, True = padding
    shapes: list[tuple[int, int]]  # (h, w) of each level; their products add up to T
    strides: list[int]  # of each level, in pixels of the image
    groups: dict[str, Group] = field(default_factory=dict)  # outputs of the encoder's own that are supervised

    @cached_property
    def sizes(self) -> Tensor:
        """Return [levels, 2] float (w, h). Filled in number by number: a copy of a list would be waited for."""
        sides = [self.tokens.new_full((), side, dtype=torch.float) for h, w in self.shapes for side in (w, h)]
        return torch.stack(sides).view(-1, 2)

    @cached_property
    def centres(self) -> Tensor:
        """Return [B, T, 2] where each token lies: (x, y) in [0, 1], relative to the unpadded image."""
        centres = []
        for (height, width), valid in zip(self.shapes, self._valid, strict=True):
            rows, columns = torch.meshgrid(
                torch.arange(height, device=valid.device) + 0.5,
                torch.arange(width, device=valid.device) + 0.5,
                indexing="ij",
            )
            valid_height, valid_width = valid[:, :, 0].sum(1), valid[:, 0, :].sum(1)
            x = columns.flatten() / valid_width[:, None]
            y = rows.flatten() / valid_height[:, None]
            centres.append(torch.stack([x, y], -1))
        return torch.cat(centres, 1)

    @cached_property
    def valid_ratios(self) -> Tensor:
        """Return [B, levels, 2] how much of each level, (width, height) in [0, 1], is not padding."""
        return torch.stack(
            [torch.stack([v[:, 0].float().mean(-1), v[:, :, 0].float().mean(-1)], -1) for v in self._valid], 1
        )

    @property
    def _valid(self) -> list[Tensor]:
        """What is not padding, level by level: each [B, h, w] bool."""
        levels = (~self.padding).split([height * width for height, width in self.shapes], 1)
        return [level.unflatten(1, shape) for level, shape in zip(levels, self.shapes, strict=True)]


@dataclass
class QuerySet:
    """Holds what the decoder starts from.

    A reference is what boxes are corrections of, in the space of the box coder: a point (x, y), or an anchor, which is
    a box. The paper's queries have none.
    """

    content: Tensor  # [B, Q, D]
    reference: Tensor | None = None  # [B, Q, 2 or 4]
    position: Tensor | None = None  # [B, Q, D], the same for every decoder layer; None: `embed` makes it
    embed: Callable[[Tensor], Tensor] | None = None  # boxes [B, Q, 4] in [0, 1] → positions [B, Q, D]
    attention_mask: Tensor | None = None  # [Q, Q] bool, True = may not attend
    groups: dict[str, Group] = field(default_factory=dict)  # what is supervised beside the queries that count

    def __len__(self) -> int:
        """Q, groups included."""
        return self.content.shape[1]

    @property
    def matching(self) -> int:
        """Return how many queries come before those of groups: they count."""
        starts = [group.queries.start for group in self.groups.values() if group.queries is not None]
        return min(starts, default=self.content.shape[1])

    def positions_at(self, boxes: Tensor) -> Tensor:
        """Return [B, Q, D] positions in a layer whose references are at `boxes` [B, Q, 2 or 4] in [0, 1]."""
        if self.position is not None:
            return self.position
        assert self.embed is not None  # queries bring the one or the other
        return self.embed(boxes)


@dataclass
class Decoded:
    """Holds what the decoder says of every query in every layer."""

    hidden: Tensor  # [L, B, Q, D]
    boxes: Tensor  # [L, B, Q, 4] cxcywh in [0, 1]
    extras: dict[str, Tensor] = field(default_factory=dict)  # whatever else heads or losses read, each [L, B, Q, …]
    groups: dict[str, Group] = field(default_factory=dict)  # outputs of the decoder's own that are supervised
    preliminary: Tensor | None = None  # [B, Q, 4] boxes of the first layer before its own, supervised while training

    def layer(self, index: int) -> Decoded:
        """Return one layer as the only one."""
        rows = slice(index, index + 1)
        extras = {name: value[rows] for name, value in self.extras.items()}
        return Decoded(self.hidden[rows], self.boxes[rows], extras)


def as_tokens(level: Tensor) -> Tensor:
    """Convert [B, D, h, w] → [B, h·w, D]; [B, h, w] → [B, h·w]."""
    return level.flatten(2).mT if level.dim() == 4 else level.flatten(1)
