"""Denoising and one-to-many queries: what they are, and that the queries that count never learn of them."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from builders import CLASSES, match, random_images, random_targets, tiny_detr
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy
from detr.losses.criterion import SetCriterion
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, Focal, GIoU
from detr.models.box_coder import LogitBoxCoder
from detr.models.denoising import ContrastiveDenoising, Denoising
from detr.models.detr import DETR
from detr.models.groups import GroupMatching, HybridMatching, append
from detr.models.structures import QuerySet
from detr.structures import Group, Normalizer, Predictions, Targets

DENOISING = {
    "dn": functools.partial(Denoising, groups=3),
    "contrastive": functools.partial(ContrastiveDenoising, num_queries=9),
}
ONE_TO_MANY = {"hybrid": HybridMatching(num_queries=11, copies=3), "group": GroupMatching(groups=3)}
QUERIES = 7
CODER = LogitBoxCoder()


def detector(
    denoising: str | None = None,
    one_to_many: str | None = None,
    queries: Any = "anchors",
    transformer: Any = "standard",
) -> DETR:
    return tiny_detr(
        queries=queries,
        transformer=transformer,
        classification="sigmoid",
        num_queries=QUERIES,
        denoising=None if denoising is None else DENOISING[denoising],
        one_to_many=None if one_to_many is None else ONE_TO_MANY[one_to_many],
    ).train()


@pytest.mark.parametrize("transformer", ["standard", "dab", "deformable"])
@pytest.mark.parametrize("queries", ["anchors", "two_stage"])
@pytest.mark.parametrize("one_to_many", [None, "hybrid"])
@pytest.mark.parametrize("denoising", ["dn", "contrastive"])
@torch.no_grad()
def test_the_ground_truth_does_not_leak(
    denoising: str, one_to_many: str | None, queries: str, transformer: str
) -> None:
    """Other objects, or none: what the matching queries say stays what it is; what the noisy ones say does not."""
    model = detector(denoising, one_to_many, queries, transformer)
    batch = random_images([(64, 96), (96, 64)])
    first = model(*batch, random_targets([3, 2], seed=1))
    for other in (random_targets([3, 2], seed=2), random_targets([1, 5], seed=3), random_targets([0, 0])):
        second = model(*batch, other)
        torch.testing.assert_close(first.logits, second.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(first.boxes, second.boxes, rtol=1e-5, atol=1e-5)
        if other.counts == [3, 2]:
            noisy = [each.groups["denoising"].outputs.logits for each in (first, second)]
            assert (noisy[0] - noisy[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("queries", "transformer"),
    [
        ("learned", "standard"),
        ("learned", "deformable"),
        *itertools.product(("anchors", "two_stage"), ("standard", "dab", "deformable")),
    ],
)
@pytest.mark.parametrize("one_to_many", ["hybrid", "group"])
@torch.no_grad()
def test_further_queries_change_nothing_in_evaluations(one_to_many: str, queries: str, transformer: str) -> None:
    """The queries that count say the same while training, where the others are there, and in evaluations."""
    model = detector(None, one_to_many, queries, transformer)
    batch = random_images([(64, 96), (96, 64)])
    training = model(*batch)
    evaluation = model.eval()(*batch)
    assert set(training.groups) - set(evaluation.groups) == {"one_to_many"}
    assert training.logits.shape == evaluation.logits.shape
    torch.testing.assert_close(training.logits, evaluation.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(training.boxes, evaluation.boxes, rtol=1e-5, atol=1e-5)
    extra = 11 if one_to_many == "hybrid" else 2 * QUERIES
    assert training.groups["one_to_many"].outputs.logits.shape[2] == extra


@torch.no_grad()
def test_masks_are_of_the_queries_that_count() -> None:
    """Groups stand behind them: the same masks with and without."""
    model = tiny_detr(
        queries="two_stage",
        classification="sigmoid",
        masks=True,
        denoising=DENOISING["contrastive"],
        one_to_many=ONE_TO_MANY["hybrid"],
    )
    batch, image, query = random_images([(64, 96), (96, 64)]), torch.tensor([0, 1]), torch.tensor([QUERIES - 1, 0])
    evaluation, training = model(*batch).masks, model.train()(*batch, random_targets([3, 1])).masks
    torch.testing.assert_close(evaluation(image, query), training(image, query), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_groups_do_not_see_each_other() -> None:
    """Of Group DETR: moving the anchors of the second group leaves the first and the third where they are."""
    model = detector(None, "group")
    batch = random_images([(64, 96)])
    before = model(*batch)
    model.queries.anchors.weight[QUERIES : 2 * QUERIES] += 1
    after = model(*batch)
    torch.testing.assert_close(before.boxes, after.boxes, rtol=1e-5, atol=1e-5)
    moved, still = (
        [each.groups["one_to_many"].outputs.boxes[:, :, rows] for each in (before, after)]
        for rows in (slice(0, QUERIES), slice(QUERIES, None))
    )
    assert (moved[0] - moved[1]).abs().max() > 1e-2
    torch.testing.assert_close(still[0], still[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [[2, 1], [0, 0]])
@pytest.mark.parametrize("queries", ["anchors", "two_stage"])
@pytest.mark.parametrize("denoising", ["dn", "contrastive"])
@pytest.mark.parametrize("one_to_many", ["hybrid", "group"])
def test_every_parameter_takes_part(counts: list[int], queries: Any, denoising: str, one_to_many: str) -> None:
    model = detector(denoising, one_to_many, queries)
    targets = random_targets(counts)
    criterion = SetCriterion(
        matcher=HungarianMatcher(classification="sigmoid"),
        terms={"class": Focal(), "bbox": L1(), "giou": GIoU()},
        classification="sigmoid",
    )
    losses = criterion(
        model(*random_images([(64, 64), (48, 64)]), targets), targets, Normalizer(max(1, len(targets)), images=2)
    )
    losses.total.backward()
    assert losses.total.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", DENOISING)
def test_each_noisy_object_is_told_its_own(name: str) -> None:
    """Without noise, the query that is matched to an object has its class and its box; negatives have no match."""
    targets = random_targets([3, 0, 1])
    noiseless = DENOISING[name](num_classes=CLASSES, d_model=16, box_coder=CODER, label_noise=0.0, box_noise=0.0)
    queries = QuerySet(content=torch.zeros(3, 4, 16), reference=torch.zeros(3, 4, 4))
    after = noiseless(queries, targets, lambda reference: None)
    group = after.groups["denoising"]
    matches = group.matches
    assert matches is not None
    assert len(matches) == 4 * 3 == group.answers * len(targets)
    assert sorted(matches.target.tolist()) == sorted([0, 1, 2, 3] * 3)
    rows = group.queries.start + matches.query
    assert after.reference is not None
    torch.testing.assert_close(
        after.reference[matches.image, rows].sigmoid(), targets.boxes[matches.target], rtol=1e-4, atol=1e-5
    )
    expected = noiseless.content(targets.labels[matches.target])
    torch.testing.assert_close(after.content[matches.image, rows], expected)
    assert (
        len({(image, query) for image, query in zip(matches.image.tolist(), matches.query.tolist(), strict=True)}) == 12
    )
    size = 3 * (2 if name == "contrastive" else 1)
    assert after.content.shape[1] == 4 + 3 * size


def test_noise_of_dn() -> None:
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).repeat(4000, 1)
    noise = Denoising(num_classes=50, d_model=16, box_coder=CODER, label_noise=0.2, box_noise=0.4)
    noisy = noise.noisy_boxes(boxes, negative=False)
    shift, factor = (noisy[:, :2] - boxes[:, :2]).abs() / boxes[:, 2:], noisy[:, 2:] / boxes[:, 2:]
    assert 0.19 < shift.max() <= 0.2 + 1e-5
    assert 0.6 - 1e-5 <= factor.min() < 0.61
    assert 1.39 < factor.max() <= 1.4 + 1e-5
    flipped = (noise.noisy_labels(torch.full((4000,), 7)) != 7).float().mean()
    assert 0.16 < flipped < 0.24


def test_noise_of_contrastive() -> None:
    """Edges of positives move by less than half a side, of negatives by half a side to a whole one."""
    boxes = torch.tensor([0.5, 0.5, 0.1, 0.2]).repeat(4000, 1)
    noise = ContrastiveDenoising(num_classes=3, d_model=16, box_coder=CODER)
    corners, halves = cxcywh_to_xyxy(boxes), boxes[:, 2:].repeat(1, 2) / 2
    positive = (cxcywh_to_xyxy(noise.noisy_boxes(boxes, negative=False)) - corners) / halves
    assert 0.99 < positive.abs().max() <= 1 + 1e-4
    moved = (cxcywh_to_xyxy(noise.noisy_boxes(boxes, negative=True)) - corners) / halves
    upper, lower = moved[:, 1], moved[:, 3]
    outward = lower > 0  # the other edge cannot have passed it then
    assert 0.4 < outward.float().mean() < 0.6
    for edge in (lower[outward], upper[outward].abs()):
        assert 1 - 1e-4 <= edge.min() < 1.01
        assert 1.99 < edge.max() <= 2 + 1e-4


def test_number_of_contrastive_groups() -> None:
    noise = ContrastiveDenoising(num_classes=3, d_model=16, box_coder=CODER, num_queries=100)
    assert [noise.number_of_groups(count) for count in (1, 7, 100, 300)] == [100, 14, 1, 1]


def test_hybrid_matches_each_object_several_times() -> None:
    model = detector(None, "hybrid")
    targets = random_targets([2, 1])
    predictions = model(*random_images([(64, 64), (48, 64)]), targets)
    matches = match(predictions, targets, "sigmoid")["one_to_many"]
    counts = torch.bincount(matches.layer * 3 + matches.target, minlength=6)
    assert counts.tolist() == [3] * 6


def test_each_part_of_a_group_is_matched_on_its_own() -> None:
    """As if the parts were the predictions of detectors of their own."""
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(2, 2, 15, 3, generator=generator), torch.rand(2, 2, 15, 4, generator=generator)
    targets = random_targets([3, 2])
    empty = Predictions(logits[:, :, :5], boxes[:, :, :5])
    empty.groups = {"one_to_many": Group(Predictions(logits, boxes), parts=3)}
    together = match(empty, targets, "sigmoid")["one_to_many"]
    pairs = set(
        zip(*(x.tolist() for x in (together.layer, together.image, together.query, together.target)), strict=True)
    )
    expected = set()
    for part in range(3):
        rows = slice(5 * part, 5 * part + 5)
        alone = match(Predictions(logits[:, :, rows], boxes[:, :, rows]), targets, "sigmoid")[""]
        columns = (alone.layer, alone.image, alone.query + 5 * part, alone.target)
        expected |= set(zip(*(x.tolist() for x in columns), strict=True))
    assert pairs == expected
    assert len(together) == 2 * 3 * 5


def test_masks_of_appended_groups() -> None:
    def rows(count: int) -> QuerySet:
        return QuerySet(content=torch.zeros(1, count, 8), reference=torch.zeros(1, count, 4))

    queries = append(rows(2), "a", rows(2), Group(), sees_queries=False)
    mask = append(queries, "b", rows(1), Group(), sees_queries=True).attention_mask
    expected: Tensor = torch.tensor(
        [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [0, 0, 1, 1, 0]], dtype=torch.bool
    )
    assert mask is not None
    assert torch.equal(mask, expected)


def test_without_auxiliary_losses_groups_have_one_layer() -> None:
    model, targets = detector("dn", "hybrid"), random_targets([2, 1])
    criterion = SetCriterion(
        matcher=HungarianMatcher(classification="sigmoid"),
        terms={"bbox": L1()},
        classification="sigmoid",
        auxiliary=False,
    )
    losses = criterion(model(*random_images([(64, 64)] * 2), targets), targets, Normalizer(3, images=2))
    assert {name: len(value) for name, value in losses.terms.items()} == {
        "bbox": 1,
        "denoising/bbox": 1,
        "one_to_many/bbox": 1,
    }


def test_learned_queries_cannot_be_denoised() -> None:
    with pytest.raises(
        ValueError,
        match="denoising gives anchors, but the queries have positions alone",
    ):
        detector("dn", None, "learned")


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: Denoising(num_classes=3, box_coder=CODER, groups=0), "groups: expected at least 1, got 0"),
        (lambda: Denoising(num_classes=3, box_coder=CODER, box_noise=1.5), "box_noise: expected numbers from 0 to 1"),
        (
            lambda: ContrastiveDenoising(num_classes=3, box_coder=CODER, num_queries=0),
            "num_queries: expected at least 1",
        ),
        (lambda: Denoising(num_classes=3, box_coder=CODER, weight=-1), "weight: expected at least 0, got -1"),
        (lambda: HybridMatching(copies=0), "copies: expected at least 1"),
        (lambda: HybridMatching(weight=-1), "weight: expected at least 0, got -1"),
        (lambda: GroupMatching(groups=1), "one_to_many=none"),
    ],
)
def test_senseless_options_are_refused(build: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build()


def test_images_may_be_without_objects() -> None:
    """A batch without any object still has one group of queries, which stand for no object."""
    nothing = Targets.of([torch.zeros(0, dtype=torch.long)] * 2, [torch.zeros(0, 4)] * 2)
    queries = QuerySet(content=torch.zeros(2, 4, 16), reference=torch.zeros(2, 4, 4))
    after = Denoising(num_classes=3, d_model=16, box_coder=CODER, groups=2)(queries, nothing, lambda reference: None)
    assert len(after) == 4 + 2
    matches = after.groups["denoising"].matches
    assert matches is not None
    assert len(matches) == 0
