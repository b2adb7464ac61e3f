"""The matcher against the official code's formula, written out an image and a layer at a time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from builders import match, random_predictions, random_targets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from detr.losses.matcher import HungarianMatcher, NonFiniteError
from detr.structures import Classification, Group, Matches, Predictions, Targets

QUERIES = 9


def giou(first: list[float], second: list[float]) -> float:
    """Generalised IoU of two cxcywh boxes."""
    (l1, t1, r1, b1), (l2, t2, r2, b2) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (first, second)
    )
    inside = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - inside
    hull = (max(r1, r2) - min(l1, l2)) * (max(b1, b2) - min(t1, t2))
    return inside / union - (hull - union) / hull


def class_cost(logits: list[float], label: int, classification: Classification) -> float:
    if classification == "softmax":
        return -math.exp(logits[label]) / sum(map(math.exp, logits))
    p = 1 / (1 + math.exp(-logits[label]))
    return -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)


def reference_cost(
    predictions: Predictions, targets: Targets, layer: int, image: int, matcher: HungarianMatcher
) -> torch.Tensor:
    """[Q, n], by loops (facebookresearch/detr, models/matcher.py; for sigmoid Deformable DETR's)."""
    logits, boxes = (each[layer, image].tolist() for each in (predictions.logits, predictions.boxes))
    objects = (targets.image == image).nonzero().flatten().tolist()
    cost = torch.zeros(len(boxes), len(objects), dtype=torch.float64)
    close = [[(giou(box, targets.boxes[index].tolist()) + 1) / 2 for index in objects] for box in boxes]
    nearest = min(1.0, max((max(row) for row in close if row), default=1.0) + 1e-8)
    for query, box in enumerate(boxes):
        for column, index in enumerate(objects):
            wanted, label = targets.boxes[index].tolist(), int(targets.labels[index])
            if matcher.position_power:
                p = (close[query][column] / nearest) ** matcher.position_power / (1 + math.exp(-logits[query][label]))
                of_class = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)
            else:
                of_class = class_cost(logits[query], label, matcher.classification)
            cost[query, column] = (
                matcher.cost_class * of_class
                + matcher.cost_bbox * sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
                - matcher.cost_giou * giou(box, wanted)
            )
    return cost


def pairs(matches: Matches) -> set[tuple[int, int, int, int]]:
    columns = (matches.layer, matches.image, matches.query, matches.target)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


def reference_pairs(
    predictions: Predictions, targets: Targets, matcher: HungarianMatcher
) -> set[tuple[int, int, int, int]]:
    found = set()
    for layer in range(len(predictions.logits)):
        for image in range(len(targets.counts)):
            objects = (targets.image == image).nonzero().flatten().tolist()
            queries, columns = linear_sum_assignment(reference_cost(predictions, targets, layer, image, matcher))
            found |= {(layer, image, int(q), objects[c]) for q, c in zip(queries, columns, strict=True)}
    return found


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, QUERIES + 3), min_size=1, max_size=3),
    classification=st.sampled_from(["softmax", "sigmoid"]),
    weights=st.sampled_from([(1.0, 5.0, 2.0), (2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 3.0)]),
    power=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_written_out_formula(
    counts: list[int], classification: Classification, weights: tuple[float, float, float], power: float, seed: int
) -> None:
    """Also without any object, and with more objects than queries."""
    predictions = random_predictions(len(counts), queries=QUERIES, seed=seed)
    targets = random_targets(counts, seed=seed)
    matcher = HungarianMatcher(
        classification=classification,
        cost_class=weights[0],
        cost_bbox=weights[1],
        cost_giou=weights[2],
        position_power=power if classification == "sigmoid" else 0.0,
    )
    costs = matcher.costs(predictions, targets)
    for layer in range(2):
        for image, count in enumerate(counts):
            expected = reference_cost(predictions, targets, layer, image, matcher)
            torch.testing.assert_close(costs[layer, image, :, :count].double(), expected, rtol=1e-4, atol=1e-5)
    found = pairs(matcher(predictions.supervised(), targets)[""])
    assert len(found) == 2 * sum(min(count, QUERIES) for count in counts)
    # Equal costs leave a choice; the sum that SciPy finds on the formula's costs leaves none.
    reference = reference_pairs(predictions, targets, matcher)
    assert total(found, costs, targets) == pytest.approx(total(reference, costs, targets), rel=1e-5, abs=1e-5)


def total(rows: set[tuple[int, int, int, int]], costs: torch.Tensor, targets: Targets) -> float:
    """What an assignment costs, by costs [L, B, Q, n]."""
    starts = [sum(targets.counts[:image]) for image in range(len(targets.counts))]
    return sum(costs[layer, image, query, target - starts[image]].item() for layer, image, query, target in rows)


