"""Two-stage queries: which tokens propose, which are chosen, where their anchors lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import match
from torch import Tensor

from detr.models.box_coder import LogitBoxCoder
from detr.models.groups import HybridMatching
from detr.models.queries import Surroundings
from detr.models.structures import Decoded, Memory
from detr.models.two_stage import TwoStageQueries
from detr.structures import Predictions, Targets


def encoder_memory(padded_columns: int = 2) -> Memory:
    """Two levels, 4 × 4 and 2 × 2, of two images; the second is padded at the right."""
    torch.manual_seed(0)
    fine, coarse = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    fine[1, :, 4 - padded_columns :], coarse[1, :, 2 - padded_columns // 2 :] = True, True
    padding = torch.cat([fine.flatten(1), coarse.flatten(1)], 1)
    return Memory(torch.randn(2, 20, 16), torch.randn(2, 20, 16), padding, [(4, 4), (2, 2)], strides=[8, 16])


def two_stage(
    num_queries: int, *, sigmoid: bool = True, one_to_many: HybridMatching | None = None, **more: Any
) -> TwoStageQueries:
    torch.manual_seed(1)
    return TwoStageQueries(
        surroundings=Surroundings(3, sigmoid, one_to_many),
        box_coder=LogitBoxCoder(),
        num_queries=num_queries,
        **{"anchor_side": 0.25, "d_model": 16} | more,
    )


def logits_of(queries: TwoStageQueries, tokens: Tensor) -> Tensor:
    """[B, T, K] what the tokens propose."""
    return queries.class_head(Decoded(queries.token_head(tokens), torch.zeros(0)))


@pytest.mark.parametrize("sigmoid", [True, False])
@torch.no_grad()
def test_the_best_tokens_become_queries(sigmoid: bool) -> None:
    memory, queries = encoder_memory(), two_stage(6, sigmoid=sigmoid)
    chosen = queries(memory)
    tokens, logits = queries.token_head(memory.tokens), logits_of(queries, memory.tokens)
    score = logits.max(-1).values if sigmoid else logits[..., :-1].max(-1).values - logits[..., -1]
    boxes = chosen.groups["encoder"].outputs.boxes[0]
    for image in range(2):
        valid = (~memory.padding[image]).nonzero().flatten()
        best = valid[score[image, valid].argsort(descending=True)[:6]]
        torch.testing.assert_close(chosen.content[image], tokens[image, best])
        torch.testing.assert_close(chosen.reference[image].sigmoid(), boxes[image, best])


@torch.no_grad()
def test_padding_never_becomes_a_query() -> None:
    """However loudly it proposes; only where there are fewer other tokens than queries does it fill the rest."""
    memory = encoder_memory()
    valid = int((~memory.padding[1]).sum())
    queries = two_stage(valid)
    memory.tokens[memory.padding] = 0
    loudest = queries.token_head(memory.tokens)[memory.padding][0]
    queries.class_head.weight.copy_(loudest.expand(3, -1))  # padding has the highest scores of all
    scores = queries.objectness(logits_of(queries, memory.tokens))[1]
    assert scores.argmax() in memory.padding[1].nonzero()

    def from_padding(count: int) -> int:
        content = two_stage_with(queries, count)(memory).content[1]
        return int((content - loudest).abs().amax(-1).lt(1e-6).sum())

    assert from_padding(valid) == 0
    assert from_padding(valid + 3) == 3
    assert from_padding(1000) == 20 - valid  # as many queries as there are tokens


@torch.no_grad()
def test_the_border_proposes_last() -> None:
    """Of 4 × 4 tokens the inner four are further from the edges than 0.2, of 2 × 2 all."""
    reference = two_stage(8, border=0.2)(encoder_memory()).reference
    assert reference is not None
    centres = reference[0, :, :2].sigmoid()
    assert ((centres > 0.2) & (centres < 0.8)).all()
    reference = two_stage(9, border=0.2)(encoder_memory()).reference
    assert reference is not None
    centres = reference[0, :, :2].sigmoid()
    assert ((centres > 0.2) & (centres < 0.8)).all(-1).sum() == 8


@pytest.mark.parametrize("copies", [1, 2])
@torch.no_grad()
def test_no_object_is_matched_to_padding(copies: int) -> None:
    """Not even the one that lies at the image's edge, beside which padding begins."""
    memory = encoder_memory()
    groups = two_stage(5, copies=copies)(memory).groups
    boxes = [torch.tensor([[0.98, 0.4, 0.04, 0.3]])] * 2
    targets = Targets.of([torch.tensor([0])] * 2, boxes)
    nothing = Predictions(torch.zeros(1, 2, 5, 3), torch.full((1, 2, 5, 4), 0.5), groups=groups)
    matches = match(nothing, targets, "sigmoid")["encoder"]
    assert len(matches.query) == 2 * copies
    assert not memory.padding[matches.image, matches.query].any()


@torch.no_grad()
def test_the_chosen_proposals_alone_are_supervised() -> None:
    memory = encoder_memory()
    everything = two_stage(5)(memory).groups["encoder"].outputs
    queries = two_stage(5, supervised="chosen")(memory)
    chosen = queries.groups["encoder"].outputs
    assert queries.reference is not None
    torch.testing.assert_close(chosen.boxes[0], queries.reference.sigmoid())
    best = everything.logits[0].max(-1).values.masked_fill(memory.padding, -torch.inf).topk(5).values
    torch.testing.assert_close(chosen.logits[0].max(-1).values, best)


