"""What the decoder starts from: what all kinds of queries share, and those that are learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.decoder import Reference
from detr.models.groups import OneToMany
from detr.models.layers import MLP, xavier_uniform
from detr.models.position_embedding import BoxPosition
from detr.models.structures import Memory, QuerySet
from detr.structures import at_least_fp32


@dataclass(frozen=True)
class Surroundings:
    """Holds what queries are told of the detector around them."""

    num_logits: int  # K of the class head
    sigmoid: bool  # whether class logits are independent; else the last one means no object
    one_to_many: OneToMany | None = None  # asks for further queries while training, behind the others
    point_layers: int = 0  # of the head with which the decoder wants points read off learned positions; 0: no points


class Queries(nn.Module):
    """Offers what all kinds of queries share. They sit between encoder and decoder: they may look at the image first.

    Args:
        surroundings: the detector around them.
        num_queries: Q, how many objects can be found in an image.

    Attributes:
        reference: what the query set comes with.
        further: how many queries there are beside the Q while training, behind them.

    Raises:
        ValueError: no queries.
    """

    reference: Reference = "none"

    def __init__(self, *, surroundings: Surroundings, num_queries: int) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries: expected at least 1, got {num_queries}")
        more = surroundings.one_to_many
        self.num_queries = num_queries
        self.further = 0 if more is None else more.further(num_queries)

    @property
    def count(self) -> int:
        """Return how many queries there are now: with the further ones while training."""
        return self.num_queries + (self.further if self.training else 0)

    def position_of(self, reference: Tensor) -> Tensor | None:
        """Return positions [B, n, D] of queries with these anchors [B, n, 4]; None: `QuerySet.embed` makes them."""
        return None

    def forward(self, memory: Memory) -> QuerySet:
        raise NotImplementedError


class LearnedQueries(Queries):
    """Learns the paper's object queries: positions that learn, and zeros for content.

    A decoder that starts from points has them read off the positions.

    Args:
        surroundings: the detector around them.
        num_queries: Q, how many objects can be found in an image.
        d_model: width of the transformer.
        box_coder: how boxes follow from references.
        learn_content: learn the content, too (Deformable DETR).
    """

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        box_coder: BoxCoder,
        num_queries: int = 100,
        d_model: int = 256,
        learn_content: bool = False,
    ) -> None:
        super().__init__(surroundings=surroundings, num_queries=num_queries)
        total = num_queries + self.further
        self.box_coder = box_coder
        self.embedding = nn.Embedding(total, d_model)
        self.content = nn.Embedding(total, d_model) if learn_content else None
        self.point_head = _point_head(d_model, surroundings.point_layers) if surroundings.point_layers else None
        if self.point_head is not None:
            self.reference = "point"

    def forward(self, memory: Memory) -> QuerySet:
        position = self.embedding.weight[: self.count].expand(memory.tokens.shape[0], -1, -1)
        content = self.content
        return QuerySet(
            content=torch.zeros_like(position) if content is None else content.weight[: self.count].expand_as(position),
            reference=None if self.point_head is None else self.points(position),
            position=position,
        )

    def points(self, position: Tensor) -> Tensor:
        """Return references [B, Q, 2] of positions [B, Q, D]."""
        assert self.point_head is not None
        return self.box_coder.from_free(at_least_fp32(self.point_head(position)))


def _point_head(d_model: int, num_layers: int) -> MLP:
    """As the authors start: Deformable DETR's single layer without a bias, Conditional DETR's two layers with one."""
    head = MLP(d_model, d_model, 2, num_layers)
    xavier_uniform(head)
    if num_layers == 1:
        nn.init.zeros_(head.layers[0].bias)  # type: ignore[arg-type]
    return head


class AnchorQueries(Queries):
    """Learns an anchor for each query (DAB-DETR, Liu et al. 2022, section 4.1), and content.

    Args:
        surroundings: the detector around them.
        num_queries: Q, how many objects can be found in an image.
        d_model: width of the transformer.
        box_coder: how boxes follow from anchors.
        learn_content: false: content starts from zeros, as in DAB-DETR.
    """

    reference = "anchor"

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        box_coder: BoxCoder,
        num_queries: int = 100,
        d_model: int = 256,
        learn_content: bool = True,
    ) -> None:
        super().__init__(surroundings=surroundings, num_queries=num_queries)
        self.d_model, self.box_coder = d_model, box_coder
        self.content = nn.Embedding(num_queries + self.further, d_model) if learn_content else None
        self.anchors = nn.Embedding(num_queries + self.further, 4)
        self.position = BoxPosition(d_model)

    def forward(self, memory: Memory) -> QuerySet:
        images, free = memory.tokens.shape[0], self.anchors.weight[: self.count]
        content = free.new_zeros(self.count, self.d_model) if self.content is None else self.content.weight
        return QuerySet(
            content=content[: self.count].expand(images, -1, -1),
            reference=self.box_coder.from_free(free).expand(images, -1, -1),
            embed=self.position,
        )