def test_every_query_and_object_is_matched_once() -> None:
    predictions, targets = random_predictions(3, queries=QUERIES), random_targets([4, 0, QUERIES])
    matches = match(predictions, targets)[""]
    rows = pairs(matches)
    assert len({(layer, image, query) for layer, image, query, _ in rows}) == len(rows)
    assert Counter(target for *_, target in rows) == dict.fromkeys(range(len(targets)), 2)  # once in each layer
    assert torch.equal(targets.image[matches.target], matches.image)


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_copies(copies: int) -> None:
    predictions, targets = random_predictions(2, queries=12), random_targets([3, 1])
    predictions.groups["many"] = Group(random_predictions(2, queries=12, layers=1, seed=5), copies=copies)
    groups = match(predictions, targets)
    assert pairs(groups[""]) == reference_pairs(predictions, targets, HungarianMatcher())
    rows = pairs(groups["many"])
    assert Counter(target for *_, target in rows) == dict.fromkeys(range(4), copies)
    assert len({row[:3] for row in rows}) == len(rows)


def test_copies_are_the_cheapest_assignment() -> None:
    """As many copies of each object, written out as further objects, cost the same."""
    targets, copies = random_targets([3]), 3
    group = random_predictions(1, queries=12, layers=1)
    predictions = replace(random_predictions(1), groups={"many": Group(group, copies=copies)})
    matcher = HungarianMatcher()
    rows = pairs(matcher(predictions.supervised(), targets)["many"])
    costs = reference_cost(group, targets, 0, 0, matcher)
    best = costs.repeat(1, copies).numpy()
    expected = best[linear_sum_assignment(best)].sum()
    assert sum(costs[query, target].item() for _, _, query, target in rows) == pytest.approx(expected)


def test_more_copies_than_queries() -> None:
    predictions = replace(random_predictions(1), groups={"many": Group(random_predictions(1, queries=5), copies=4)})
    rows = pairs(match(predictions, random_targets([3]))["many"])
    assert {row[:3] for row in rows} == {(layer, 0, query) for layer in range(2) for query in range(5)}


def test_groups_with_known_matches_are_left_alone() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    predictions = random_predictions(2)
    known = Matches(empty, empty, empty, empty, layers=2)
    predictions.groups["denoising"] = Group(random_predictions(2, seed=1), matches=known)
    assert match(predictions, random_targets([1, 1]))["denoising"] is known


def test_matches_come_layer_by_layer() -> None:
    """Also of groups in parts; so the last layer's are found without looking at them."""
    targets = random_targets([3, 0, 1])
    predictions = random_predictions(3, queries=12, layers=3)
    predictions.groups["parts"] = Group(random_predictions(3, queries=12, layers=3, seed=2), parts=3, copies=2)
    for matches in match(predictions, targets).values():
        assert matches.layer.tolist() == sorted(matches.layer.tolist())
        last = matches.layer == 2
        alone = matches.of_last_layer()
        assert pairs(alone) == {(0, *row[1:]) for row in pairs(matches) if row[0] == 2}
        assert len(alone) == int(last.sum())


def test_permuting_images_and_queries() -> None:
    predictions, counts = random_predictions(3, queries=QUERIES), [4, 0, 2]
    targets = random_targets(counts)
    expected = pairs(match(predictions, targets)[""])

    images, queries = [2, 0, 1], torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    permuted = Predictions(predictions.logits[:, images][:, :, queries], predictions.boxes[:, images][:, :, queries])
    labels, boxes = targets.labels.split(counts), targets.boxes.split(counts)
    moved = Targets.of([labels[i] for i in images], [boxes[i] for i in images])
    original = torch.cat([torch.arange(6)[targets.image == i] for i in images]).tolist()
    found = pairs(match(permuted, moved)[""])
    assert {(layer, images[i], int(queries[q]), original[t]) for layer, i, q, t in found} == expected


def test_half_precision_is_matched_in_fp32() -> None:
    predictions, targets = random_predictions(2), random_targets([3, 2])
    half = Predictions(predictions.logits.bfloat16(), predictions.boxes.bfloat16())
    costs = HungarianMatcher().costs(half, targets)
    assert costs.dtype == torch.float32
    rounded = Predictions(half.logits.float(), half.boxes.float())
    torch.testing.assert_close(costs, HungarianMatcher().costs(rounded, targets), rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["logits", "boxes"])
def test_not_finite_names_the_image(field: str, value: float) -> None:
    predictions, targets = random_predictions(3), random_targets([2, 1, 2])
    with torch.no_grad():
        getattr(predictions, field)[0, 2, 3, 1] = value
    with pytest.raises(NonFiniteError) as error:
        match(predictions, targets)
    assert error.value.images == [2]


@pytest.mark.parametrize("weights", [{"cost_class": 0, "cost_bbox": 0, "cost_giou": 0}, {"cost_giou": -1}])
def test_senseless_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cost_giou"):
        HungarianMatcher(**weights)
