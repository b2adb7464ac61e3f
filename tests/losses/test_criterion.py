"""The criterion against the official SetCriterion, written out an image at a time; sums over micro-batches."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from builders import CLASSES, random_images, random_predictions, random_targets, tiny_detr
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from detr.losses.criterion import SetCriterion
from detr.losses.masks import Dice, MaskFocal
from detr.losses.matched import Matched
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, CrossEntropy, Focal, GIoU, Term
from detr.structures import Classification, Group, Matches, Normalizer, Predictions, Targets


def criterion(
    classification: Classification = "softmax",
    normalization: Literal["process", "global"] = "process",
    masks: bool = False,
    **more: Any,
) -> SetCriterion:
    return SetCriterion(
        matcher=HungarianMatcher(classification=classification),
        terms={
            "class": CrossEntropy() if classification == "softmax" else Focal(),
            "bbox": L1(weight=5),
            "giou": GIoU(weight=2),
        }
        | ({"mask": MaskFocal(), "dice": Dice()} if masks else {}),
        classification=classification,
        normalization=normalization,
        **more,
    )


def normalizer_of(*targets: Targets, normalization: Literal["process", "global"] = "process") -> Normalizer:
    """Of an optimizer step with these micro-batches."""
    objects, images = sum(map(len, targets)), sum(len(each.counts) for each in targets)
    return criterion(normalization=normalization).normalizer(
        objects=objects, images=images, micro_batches=len(targets), processes=1
    )


def official(logits: Tensor, boxes: Tensor, targets: Targets) -> dict[str, float]:
    """One layer of facebookresearch/detr's SetCriterion: logits [B, Q, K], boxes [B, Q, 4]."""
    labels, wanted = targets.labels.split(targets.counts), targets.boxes.split(targets.counts)
    classes = torch.full(logits.shape[:2], CLASSES)
    predicted, answers, right, objects = [], [], 0, max(1, sum(targets.counts))
    for image, (label, box) in enumerate(zip(labels, wanted, strict=True)):
        overlap = generalized_box_iou(*(box_convert(each, "cxcywh", "xyxy") for each in (boxes[image], box)))
        cost = 5 * torch.cdist(boxes[image], box, p=1) - logits[image].softmax(-1)[:, label] - 2 * overlap
        query, column = map(torch.as_tensor, linear_sum_assignment(cost))
        classes[image, query] = label[column]
        predicted.append(boxes[image, query])
        answers.append(box[column])
        right += int((logits[image, query].argmax(-1) == label[column]).sum())
    mine, theirs = torch.cat(predicted), torch.cat(answers)
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    giou = generalized_box_iou(*(box_convert(each, "cxcywh", "xyxy") for each in (mine, theirs))).diag()
    found = (logits.argmax(-1) != CLASSES).sum(1).float()
    return {
        "class": F.cross_entropy(logits.transpose(1, 2), classes, weight).item(),
        "bbox": 5 * F.l1_loss(mine, theirs, reduction="sum").item() / objects,
        "giou": 2 * (1 - giou).sum().item() / objects,
        "class_error": 100 - 100 * right / objects,
        "cardinality_error": F.l1_loss(found, torch.tensor(targets.counts).float()).item(),
    }


@pytest.mark.parametrize("counts", [[3, 0, 2], [1], [12, 2], [0, 4]])
def test_equals_the_official_criterion(counts: list[int]) -> None:
    """With empty images, and with more objects (12) than queries (9), where class_error is of those matched."""
    predictions, targets = random_predictions(len(counts), layers=3), random_targets(counts)
    losses = criterion()(predictions, targets, normalizer_of(targets))
    for layer in range(3):
        expected = official(predictions.logits[layer].detach(), predictions.boxes[layer].detach(), targets)
        for name in ("class", "bbox", "giou"):
            assert losses.terms[name][layer].item() == pytest.approx(expected[name], rel=1e-5)
        assert losses.metrics["cardinality_error"][layer].item() == pytest.approx(expected["cardinality_error"])
        if max(counts) <= 9:
            assert losses.metrics["class_error"][layer].item() == pytest.approx(expected["class_error"], abs=1e-3)
    assert losses.total.item() == pytest.approx(sum(term.sum().item() for term in losses.terms.values()))


def test_without_auxiliary_losses_only_the_last_layer_counts() -> None:
    predictions, targets = random_predictions(2, layers=3), random_targets([2, 1])
    every = criterion()(predictions, targets, normalizer_of(targets))
    last = criterion(auxiliary=False)(predictions, targets, normalizer_of(targets))
    for name, term in last.terms.items():
        torch.testing.assert_close(term, every.terms[name][-1:])
    last.total.backward()
    assert predictions.boxes.grad is not None
    assert predictions.boxes.grad[:2].abs().max() == 0
    assert predictions.boxes.grad[2].abs().max() > 0


