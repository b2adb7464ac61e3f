"""The two-stage choice of LW-DETR and RF-DETR, once for each group (Chen et al. 2024; Group DETR, Chen et al. 2023)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from detr.models.box_coder import BoxCoder
from detr.models.heads import BoxHead, ClassHead
from detr.models.operations import Linear
from detr.models.queries import Surroundings
from detr.models.structures import Decoded, Memory, QuerySet
from detr.models.two_stage import TwoStageQueries, rows
from detr.structures import STATES, Group, Predictions, at_least_fp32


class ProposalHeads(nn.Module):
    """Reads classes and boxes off the encoder's tokens, as `TwoStageQueries` does, for another group."""

    def __init__(self, d_model: int, num_logits: int, num_outputs: int, *, sigmoid: bool) -> None:
        super().__init__()
        self.token_head = nn.Sequential(Linear(d_model, d_model), nn.LayerNorm(d_model))
        self.class_head = ClassHead(d_model=d_model, num_logits=num_logits, sigmoid=sigmoid)
        self.box_head = BoxHead(d_model=d_model, num_outputs=num_outputs, corrects=True)


class GroupedTwoStageQueries(TwoStageQueries):
    """Lets each group of queries choose from the tokens by heads of its own; content and a correction are learned.

    Of a group's surest tokens the boxes, detached, become anchors, which each query's own learned correction moves.
    Without further queries there is one group; of those that `one_to_many` asks for, each part is a group, whose
    proposals are matched as its queries are.

    Args:
        surroundings: the detector around them.
        num_queries: Q; an image with fewer tokens gets as many queries as it has tokens.
        d_model: width of the transformer.
        box_coder: how boxes follow from anchors.
        anchor_side: of the anchors in the finest level, in units of the image; it doubles with each level.
        weight: of the proposals' losses.
        border: tokens whose centre lies closer to an edge, in units of the image, are chosen last.
    """

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        box_coder: BoxCoder,
        num_queries: int = 300,
        d_model: int = 256,
        anchor_side: float = 0.05,
        weight: float = 1.0,
        border: float = 0.01,
    ) -> None:
        super().__init__(
            surroundings=surroundings,
            box_coder=box_coder,
            num_queries=num_queries,
            d_model=d_model,
            anchor_side=anchor_side,
            copies=1,
            weight=weight,
            supervised="chosen",
            content="learned",
            border=border,
        )
        assert self.content is not None
        nn.init.normal_(self.content.weight)
        self.one_to_many = surroundings.one_to_many
        parts = 0 if self.one_to_many is None else self.one_to_many.parts
        self.further_heads = nn.ModuleList(
            ProposalHeads(d_model, surroundings.num_logits, box_coder.num_outputs, sigmoid=self.sigmoid)
            for _ in range(parts)
        )
        self.corrections = nn.Embedding(num_queries + self.further, box_coder.num_outputs)
        nn.init.zeros_(self.corrections.weight)

    def forward(self, memory: Memory) -> QuerySet:
        anchors, last = self.anchors(memory), self.last(memory)
        boxes, proposals = self.choice(self, memory, anchors, last)
        groups = {"encoder": Group(predictions=proposals, weight=self.weight)}
        first, chosen = boxes.shape[1], [boxes]
        more = self.one_to_many
        if self.training and more is not None:
            size = self.further // more.parts
            further = [
                self.choice(cast(ProposalHeads, heads), memory, anchors, last, size) for heads in self.further_heads
            ]
            chosen += [of_part for of_part, _ in further]
            groups["encoder_further"] = Group(
                predictions=Predictions(
                    torch.cat([said.logits for _, said in further], 2),
                    torch.cat([said.boxes for _, said in further], 2),
                    {STATES: torch.cat([said.extras[STATES] for _, said in further], 2)},
                ),
                parts=more.parts,
                copies=more.copies,
                weight=self.weight * more.parts * more.weight,
            )
        assert self.content is not None
        reference = self.box_coder.correct(torch.cat(chosen, 1), self.own(self.corrections, first))
        content = self.own(self.content, first).expand(reference.shape[0], -1, -1)
        return QuerySet(content=content, reference=reference, embed=self.position, groups=groups)

    def choice(
        self,
        heads: TwoStageQueries | ProposalHeads,
        memory: Memory,
        anchors: Tensor,
        last: Tensor,
        size: int | None = None,
    ) -> tuple[Tensor, Predictions]:
        """Let a group choose.

        Args:
            heads: of the group.
            memory: of the encoder.
            anchors: [B, T, 4] references.
            last: [B, T] which tokens come last.
            size: queries of a further group; None: the group that counts.

        Returns:
            References [B, n, 4], detached, and what the tokens propose that were chosen, each of them once.
        """
        tokens = heads.token_head(memory.tokens)
        scores = heads.class_head(Decoded(tokens[None], anchors[None]))[0]
        scores = at_least_fp32(self.objectness(scores.detach())).masked_fill(last, -torch.inf)
        best = self.best(scores) if size is None else scores.topk(min(size, scores.shape[1]), dim=1).indices
        states = rows(tokens, best)
        boxes = self.box_coder.correct(rows(anchors, best), at_least_fp32(heads.box_head(states)))
        located = self.box_coder.decode(boxes).masked_fill(last.gather(1, best)[..., None], 1.0)
        logits = heads.class_head(Decoded(states[None], located[None]))
        said = Predictions(logits, located[None], {STATES: states[None]})
        if size is not None and size > best.shape[1]:  # fewer tokens than queries: they are taken in turns
            boxes = boxes[:, torch.arange(size, device=boxes.device) % best.shape[1]]
        return boxes.detach(), said

    def best(self, scores: Tensor) -> Tensor:
        """Return [B, Q] the tokens of the highest scores [B, T], for the group that counts."""
        return scores.topk(torch.sym_min(self.num_queries, scores.shape[1]), dim=1).indices

    def sides(self, memory: Memory) -> list[float]:
        """Return the side of the anchors in each level: it doubles, whatever the strides."""
        return [self.anchor_side * 2**level for level in range(len(memory.shapes))]

    def own(self, table: nn.Embedding, first: int) -> Tensor:
        """Return what the queries that there are learned, [Q, n]: `first` of the group that counts, and all others."""
        if not self.training:
            return table.weight[:first]
        return torch.cat([table.weight[:first], table.weight[self.num_queries :]])
