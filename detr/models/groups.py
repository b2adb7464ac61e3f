"""Further queries that are supervised while training only, behind the ones that count.

One mechanism for denoising (DN-DETR, DINO) and for one-to-many matching (H-DETR, Group DETR): a group is appended to
the query set, an attention mask keeps everything that it knows from the other queries, and what the decoder says of it
becomes a `Group` of the predictions. In evaluations there are no groups, and none of this costs anything.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detr.models.heads import head_of_layer
from detr.models.structures import Decoded, QuerySet
from detr.structures import Group, Predictions


def append(queries: QuerySet, name: str, more: QuerySet, group: Group, *, sees_queries: bool) -> QuerySet:
    """Return the query set with `more` after it.

    Args:
        name: of the group.
        more: of the same images; its attention mask is among themselves.
        group: how they are supervised; its `queries` are filled in.
        sees_queries: whether they may attend to the matching queries. Nobody ever attends to them.
    """
    before, matching = len(queries), queries.matching
    total = before + len(more)
    mask = torch.ones(total, total, dtype=torch.bool, device=queries.content.device)
    mask[:before, :before] = False if queries.attention_mask is None else queries.attention_mask
    mask[before:, before:] = False if more.attention_mask is None else more.attention_mask
    if sees_queries:
        mask[before:, :matching] = False
    return replace(
        queries,
        content=torch.cat([queries.content, more.content.to(queries.content)], 1),
        position=_joined(queries.position, more.position),
        reference=_joined(queries.reference, more.reference),
        attention_mask=mask,
        groups=queries.groups | {name: replace(group, queries=slice(before, total))},
    )


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second.to(first)], 1)


def separate(predictions: Predictions, groups: dict[str, Group], matching: int) -> Predictions:
    """Return what the decoder says of the `matching` first queries, which count, with the groups beside it.

    Groups of the predictions themselves are of all queries: each group gets its part of them, too.
    """
    found = {}
    for name, group in groups.items():
        if group.queries is None:
            found[name] = group.of(group.outputs)
            continue
        found[name] = group.of(predictions.select(queries=group.queries))
        for more, further in predictions.groups.items():
            found[f"{name}_{more}"] = group.of(further.outputs.select(queries=group.queries))
    for more, further in predictions.groups.items():
        found[more] = further.of(further.outputs.select(queries=slice(matching)))
    return replace(predictions.select(queries=slice(matching)), groups=found)


def preliminary(decoded: Decoded, class_head: nn.Module) -> dict[str, Group]:
    """Return what the first decoder layer says of all queries before it says its own boxes, as a group."""
    if decoded.preliminary is None:
        return {}
    first = Decoded(decoded.hidden[:1], decoded.preliminary[None])
    return {"preliminary": Group(Predictions(head_of_layer(class_head, 0)(first), first.boxes), earlier=True)}


class OneToMany:
    """Adds further queries of the same kind, of which several answer for one object.

    Args:
        weight: of their losses, of one part.

    Raises:
        ValueError: a negative weight.

    Attributes:
        parts: in which they are matched, each on its own.
        copies: how many queries of a part answer for an object.
    """

    parts = 1
    copies = 1

    def __init__(self, *, weight: float) -> None:
        if weight < 0:
            raise ValueError(f"weight: expected at least 0, got {weight}")
        self.weight = weight

    def further(self, num_queries: int) -> int:
        """Return how many further queries there are beside `num_queries`."""
        raise NotImplementedError

    def split(self, queries: QuerySet, further: int) -> QuerySet:
        """Split the last `further` of the queries off as a group."""
        count = len(queries) - further
        matching, more = _rows(queries, slice(0, count)), _rows(queries, slice(count, None))
        if self.parts > 1:
            more.attention_mask = blocks(self.parts, further // self.parts, queries.content.device)
        group = Group(parts=self.parts, copies=self.copies, weight=self.parts * self.weight)
        return append(matching, "one_to_many", more, group, sees_queries=False)


class HybridMatching(OneToMany):
    """Matches each object to several of further queries (H-DETR, Jia et al. 2023, section 3.2, "hybrid branch").

    Args:
        num_queries: T, the further queries.
        copies: K, how many of them answer for an object.
        weight: λ, of their losses.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, *, num_queries: int = 1500, copies: int = 6, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        for name, value in {"num_queries": num_queries, "copies": copies}.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.num_queries, self.copies = num_queries, copies

    def further(self, num_queries: int) -> int:
        return self.num_queries


class GroupMatching(OneToMany):
    """Matches several groups of queries one-to-one each (Group DETR, Chen et al. 2023, section 3.2).

    Args:
        groups: K, the first of which is there in evaluations, too.
        weight: of the losses of each further group, where those of the first weigh 1.

    Raises:
        ValueError: fewer than 2 groups.
    """

    def __init__(self, *, groups: int = 11, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        if groups < 2:
            raise ValueError(f"groups: expected at least 2, got {groups}; one_to_many=none turns it off")
        self.parts = groups - 1

    def further(self, num_queries: int) -> int:
        return self.parts * num_queries


def blocks(count: int, size: int, device: torch.device) -> Tensor:
    """Return [count · size, count · size] bool: each of `count` blocks sees nothing but itself."""
    block = torch.arange(count, device=device).repeat_interleave(size)
    return block[:, None] != block


def _rows(queries: QuerySet, rows: slice) -> QuerySet:
    """Some of the queries, none of which is in a group yet."""
    return replace(
        queries,
        content=queries.content[:, rows],
        position=None if queries.position is None else queries.position[:, rows],
        reference=None if queries.reference is None else queries.reference[:, rows],
    )