def test_sigmoid_metrics() -> None:
    logits = torch.tensor([[[[2.0, 1.0, -1.0], [-1.0, -1.0, -2.0], [-3.0, 0.5, -1.0]]]])  # two queries say yes
    boxes = torch.full((1, 1, 3, 4), 0.5)
    targets = Targets.of([torch.tensor([1])], [torch.full((1, 4), 0.5)])
    losses = criterion("sigmoid")(Predictions(logits, boxes), targets, normalizer_of(targets))
    assert losses.metrics["cardinality_error"].tolist() == [1]
    # Cheapest for class 1 is the first query (logit 1), which says class 0 louder.
    assert losses.metrics["class_error"].tolist() == [100]


def test_groups_are_weighted_and_normalised_by_their_copies() -> None:
    targets, copies = random_targets([2, 1]), 3
    group = random_predictions(2, queries=20, layers=1, seed=1)
    predictions = replace(random_predictions(2), groups={"encoder": Group(group, copies=copies, weight=0.5)})
    losses = criterion()(predictions, targets, normalizer_of(targets))

    # The same objects written down three times, matched one-to-one.
    labels, boxes = targets.labels.split(targets.counts), targets.boxes.split(targets.counts)
    tripled = Targets.of([each.repeat(copies) for each in labels], [each.repeat(copies, 1) for each in boxes])
    expected = criterion()(group, tripled, normalizer_of(tripled))
    for name in ("class", "bbox", "giou"):
        torch.testing.assert_close(losses.terms[f"encoder/{name}"], 0.5 * expected.terms[name])
    alone = criterion()(replace(predictions, groups={}), targets, normalizer_of(targets))
    torch.testing.assert_close(losses.total, alone.total + 0.5 * expected.total)


@pytest.mark.parametrize("counts", [[2, 1], [0, 0]])
def test_known_matches_are_used(counts: list[int]) -> None:
    """Also when there are none of them, in a batch without objects."""
    targets = random_targets(counts)
    objects = torch.arange(len(targets))
    known = Matches(torch.zeros_like(objects), targets.image, objects, objects, layers=1)  # object i by query i
    group = random_predictions(2, layers=1, seed=1)
    predictions = replace(random_predictions(2), groups={"denoising": Group(group, matches=known)})
    losses = criterion()(predictions, targets, normalizer_of(targets))
    expected = 5 * (group.boxes[0, known.image, known.query] - targets.boxes).abs().sum() / max(1, len(targets))
    torch.testing.assert_close(losses.terms["denoising/bbox"], expected[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_fp32_losses(dtype: torch.dtype) -> None:
    full, targets = random_predictions(2), random_targets([3, 1])
    half = Predictions(full.logits.to(dtype), full.boxes.to(dtype))
    half.groups["encoder"] = Group(Predictions(half.logits, half.boxes))
    with torch.autocast("cpu", torch.bfloat16):  # nor does a surrounding autocast matter
        losses = criterion()(half, targets, normalizer_of(targets))
    rounded = Predictions(half.logits.float(), half.boxes.float())
    expected = criterion()(rounded, targets, normalizer_of(targets))
    for name, term in losses.terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected.terms[name.removeprefix("encoder/")], rtol=0, atol=0)


@pytest.mark.parametrize(("mean", "read"), [("softmax", "sigmoid"), ("sigmoid", "softmax")])
def test_a_mixture_of_softmax_and_sigmoid_is_refused(mean: Classification, read: Classification) -> None:
    term = {"softmax": CrossEntropy(), "sigmoid": Focal()}
    with pytest.raises(ValueError, match=r"terms\.class reads logits as"):
        SetCriterion(matcher=HungarianMatcher(classification=mean), terms={"class": term[read]}, classification=mean)
    with pytest.raises(ValueError, match="matcher reads logits as"):
        SetCriterion(matcher=HungarianMatcher(classification=read), terms={"class": term[mean]}, classification=mean)


@pytest.mark.parametrize("classification", ["softmax", "sigmoid"])
@pytest.mark.parametrize("counts", [([3, 0], [1, 2]), ([0, 0], [4, 0])])
def test_global_normalization_adds_up_over_micro_batches(
    classification: Classification, counts: tuple[list[int], list[int]]
) -> None:
    """Losses and gradients of two micro-batches are those of one batch: equal-sized images, no dropout."""
    loss = criterion(classification, "global")
    parts = [random_targets(each, seed=index) for index, each in enumerate(counts)]
    whole = random_targets_of(parts)
    images, padding = random_images([(48, 64)] * 4)
    small = tiny_detr(queries="two_stage", classification=classification).double()
    large = copy.deepcopy(small)
    for model in (small, large):
        model.train()
    step = normalizer_of(*parts, normalization="global")
    totals = []
    for part, pixels, mask in zip(parts, images.double().split(2), padding.split(2), strict=True):
        total = loss(small(pixels, mask), part, step).total
        total.backward()
        totals.append(total.item())
    expected = loss(large(images.double(), padding), whole, normalizer_of(whole, normalization="global")).total
    expected.backward()
    assert sum(totals) == pytest.approx(expected.item(), rel=1e-9)
    for (name, mine), theirs in zip(small.named_parameters(), large.parameters(), strict=True):
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)


