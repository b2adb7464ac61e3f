"""Post-processing against Hugging Face's, which is itself checked against the official code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr.evaluation.postprocess import postprocess
from detr.structures import Detections, Predictions

SIZES = torch.tensor([[480, 640], [333, 500], [1, 7]])  # height, width


def predictions(seed: int = 0, queries: int = 12, classes: int = 5, layers: int = 3) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    return Predictions(
        logits=3 * torch.randn(layers, len(SIZES), queries, classes, generator=generator),
        boxes=torch.rand(layers, len(SIZES), queries, 4, generator=generator),
    )


def last_layer(given: Predictions) -> SimpleNamespace:
    return SimpleNamespace(logits=given.logits[-1], pred_boxes=given.boxes[-1])


def assert_same(ours: Detections, theirs: dict[str, torch.Tensor]) -> None:
    order = theirs["scores"].argsort(descending=True, stable=True)
    torch.testing.assert_close(ours.scores, theirs["scores"][order])
    assert ours.labels.tolist() == theirs["labels"][order].tolist()
    torch.testing.assert_close(ours.boxes, theirs["boxes"][order])


def test_softmax_equals_hugging_face() -> None:
    from transformers import DetrImageProcessor

    given_ = predictions()
    theirs = DetrImageProcessor().post_process_object_detection(last_layer(given_), threshold=0, target_sizes=SIZES)
    ours = postprocess(given_, SIZES, classification="softmax")
    assert len(ours) == len(theirs) == len(SIZES)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine.scores) == 12
        assert_same(mine, other)


@pytest.mark.parametrize("count", [7, 60, 100])
def test_sigmoid_equals_hugging_face(count: int) -> None:
    from transformers import DeformableDetrImageProcessor

    given_ = predictions()
    theirs = DeformableDetrImageProcessor().post_process_object_detection(
        last_layer(given_), threshold=0, target_sizes=SIZES, top_k=count
    )
    ours = postprocess(given_, SIZES, classification="sigmoid", max_detections=count)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine.scores) == min(count, 60)
        assert_same(mine, other)


@pytest.mark.parametrize("classification", ["softmax", "sigmoid"])
def test_of_equal_scores_the_earlier_query_and_class_come_first(classification: Literal["softmax", "sigmoid"]) -> None:
    boxes = torch.rand(1, 1, 40, 4)
    flat = Predictions(logits=torch.zeros(1, 1, 40, 3), boxes=boxes)
    (detected,) = postprocess(flat, torch.tensor([[1, 1]]), classification=classification, max_detections=120)
    per_query = 1 if classification == "softmax" else 3
    assert detected.labels.tolist() == [0] * 40 if per_query == 1 else [0, 1, 2] * 40
    centres = (detected.boxes[:, :2] + detected.boxes[:, 2:]) / 2
    torch.testing.assert_close(centres, boxes[0, 0, :, :2].repeat_interleave(per_query, dim=0))


def test_the_no_object_class_never_answers_softmax_but_sigmoid_has_none() -> None:
    given_ = predictions()
    given_.logits[..., -1] = 50.0
    softmax = postprocess(given_, SIZES, classification="softmax")
    sigmoid = postprocess(given_, SIZES, classification="sigmoid")
    assert all(4 not in detected.labels and detected.scores.max() < 1e-6 for detected in softmax)
    assert all(detected.labels[0] == 4 for detected in sigmoid)


def test_half_precision_outputs_give_float_boxes() -> None:
    """fp16 would round pixels above 2048 to even ones."""
    given_ = predictions()
    half = Predictions(logits=given_.logits.half(), boxes=given_.boxes.half())
    for detected in postprocess(half, SIZES * 10, classification="softmax"):
        assert detected.boxes.dtype == detected.scores.dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    queries=st.integers(0, 9),
    classes=st.integers(2, 6),
    classification=st.sampled_from(["softmax", "sigmoid"]),
)
def test_sorted_and_only_the_last_layer_counts(
    seed: int, queries: int, classes: int, classification: Literal["softmax", "sigmoid"]
) -> None:
    given_ = predictions(seed, queries, classes)
    alone = Predictions(logits=given_.logits[-1:], boxes=given_.boxes[-1:])
    for one, other in zip(
        postprocess(given_, SIZES, classification=classification),
        postprocess(alone, SIZES, classification=classification),
        strict=True,
    ):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)
        assert (one.scores.diff() <= 0).all()
