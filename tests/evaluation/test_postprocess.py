"""Post-processing against Hugging Face's, which is itself checked against the official code."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert

from detr.evaluation.postprocess import QUERIES_AT_ONCE, postprocess
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


@settings(max_examples=30)
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


BATCH = {"sizes": torch.tensor([[40, 64], [48, 30], [5, 7]]), "padded_size": (48, 64)}  # of SIZES, scaled down


def with_masks(given_: Predictions, seed: int = 0) -> tuple[Predictions, torch.Tensor]:
    """And the logits of all masks [B, Q, h, w]: smooth, so that masks are regions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*given_.logits.shape[1:3], 3, 4, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(12, 16), mode="bicubic")
    return dataclasses.replace(given_, masks=lambda image, query: logits[image, query]), logits


def official_masks(logits: torch.Tensor) -> list[torch.Tensor]:
    """The steps of `PostProcessSegm`: all queries of all images at once. [Q, height, width] of each image."""
    scaled = torch.nn.functional.interpolate(logits, size=BATCH["padded_size"], mode="bilinear", align_corners=False)
    masks = scaled.sigmoid() > 0.5
    return [
        torch.nn.functional.interpolate(mask[None, :, :h, :w].float(), size=tuple(original), mode="nearest")[0].bool()
        for mask, (h, w), original in zip(masks, BATCH["sizes"].tolist(), SIZES.tolist(), strict=True)
    ]


@pytest.mark.parametrize("queries", [1, 12, QUERIES_AT_ONCE, 2 * QUERIES_AT_ONCE + 3])
@pytest.mark.parametrize("classification", ["softmax", "sigmoid"])
def test_masks_are_those_of_the_official_code(queries: int, classification: Literal["softmax", "sigmoid"]) -> None:
    given_, logits = with_masks(predictions(queries=queries))
    plain = postprocess(given_, SIZES, classification=classification, max_detections=20, **BATCH)
    for image, (found, masks, original) in enumerate(zip(plain, official_masks(logits), SIZES.tolist(), strict=True)):
        assert found.masks is not None
        assert found.masks.shape == (len(found.scores), *original)
        assert found.masks.dtype == torch.bool
        for box, mask in zip(found.boxes, found.masks, strict=True):
            scale = torch.tensor([original[1], original[0]] * 2)
            (query,) = (
                (box_convert(given_.boxes[-1, image], "cxcywh", "xyxy") * scale - box).abs().amax(1) < 1e-3
            ).nonzero(as_tuple=True)
            assert mask.equal(masks[query.item()])
    assert 0.1 < plain[0].masks.float().mean() < 0.9


def test_masks_need_the_sizes_of_the_batch() -> None:
    given_, _ = with_masks(predictions())
    with pytest.raises(ValueError, match="masks need the sizes"):
        postprocess(given_, SIZES, classification="softmax")


def test_only_the_masks_of_answers_are_computed_and_each_once() -> None:
    given_, logits = with_masks(predictions(queries=40, classes=3))
    asked: list[tuple[int, int]] = []

    def decode(image: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        assert len(query) <= QUERIES_AT_ONCE
        asked.extend(zip(image.tolist(), query.tolist(), strict=True))
        return logits[image, query]

    found = postprocess(
        dataclasses.replace(given_, masks=decode), SIZES, classification="sigmoid", max_detections=10, **BATCH
    )
    assert [len(each.masks) for each in found if each.masks is not None] == [10, 10, 10]
    assert len(asked) == len(set(asked)) <= 30
