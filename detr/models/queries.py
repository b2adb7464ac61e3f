"""What the decoder starts from. Queries sit between encoder and decoder: they may look at the image first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detr.boxes import inverse_sigmoid
from detr.models.layers import MLP, class_head, token_centres, zero_last_layer
from detr.structures import Group, Memory, Predictions, QuerySet, at_least_fp32


class Queries(nn.Module):
    """What all kinds of queries share.

    Args:
        num_queries: Q, how many objects can be found in an image.
        d_model: width of the transformer.
        num_logits: K, of the class head; only queries that propose classes need it.
        sigmoid: whether class logits are independent (else the last one means no object); as `num_logits`.
    """

    has_reference = False  # whether the query set comes with anchor boxes

    def __init__(self, *, num_queries: int, d_model: int, num_logits: int, sigmoid: bool) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, not {num_queries}")
        self.num_queries = num_queries

    def forward(self, memory: Memory) -> tuple[QuerySet, dict[str, Group]]:
        """
        Returns:
            The query set, and further outputs to be supervised.
        """
        raise NotImplementedError


class LearnedQueries(Queries):
    """The paper's object queries: learned positions, and zeros for content."""

    def __init__(self, *, num_logits: int, sigmoid: bool, num_queries: int = 100, d_model: int = 256) -> None:
        super().__init__(num_queries=num_queries, d_model=d_model, num_logits=num_logits, sigmoid=sigmoid)
        self.embedding = nn.Embedding(num_queries, d_model)

    def forward(self, memory: Memory) -> tuple[QuerySet, dict[str, Group]]:
        position = self.embedding.weight.expand(len(memory.tokens), -1, -1)
        return QuerySet(content=torch.zeros_like(position), position=position), {}


class AnchorQueries(Queries):
    """A learned anchor box and learned content for each query (DAB-DETR, Liu et al. 2022, section 4.1)."""

    has_reference = True

    def __init__(self, *, num_logits: int, sigmoid: bool, num_queries: int = 100, d_model: int = 256) -> None:
        super().__init__(num_queries=num_queries, d_model=d_model, num_logits=num_logits, sigmoid=sigmoid)
        self.content = nn.Embedding(num_queries, d_model)
        self.anchors = nn.Embedding(num_queries, 4)  # before the sigmoid

    def forward(self, memory: Memory) -> tuple[QuerySet, dict[str, Group]]:
        images = len(memory.tokens)
        content = self.content.weight.expand(images, -1, -1)
        return QuerySet(content=content, reference=self.anchors.weight.expand(images, -1, -1)), {}


class TwoStageQueries(Queries):
    """Every token of the encoder proposes a class and a box; the best become queries (Deformable DETR, section 4).

    Boxes are corrections of a square anchor at the token. The proposals learn from a loss of their own, matched
    one-to-many. The chosen anchors are detached; the content is not, since without the decoder's gradient the
    embedded data set is learned markedly more slowly (AP 0.35 instead of 0.40 after 600 small batches).
    Padding is chosen last, that is only in an image with fewer tokens than queries, where it has to fill the rest.

    Args:
        num_queries: Q; an image with fewer tokens gets as many queries as it has tokens.
        num_logits: K, of the class head.
        sigmoid: whether class logits are independent (else the last one means no object).
        anchor_sides: of the anchors, from the finest to the coarsest level, in units of the image.
        copies: how many proposals each object supervises.
        weight: of the proposals' losses.
    """

    has_reference = True
    anchor_sides: Tensor

    def __init__(
        self,
        *,
        num_logits: int,
        sigmoid: bool,
        num_queries: int = 100,
        d_model: int = 256,
        anchor_sides: Sequence[float] = (0.08, 0.16, 0.32),
        copies: int = 4,
        weight: float = 1.0,
    ) -> None:
        super().__init__(num_queries=num_queries, d_model=d_model, num_logits=num_logits, sigmoid=sigmoid)
        if not all(0 < side < 1 for side in anchor_sides):
            raise ValueError(f"anchor_sides must lie between 0 and 1, not {list(anchor_sides)}")
        if copies < 1:
            raise ValueError(f"copies must be at least 1, not {copies}")
        self.sigmoid, self.copies, self.weight = sigmoid, copies, weight
        self.register_buffer("anchor_sides", torch.tensor(anchor_sides), persistent=False)
        self.token_head = nn.Sequential(nn.Linear(d_model, d_model), nn.LayerNorm(d_model))
        self.class_head = class_head(d_model, num_logits, sigmoid=sigmoid)
        self.box_head = MLP(d_model, d_model, 4, 3)
        zero_last_layer(self.box_head)

    def forward(self, memory: Memory) -> tuple[QuerySet, dict[str, Group]]:
        tokens = self.token_head(memory.tokens)
        logits = self.class_head(tokens)
        boxes = at_least_fp32(self.box_head(tokens)) + self.anchors(memory)
        count = min(self.num_queries, tokens.shape[1])
        best = self.objectness(logits).masked_fill(memory.padding, -torch.inf).topk(count, dim=1).indices[..., None]
        queries = QuerySet(
            content=tokens.gather(1, best.expand(-1, -1, tokens.shape[-1])),
            reference=boxes.detach().gather(1, best.expand(-1, -1, 4)),
        )
        proposals = Predictions(logits[None], boxes.sigmoid()[None])
        return queries, {"encoder": Group(proposals, copies=self.copies, weight=self.weight)}

    def anchors(self, memory: Memory) -> Tensor:
        """Boxes [B, T, 4], cxcywh before the sigmoid."""
        if len(memory.shapes) != len(self.anchor_sides):
            raise ValueError(
                f"queries.anchor_sides has {len(self.anchor_sides)} sides for {len(memory.shapes)} levels of features; "
                "give one for each of backbone.levels"
            )
        centres, levels = token_centres(memory)
        sides = self.anchor_sides[levels][None, :, None].expand(len(centres), -1, 2)
        return inverse_sigmoid(torch.cat([centres, sides], -1))

    def objectness(self, logits: Tensor) -> Tensor:
        """How surely a token proposes any object: [B, T, K] → [B, T]."""
        if self.sigmoid:
            return logits.max(-1).values
        return logits[..., :-1].max(-1).values - logits[..., -1]
