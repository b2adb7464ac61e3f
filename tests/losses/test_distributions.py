"""D-FINE's and DEIM's losses against the authors' formulas, written out an image, a query and an edge at a time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import CLASSES, match, matched, random_boxes, random_predictions, random_targets
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from detr.errors import UserError
from detr.losses.criterion import SetCriterion
from detr.losses.distributions import DistributionDistillation, FineGrainedLocalization
from detr.losses.matchability import Matchability
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, GIoU, Varifocal
from detr.losses.union import union
from detr.models.distribution import between_bins, bin_values, moved, movement
from detr.structures import Group, Losses, Matches, Normalizer, Predictions, Targets

BINS, REACH, SCALE = 8, 0.5, 4.0  # bins, `up` and `reg_scale` of the authors
LAYERS, QUERIES, COUNTS = 3, 8, [3, 0, 2]


def authors_bins() -> list[float]:
    """W(n) in the authors' units, quarters of a side."""
    most = REACH * SCALE
    step = (most + 1) ** (2 / (BINS - 2))
    right = [step**i - 1 for i in range(1, BINS // 2)]
    return [-2 * most, *(-value for value in reversed(right)), 0.0, *right, 2 * most]


VALUES = bin_values(BINS, torch.tensor([REACH]).double(), torch.tensor([1 / SCALE]).double())


def test_bins() -> None:
    torch.testing.assert_close(VALUES, torch.tensor(authors_bins()).double() / SCALE)
    assert VALUES[[0, 1, -2, -1]].tolist() == pytest.approx([-1, -0.5, 0.5, 1])  # 2a and a


def test_boxes_of_distributions_and_back() -> None:
    """The authors' distances are from the centre: half a side, and what the distribution adds."""
    torch.manual_seed(0)
    reference = random_boxes(5, torch.Generator().manual_seed(0)).double()
    distributions = 2 * torch.randn(5, 4, BINS + 1).double()
    boxes = moved(reference, distributions, VALUES)
    for (x, y, w, h), edges, box in zip(reference.tolist(), distributions.softmax(-1).tolist(), boxes, strict=True):
        left, top, right, bottom = (
            0.5 * SCALE + sum(p * value for p, value in zip(edge, authors_bins(), strict=True)) for edge in edges
        )
        corners = [x - left * w / SCALE, y - top * h / SCALE, x + right * w / SCALE, y + bottom * h / SCALE]
        torch.testing.assert_close(box_convert(box, "cxcywh", "xyxy"), torch.tensor(corners).double())
    torch.testing.assert_close(movement(reference, boxes), distributions.softmax(-1) @ VALUES)
    inward = torch.zeros(1, 4, BINS + 1).double()
    inward[..., 0] = 99
    assert moved(reference[:1], inward, VALUES)[0, 2:].tolist() == [0, 0]


def test_places_lie_between_bins() -> None:
    places = torch.tensor([-7.0, -1.0, -0.9, 0.0, 0.25, 0.5, 1.0, 3.0]).double()
    left, share = between_bins(places, VALUES)
    mixed = (1 - share) * VALUES[left] + share * VALUES[left + 1]
    torch.testing.assert_close(mixed, places.clamp(-1, 1))
    assert left.tolist()[:3] == [0, 0, 0]
    assert left.tolist()[-2:] == [BINS - 1, BINS - 1]


def pairs(image: list[int], query: list[int], target: list[int]) -> Matches:
    layer = torch.zeros(len(image), dtype=torch.long)
    return Matches(layer, torch.tensor(image), torch.tensor(query), torch.tensor(target), 1)


def test_the_union_of_matchings() -> None:
    """A query has one object, the one that it has most often; an object may have several queries."""
    found = union(
        [pairs([0, 0, 1], [4, 2, 4], [0, 1, 2]), pairs([0, 0, 1], [2, 3, 0], [0, 1, 2]), pairs([0], [4], [0])]
    )
    answers = zip(found.image.tolist(), found.query.tolist(), found.target.tolist(), strict=True)
    assert list(answers) == [(0, 2, 0), (0, 3, 1), (0, 4, 0), (1, 0, 2), (1, 4, 2)]
    often = union([pairs([0], [2], [0]), *[pairs([0], [2], [1])] * 2])
    assert often.target.tolist() == [1]
    assert len(union([pairs([], [], [])])) == 0


def distributed_boxes(images: int, queries: int, seed: int, layers: int = LAYERS) -> Predictions:
    """What a decoder says that has distributions: boxes follow from them."""
    generator = torch.Generator().manual_seed(seed)
    reference = random_boxes(images * queries, generator).double().view(images, queries, 4)
    distributions = torch.randn(layers, images, queries, 4, BINS + 1, generator=generator).double().requires_grad_()
    logits = (2 * torch.randn(layers, images, queries, CLASSES, generator=generator)).double().requires_grad_()
    extras = {
        "distributions": distributions,
        "reference": reference.expand(layers, -1, -1, -1),
        "bins": VALUES.expand(layers, images, queries, -1),
    }
    return Predictions(logits, moved(reference, distributions, VALUES), extras)


def in_double(predictions: Predictions) -> Predictions:
    return predictions.map(lambda value: value.detach().double().requires_grad_())


def everything(counts: list[int], groups: int = 2) -> tuple[Predictions, Targets]:
    """Two copies of each object are denoising queries, in a group of as many as the fullest image has objects."""
    images, largest = len(counts), max(1, *counts)
    targets = random_targets(counts)
    targets = replace(targets, boxes=targets.boxes.double())
    predictions = distributed_boxes(images, QUERIES, seed=0)
    places = torch.cat([torch.arange(count) for count in counts])
    known = pairs(
        targets.image.repeat(groups).tolist(),
        (torch.arange(groups)[:, None] * largest + places).flatten().tolist(),
        torch.arange(len(targets)).repeat(groups).tolist(),
    )
    denoising = Group(matches=known, parts=groups)
    single = {"images": images, "logits": CLASSES, "layers": 1}
    predictions.groups = {
        "encoder": Group(in_double(random_predictions(**single, queries=QUERIES, seed=2)), earlier=True),
        "denoising": denoising.of(distributed_boxes(images, groups * largest, seed=1)),
        "denoising_preliminary": denoising.of(
            in_double(random_predictions(**single, queries=groups * largest, seed=4))
        ),
        "preliminary": Group(in_double(random_predictions(**single, queries=QUERIES, seed=3)), earlier=True),
    }
    return predictions, targets


def criterion(**changes: Any) -> SetCriterion:
    terms = {
        "class": Varifocal(),
        "bbox": L1(),
        "giou": GIoU(),
        "fgl": FineGrainedLocalization(),
        "ddf": DistributionDistillation(),
    }
    matcher = HungarianMatcher(classification="sigmoid", cost_class=2)
    return SetCriterion(
        **{"matcher": matcher, "terms": terms, "classification": "sigmoid", "unite_matches": True} | changes
    )


def losses(predictions: Predictions, targets: Targets, **changes: Any) -> Losses:
    ours = criterion(**changes)
    normalizer = ours.normalizer(objects=len(targets), images=len(targets.counts), micro_batches=1, processes=1)
    return ours(predictions, targets, normalizer)


Answers = dict[tuple[int, int], int]  # (image, query) → object


def answers_of(matches: Matches, layer: int) -> Answers:
    rows = zip(*(each.tolist() for each in (matches.layer, matches.image, matches.query, matches.target)), strict=True)
    return {(image, query): target for own, image, query, target in rows if own == layer}


def united(matchings: list[Answers]) -> Answers:
    counts = Counter(pair for matching in matchings for pair in matching.items())
    found: Answers = {}
    for (place, target), _ in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        found.setdefault(place, target)
    return found


def overlap(box: Tensor, target: Tensor) -> Tensor:
    return box_iou(*(box_convert(each, "cxcywh", "xyxy")[None] for each in (box, target)))[0, 0].detach()


def class_loss(said: Predictions, layer: int, answers: Answers, targets: Targets, objects: float) -> Tensor:
    """The varifocal loss."""
    total = torch.zeros(()).double()
    for image, queries in enumerate(said.logits[layer]):
        for query, row in enumerate(queries):
            target = answers.get((image, query))
            for column, logit in enumerate(row):
                p = logit.sigmoid()
                if target is not None and column == targets.labels[target]:
                    quality = overlap(said.boxes[layer, image, query], targets.boxes[target])
                    total -= quality * (quality * p.log() + (1 - quality) * (1 - p).log())
                else:
                    total -= 0.75 * p.detach() ** 2 * (1 - p).log()
    return total / objects


def box_losses(said: Predictions, layer: int, answers: Answers, targets: Targets, objects: float) -> list[Tensor]:
    distance = giou = torch.zeros(()).double()
    for (image, query), target in answers.items():
        box, wanted = said.boxes[layer, image, query], targets.boxes[target]
        distance = distance + 5 * (box - wanted).abs().sum()
        corners = (box_convert(each, "cxcywh", "xyxy")[None] for each in (box, wanted))
        giou = giou + 2 * (1 - generalized_box_iou(*corners)[0, 0])
    return [distance / objects, giou / objects]


def localization(said: Predictions, layer: int, answers: Answers, targets: Targets, objects: float) -> Tensor:
    """FGL, in the authors' units: distances from the centre in quarters of a side, less half a side."""
    total = torch.zeros(()).double()
    for (image, query), target in answers.items():
        x, y, w, h = said.extras["reference"][layer, image, query].tolist()
        left, top, right, bottom = box_convert(targets.boxes[target], "cxcywh", "xyxy").tolist()
        for edge, (distance, side) in enumerate([(x - left, w), (y - top, h), (right - x, w), (bottom - y, h)]):
            place = distance / (side / SCALE) - 0.5 * SCALE
            below = [n for n, value in enumerate(authors_bins()) if value <= place]
            n = min(len(below) - 1, BINS - 1) if below else 0
            first, second = authors_bins()[n : n + 2]
            share = min(1.0, max(0.0, (place - first) / (second - first)))
            log_p = said.extras["distributions"][layer, image, query, edge].log_softmax(-1)
            quality = overlap(said.boxes[layer, image, query], targets.boxes[target])
            total = total - 0.15 * quality * ((1 - share) * log_p[n] + share * log_p[n + 1])
    return total / objects


def distillation(said: Predictions, layer: int, answers: Answers, targets: Targets, balance: list[int]) -> Tensor:
    """DDF; `balance` is how many of the queries that count answer for an object, and how many do not."""
    kinds: list[list[Tensor]] = [[], []]
    for image in range(said.logits.shape[1]):
        for query in range(said.logits.shape[2]):
            target = answers.get((image, query))
            if target is None:
                trust = said.logits[-1, image, query].sigmoid().max().detach()
            else:
                trust = overlap(said.boxes[layer, image, query], targets.boxes[target])
            for edge in range(4):
                teacher = (said.extras["distributions"][-1, image, query, edge].detach() / 5).softmax(-1)
                student = (said.extras["distributions"][layer, image, query, edge] / 5).softmax(-1)
                divergence = (teacher * (teacher.log() - student.log())).sum()
                kinds[target is None].append(25 * trust * divergence)
    means = [torch.stack(kind).mean() if kind else torch.zeros(()) for kind in kinds]
    first, second = (math.sqrt(each) for each in balance)
    return 1.5 * (first * means[0] + second * means[1]) / (first + second)


def written_out(predictions: Predictions, targets: Targets) -> dict[str, list[Tensor]]:
    """The terms of every group and layer."""
    groups = predictions.supervised()
    matches = HungarianMatcher(classification="sigmoid", cost_class=2)(groups, targets)
    own = {
        name: [answers_of(matches[name], layer) for layer in range(len(group.outputs.logits))]
        for name, group in groups.items()
    }
    union = united([each for name in ("", "encoder", "preliminary") for each in own[name]])
    total = predictions.logits.shape[1] * predictions.logits.shape[2]
    balance = [len(union), total - len(union)]
    found: dict[str, list[Tensor]] = {}
    for name, group in groups.items():
        said, counts = group.outputs, name in ("", "encoder", "preliminary")
        objects = max(1, len(targets)) * group.parts
        boxed = max(1, len(union)) if counts else objects
        for layer, answers in enumerate(own[name]):
            of_boxes = union if counts else answers
            values = {"class": class_loss(said, layer, answers, targets, objects)}
            values |= zip(("bbox", "giou"), box_losses(said, layer, of_boxes, targets, boxed), strict=True)
            if said.extras:
                values["fgl"] = localization(said, layer, of_boxes, targets, boxed)
                last = layer == len(own[name]) - 1
                ddf = distillation(said, layer, of_boxes, targets, balance)
                values["ddf"] = torch.zeros(()).double() if last else ddf
            for term, value in values.items():
                found.setdefault(f"{name}/{term}" if name else term, []).append(value)
    return found


@pytest.mark.parametrize("counts", [COUNTS, [1], [0, 0]])
def test_all_terms_and_gradients(counts: list[int]) -> None:
    predictions, targets = everything(counts)
    if not any(counts):  # DN-DETR's code has no denoising then; ours has queries that stand for no object
        del predictions.groups["denoising"], predictions.groups["denoising_preliminary"]
    found, expected = losses(predictions, targets), written_out(predictions, targets)
    assert found.terms.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found.terms[name], torch.stack(values), rtol=1e-9, atol=1e-12)
    outputs = [group.outputs for group in predictions.supervised().values()]
    leaves = [each.extras.get("distributions", each.boxes) for each in outputs] + [each.logits for each in outputs]
    total = torch.stack([value for values in expected.values() for value in values]).sum()
    mine = torch.autograd.grad(found.total, leaves, retain_graph=True)
    theirs = torch.autograd.grad(total, leaves, materialize_grads=True)
    for gradient, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


def test_queries_and_images_have_no_order() -> None:
    predictions, targets = everything(COUNTS)
    reversed_targets = Targets.of(
        list(reversed(targets.labels.split(targets.counts))),
        list(reversed(targets.boxes.split(targets.counts))),
    )
    predictions.groups = {name: predictions.groups[name] for name in ("encoder", "preliminary")}
    turned = predictions.map(lambda value: value.flip(1, 2))
    expected, found = losses(predictions, targets), losses(turned, reversed_targets)
    torch.testing.assert_close(found.terms, expected.terms)


def test_two_halves_are_a_batch() -> None:
    """Normalised globally, with as many pairs for each object in either half; what is distilled counts queries."""
    single, single_targets = everything([2])
    twice = single.map(lambda value: torch.cat([value, value], 1))
    twice.groups = {name: twice.groups[name] for name in ("encoder", "preliminary")}
    single.groups = {name: single.groups[name] for name in ("encoder", "preliminary")}
    targets = Targets.of([single_targets.labels] * 2, [single_targets.boxes] * 2)
    ours = criterion(normalization="global")
    normalizer = ours.normalizer(objects=4, images=2, micro_batches=2, processes=1)
    half = ours(single, single_targets, normalizer)
    whole = ours(twice, targets, replace(normalizer, micro_batches=1))
    torch.testing.assert_close(2 * half.total, whole.total)


@pytest.mark.parametrize("gamma", [1.5, 1.0])
def test_matchability(gamma: float) -> None:
    predictions, targets = random_predictions(3, logits=CLASSES), random_targets(COUNTS)
    matches = match(predictions, targets, "sigmoid")[""]
    found = Matchability(gamma=gamma)(matched(predictions, targets, Normalizer(objects=5, images=3), matches))
    for layer in range(2):
        answers, total = answers_of(matches, layer), 0.0
        for image in range(3):
            for query in range(predictions.logits.shape[2]):
                target = answers.get((image, query))
                for column, logit in enumerate(predictions.logits[layer, image, query].tolist()):
                    p = 1 / (1 + math.exp(-logit))
                    if target is not None and column == targets.labels[target]:
                        quality = overlap(predictions.boxes[layer, image, query], targets.boxes[target]).item() ** gamma
                        total -= quality * math.log(p) + (1 - quality) * math.log(1 - p)
                    else:
                        total -= p**gamma * math.log(1 - p)
        assert found[layer].item() == pytest.approx(total / 5, rel=1e-5)


def test_refused() -> None:
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        DistributionDistillation(temperature=0)
    with pytest.raises(ValueError, match="gamma: expected at least 0, got -1"):
        Matchability(gamma=-1)
    with pytest.raises(
        UserError, match=r"loss.terms.fgl needs distributions, which this transformer.decoder does not predict"
    ):
        losses(random_predictions(3, logits=CLASSES), random_targets(COUNTS))