@torch.no_grad()
def test_distinct_queries_repeat_no_box() -> None:
    """The four coarse anchors are made one box: the surest of them is chosen as it were, the others come last."""
    memory, queries = encoder_memory(padded_columns=0), two_stage(17, distinct=0.8)
    score = queries.objectness(logits_of(queries, memory.tokens))
    boxes = queries.anchors(memory).sigmoid()
    boxes[:, 16:] = boxes[:, 16:17]
    logits = logits_of(queries, memory.tokens)
    best = queries.best(queries.scores(logits, boxes, memory.padding))
    for image in range(2):
        surest = 16 + int(score[image, 16:].argmax())
        distinct = [*range(16), surest]
        expected = sorted(distinct, key=lambda token: -score[image, token])
        assert best[image].tolist() == expected
    queries.num_queries = 20
    everything = queries.best(queries.scores(logits, boxes, memory.padding))
    assert sorted(everything[0].tolist()) == list(range(20))


@torch.no_grad()
def test_padding_comes_behind_what_is_repeated() -> None:
    memory, queries = encoder_memory(), two_stage(20, distinct=0.8)
    boxes = torch.full((2, 20, 4), 0.5)  # all alike
    best = queries.best(queries.scores(torch.randn(2, 20, 3), boxes, memory.padding))[1]
    valid = int((~memory.padding[1]).sum())
    assert not memory.padding[1, best[:valid]].any()


def two_stage_with(queries: TwoStageQueries, count: int) -> TwoStageQueries:
    queries.num_queries = count
    return queries


@torch.no_grad()
def test_anchors_lie_at_their_tokens() -> None:
    """Relative to the unpadded image: image 0 is 4 × 4 tokens, image 1 only 2 columns wide."""
    boxes = two_stage(5).anchors(encoder_memory()).sigmoid()
    torch.testing.assert_close(boxes[0, 5], torch.tensor([0.375, 0.375, 0.25, 0.25]))  # row 1, column 1 of 4 × 4
    torch.testing.assert_close(boxes[1, 5], torch.tensor([0.75, 0.375, 0.25, 0.25]))
    torch.testing.assert_close(boxes[0, 17], torch.tensor([0.75, 0.25, 0.5, 0.5]))  # row 0, column 1 of 2 × 2


def test_anchors_are_detached_from_the_proposals_and_content_is_not() -> None:
    chosen = two_stage(5)(encoder_memory())
    assert chosen.content.requires_grad
    assert not chosen.reference.requires_grad  # type: ignore[union-attr]
    assert chosen.groups["encoder"].outputs.boxes.requires_grad


@pytest.mark.parametrize(
    "options",
    [{"anchor_side": 1.0}, {"copies": 0}, {"num_queries": 0}, {"border": 0.5}, {"distinct": 1.0}, {"weight": -1}],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        two_stage(**({"num_queries": 5} | options))


@torch.no_grad()
def test_mixed_selection_takes_anchors_only() -> None:
    """Content is the same for every image, anchors are not; as many queries as without it, of the same tokens."""
    memory = encoder_memory()
    mixed = two_stage(5, content="learned")
    chosen, plain = mixed(memory), two_stage(5)(memory)
    assert chosen.reference is not None
    torch.testing.assert_close(chosen.reference, plain.reference)
    assert mixed.content is not None
    torch.testing.assert_close(chosen.content, mixed.content.weight.expand(2, -1, -1))


@torch.no_grad()
def test_class_agnostic_proposals() -> None:
    for sigmoid, columns in ((True, 1), (False, 2)):
        proposals = two_stage(5, class_agnostic=True, sigmoid=sigmoid)(encoder_memory()).groups["encoder"]
        assert proposals.class_agnostic
        assert proposals.outputs.logits.shape[-1] == columns


@torch.no_grad()
def test_distinct_queries_are_the_same_with_extra_ones() -> None:
    """Where all boxes are alike, too: then the second is the first behind those that are looked through."""
    memory, queries = encoder_memory(padded_columns=0), two_stage(2, distinct=0.8, one_to_many=HybridMatching())
    logits, alike = torch.randn(2, 20, 3), torch.full((2, 20, 4), 0.5)
    training = queries.train().best(queries.scores(logits, alike, memory.padding))
    evaluation = queries.eval().best(queries.scores(logits, alike, memory.padding))
    assert evaluation.shape == (2, 2)
    assert torch.equal(training[:, :2], evaluation)
    order = logits.max(-1).values.argsort(1, descending=True)
    assert torch.equal(evaluation, order[:, [0, 8]])


@torch.no_grad()
def test_extra_queries_take_the_next_tokens() -> None:
    """The queries that count are the same with and without; where tokens run out, the others go round."""
    memory, extra = encoder_memory(), HybridMatching(num_queries=30)
    queries = two_stage(5, one_to_many=extra)
    training, evaluation = queries.train()(memory), queries.eval()(memory)
    assert (len(training), len(evaluation)) == (35, 5)
    torch.testing.assert_close(training.content[:, :5], evaluation.content)
    torch.testing.assert_close(training.content[:, 20:25], evaluation.content)
    assert not torch.equal(training.content[:, 5:10], evaluation.content)
