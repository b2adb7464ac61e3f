"""Queries that are proposals: every token of the encoder says a class and a box, and the best become queries."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detr.boxes import cxcywh_to_xyxy
from detr.models.box_coder import BoxCoder
from detr.models.heads import BoxHead, ClassHead
from detr.models.layers import MLPActivation
from detr.models.operations import Linear
from detr.models.position_embedding import AnchorPosition, BoxPosition, box_sines
from detr.models.queries import Queries, Surroundings
from detr.models.structures import Decoded, Memory, QuerySet
from detr.structures import Group, Predictions, at_least_fp32

CANDIDATES = 4  # tokens for each query that are looked through for distinct ones
REPEATED = 1e4  # beyond any logit: puts the repeated behind the distinct, before padding

LARGEST = 0.9  # side of an anchor, in units of the image


class TwoStageQueries(Queries):
    """Lets every token of the encoder propose a class and a box; the best become queries (Deformable DETR, section 4).

    Boxes are corrections of a square anchor at the token. The proposals learn from a loss of their own, matched
    one-to-many. The chosen anchors are detached; the content is so only if asked for, since without the decoder's
    gradient the embedded data set is learned markedly more slowly (AP 0.35 instead of 0.40 after 600 small batches).
    Padding and the border are chosen last, that is only in an image with fewer tokens than queries, where they have to
    fill the rest; before them boxes that repeat a better one, where queries are to be distinct. What they propose is a
    box around the far corner, as in the authors' code, so that no object is matched to them.

    Args:
        surroundings: the detector around them.
        num_queries: Q; an image with fewer tokens gets as many queries as it has tokens.
        d_model: width of the transformer.
        box_coder: how boxes follow from anchors.
        anchor_side: of the anchors in the finest level, in units of the image; it grows with the levels' strides.
        copies: how many proposals each object supervises.
        weight: of the proposals' losses.
        supervised: whose proposals have losses: of `all` tokens (Deformable DETR) or the `chosen` (DINO, RT-DETR).
        content: of the queries. `tokens`: those that proposed them; `learned`: only anchors come from the image
            (DINO, section 3.4, "mixed query selection"), with Xavier's small numbers as in the authors' code, so that
            at first anchors are most of what a query is; `anchors`: content and position are made from the anchors
            (Deformable DETR, appendix A.4).
        detach: the content of `tokens` passes no gradient on to the encoder (RT-DETR).
        position: what positions in the decoder are made of: the `sines` of the anchors, or `anchors`, their four
            numbers alone (RT-DETR); content `anchors` brings its own.
        activation: in the heads that make boxes and positions.
        class_agnostic: proposals tell objects from no objects, but not classes (Deformable DETR).
        border: tokens whose centre lies closer to an edge, in units of the image, are chosen last (0.01 in the code of
            Deformable DETR and DINO: the outermost tokens of levels that have more than 50 in a row).
        distinct: the IoU with the box of a surer token beyond which a token repeats it (Dense Distinct Queries, Zhang
            et al. 2023: 0.8; their further steps, between decoder layers, are not here). Alike queries are told apart
            by self-attention alone, which takes long to learn, so that objects are found twice. Of the surest tokens
            four for each query are looked through. null: all are taken for distinct.
    """

    reference = "anchor"

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        box_coder: BoxCoder,
        num_queries: int = 100,
        d_model: int = 256,
        anchor_side: float = 0.08,
        copies: int = 4,
        weight: float = 1.0,
        supervised: Literal["all", "chosen"] = "all",
        content: Literal["tokens", "learned", "anchors"] = "tokens",
        detach: bool = False,
        position: Literal["sines", "anchors"] = "sines",
        activation: MLPActivation = "relu",
        class_agnostic: bool = False,
        border: float = 0.0,
        distinct: float | None = None,
    ) -> None:
        super().__init__(surroundings=surroundings, num_queries=num_queries)
        if not 0 < anchor_side < 1:
            raise ValueError(f"anchor_side: expected a number between 0 and 1, got {anchor_side}")
        if not 0 <= border < 0.5:
            raise ValueError(f"border: expected at least 0 and below 0.5, got {border}")
        if distinct is not None and not 0 < distinct < 1:
            raise ValueError(f"distinct: expected a number between 0 and 1, got {distinct}")
        if copies < 1:
            raise ValueError(f"copies: expected at least 1, got {copies}")
        if weight < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.sigmoid, self.copies, self.weight, self.class_agnostic = (
            surroundings.sigmoid,
            copies,
            weight,
            class_agnostic,
        )
        self.d_model, self.border, self.distinct, self.supervised = d_model, border, distinct, supervised
        self.box_coder, self.anchor_side = box_coder, anchor_side
        self.token_head = nn.Sequential(Linear(d_model, d_model), nn.LayerNorm(d_model))
        logits = (1 if self.sigmoid else 2) if class_agnostic else surroundings.num_logits
        self.class_head = ClassHead(d_model=d_model, num_logits=logits, sigmoid=self.sigmoid)
        self.box_head = BoxHead(
            d_model=d_model, num_outputs=box_coder.num_outputs, corrects=True, activation=activation
        )
        self.detach = detach
        self.content = nn.Embedding(num_queries + self.further, d_model) if content == "learned" else None
        if self.content is not None:
            nn.init.xavier_uniform_(self.content.weight)
        made_of_anchors = content == "anchors"
        self.anchor_head = (
            nn.Sequential(Linear(2 * d_model, 2 * d_model), nn.LayerNorm(2 * d_model)) if made_of_anchors else None
        )
        embedding = AnchorPosition if position == "anchors" else BoxPosition
        self.position = None if made_of_anchors else embedding(d_model, activation)

    def forward(self, memory: Memory) -> QuerySet:
        tokens = self.token_head(memory.tokens)
        states = tokens[None]  # [1, B, T, D] as those of one decoder layer
        boxes = self.box_coder.correct(self.anchors(memory), at_least_fp32(self.box_head(tokens)))
        located = self.box_coder.decode(boxes)
        logits = self.class_head(Decoded(states, located[None]))[0]
        last = self.last(memory)
        best = self.best(self.scores(logits.detach(), located.detach(), last))
        reference = rows(boxes.detach(), best)
        position, content = self.of_anchors(reference)
        if content is None and self.content is None:
            content = rows(tokens.detach() if self.detach else tokens, best)
        elif self.content is not None:
            content = self.content.weight[: best.shape[1]].expand(tokens.shape[0], -1, -1)
        assert content is not None
        proposed = located.masked_fill(last[..., None], 1.0)
        if self.supervised == "chosen":
            chosen = best[:, : self.num_queries]
            logits, proposed = rows(logits, chosen), rows(proposed, chosen)
        proposals = Group(
            predictions=Predictions(logits[None], proposed[None]),
            copies=self.copies,
            weight=self.weight,
            class_agnostic=self.class_agnostic,
            earlier=self.supervised == "chosen",
        )
        return QuerySet(
            content=content,
            reference=reference,
            position=position,
            embed=self.position,
            groups={"encoder": proposals},
        )

    def scores(self, logits: Tensor, boxes: Tensor, last: Tensor) -> Tensor:
        """Return [B, T] scores that order tokens: how surely they propose, with what comes last below all others.

        Args:
            logits: [B, T, K].
            boxes: [B, T, 4] cxcywh in [0, 1].
            last: [B, T] which tokens come last.
        """
        scores = at_least_fp32(self.objectness(logits)).masked_fill(last, -torch.inf)
        if self.distinct is None:
            return scores
        return scores - REPEATED * self.repeats(scores, boxes, self.distinct)

    def repeats(self, scores: Tensor, boxes: Tensor, distinct: float) -> Tensor:
        """Return [B, T] which boxes (cxcywh in [0, 1]) of the surest tokens repeat one that is surer."""
        count = torch.sym_min(CANDIDATES * self.num_queries, scores.shape[1])
        surest = scores.topk(count, dim=1)
        corners = cxcywh_to_xyxy(boxes.gather(1, surest.indices[..., None].expand(-1, -1, 4))).flatten(0, 1)
        image = torch.arange(scores.shape[0], device=scores.device)[:, None].expand_as(surest.values).flatten()
        repeated = torch.ones_like(image, dtype=torch.bool)
        repeated[batched_nms(corners, surest.values.flatten(), image, distinct)] = False
        return torch.zeros_like(scores, dtype=torch.bool).scatter(1, surest.indices, repeated.view_as(surest.indices))

    def last(self, memory: Memory) -> Tensor:
        """Return [B, T] which tokens are padding, or too close to an edge."""
        if not self.border:
            return memory.padding
        outside = (memory.centres <= self.border) | (memory.centres >= 1 - self.border)
        return memory.padding | outside.any(-1)

    def best(self, scores: Tensor) -> Tensor:
        """Return [B, Q] the tokens of the highest scores [B, T]; further queries take the next, in turns if needed."""
        count = torch.sym_min(self.num_queries, scores.shape[1])
        total = count + self.count - self.num_queries
        found = scores.topk(torch.sym_min(total, scores.shape[1]), dim=1)
        if total <= scores.shape[1]:
            return found.indices
        return found.indices[:, torch.arange(total, device=scores.device) % scores.shape[1]]

    def of_anchors(self, reference: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return position and content [B, Q, D] made of anchors; None: they come from elsewhere."""
        if self.anchor_head is None:
            return None, None
        position, content = self.anchor_head(box_sines(self.box_coder.decode(reference), self.d_model)).chunk(2, -1)
        return position, content

    def position_of(self, reference: Tensor) -> Tensor | None:
        return self.of_anchors(reference)[0]

    def anchors(self, memory: Memory) -> Tensor:
        """Return references [B, T, 4]: a square around each token's centre."""
        sides = torch.cat(
            [
                memory.centres.new_full((h * w,), min(LARGEST, side))
                for (h, w), side in zip(memory.shapes, self.sides(memory), strict=True)
            ]
        )
        squares = sides[None, :, None].expand(memory.centres.shape[0], -1, 2)
        return self.box_coder.encode(torch.cat([memory.centres, squares], -1))

    def sides(self, memory: Memory) -> list[float]:
        """Return the side of the anchors in each level."""
        return [self.anchor_side * stride / memory.strides[0] for stride in memory.strides]

    def objectness(self, logits: Tensor) -> Tensor:
        """Return how surely a token proposes any object: [B, T, K] → [B, T]."""
        if self.sigmoid:
            return logits.max(-1).values
        return logits[..., :-1].max(-1).values - logits[..., -1]


def rows(table: Tensor, indices: Tensor) -> Tensor:
    """Return of each image's rows [B, T, n] those at [B, Q]: [B, Q, n]."""
    return table.gather(1, indices[..., None].expand(-1, -1, table.shape[-1]))