def random_targets_of(parts: list[Targets]) -> Targets:
    """One batch of several."""
    return Targets.of(
        [label for part in parts for label in part.labels.split(part.counts)],
        [box for part in parts for box in part.boxes.split(part.counts)],
    )


def test_process_normalization_is_the_papers() -> None:
    """Cross-entropy is a mean over the micro-batch and then over micro-batches; boxes count over the whole step."""
    parts = [random_targets([3]), random_targets([0, 1], seed=1)]
    outputs = [random_predictions(len(part.counts), seed=index) for index, part in enumerate(parts)]
    losses = [criterion()(output, part, normalizer_of(*parts)) for output, part in zip(outputs, parts, strict=True)]
    alone = [criterion()(output, part, normalizer_of(part)) for output, part in zip(outputs, parts, strict=True)]
    for mine, own, part in zip(losses, alone, parts, strict=True):
        torch.testing.assert_close(mine.terms["class"], own.terms["class"] / 2)
        torch.testing.assert_close(mine.terms["bbox"], own.terms["bbox"] * len(part) / 4)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("counts", [[0, 0], [2, 0]])
@pytest.mark.parametrize(
    ("queries", "classification"),
    [("learned", "softmax"), ("anchors", "sigmoid"), ("two_stage", "sigmoid"), ("two_stage", "softmax")],
)
def test_every_trainable_parameter_gets_a_gradient(
    queries: Any, classification: Classification, counts: list[int], masks: bool
) -> None:
    """Not None, as DDP wants it, also when no image has an object."""
    model = tiny_detr(queries=queries, classification=classification, masks=masks).train()
    targets = random_targets(counts, masks=(64, 64) if masks else None)
    losses = criterion(classification, masks=masks)(
        model(*random_images([(64, 48), (40, 64)])), targets, normalizer_of(targets)
    )
    losses.total.backward()
    assert losses.total.isfinite()
    if not any(counts):
        for name, term in losses.terms.items():
            assert name.endswith("class") or term.abs().max() == 0
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


def test_class_agnostic_proposals_are_objects_whatever_their_class() -> None:
    """As proposals of a single class for objects of a single class, in matching and in losses."""
    targets = random_targets([3, 2])
    single = replace(targets, labels=torch.zeros_like(targets.labels))
    proposals = random_predictions(2, logits=1, layers=1, seed=5)
    decoded = random_predictions(2, logits=CLASSES)
    decoded.groups = {"encoder": Group(proposals, copies=2, class_agnostic=True)}
    agnostic = criterion("sigmoid")(decoded, targets, normalizer_of(targets)).terms
    expected = replace(random_predictions(2, logits=1), groups={"encoder": Group(proposals, copies=2)})
    wanted = criterion("sigmoid")(expected, single, normalizer_of(single)).terms
    for term in ("class", "bbox", "giou"):
        torch.testing.assert_close(agnostic[f"encoder/{term}"], wanted[f"encoder/{term}"])


class Agreement(Term):
    """How far the boxes of the first group are from those of the queries that count: a term that sees both."""

    of_groups = False
    last_layer_only = True

    def forward(self, matched: Matched) -> Tensor:
        other = matched.groups["encoder"]
        distance = (matched.predictions.extras["gate"].mean() - other.predictions.boxes.mean()).abs()
        return (distance * len(other.matches) / len(matched.matches)).reshape(1)


def test_a_term_may_see_all_groups_matches_and_extras() -> None:
    """Other layers of a term lose their rows without auxiliary losses, extras and groups included."""
    targets = random_targets([2, 1])
    predictions = random_predictions(2, layers=3)
    predictions.extras["gate"] = torch.rand(3, 2, 9, 5)
    predictions.groups = {"encoder": Group(random_predictions(2, layers=2, seed=1), copies=2)}
    for auxiliary in (True, False):
        loss = SetCriterion(matcher=HungarianMatcher(), terms={"agree": Agreement()}, auxiliary=auxiliary)
        losses = loss(predictions, targets, normalizer_of(targets))
        assert set(losses.terms) == {"agree"}
        rows = slice(None) if auxiliary else slice(-1, None)
        gate, boxes = predictions.extras["gate"][rows], predictions.groups["encoder"].outputs.boxes[rows]
        pairs = 2 * 2 / 3 if auxiliary else 2  # of two layers and two copies, of three layers and one
        torch.testing.assert_close(losses.total, (gate.mean() - boxes.mean()).abs() * pairs)


def test_normalizers_of_several_processes() -> None:
    """The paper counts at least one object a process; as one batch it is at least one in all of them."""
    paper, whole = (criterion(normalization=each) for each in ("process", "global"))
    step = {"images": 4, "micro_batches": 1, "processes": 2}
    assert paper.normalizer(objects=0, **step) == Normalizer(1, 2, 1, processes=2)
    assert whole.normalizer(objects=0, **step) == Normalizer(0.5, 2, 1, whole_step=True, processes=2)
    assert paper.normalizer(objects=6, **step).objects == whole.normalizer(objects=6, **step).objects == 3
