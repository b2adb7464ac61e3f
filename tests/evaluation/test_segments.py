"""Panoptic post-processing against the original, written out again from its description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from detr.evaluation.segments import panoptic_segments, share_out
from detr.structures import Batch, PanopticSegments, Predictions, Targets

CLASSES = 6
THINGS = torch.tensor([True, False, True, False, False, True])
QUERIES = 12


def batch_of(sizes: list[tuple[int, int]], originals: list[tuple[int, int]]) -> Batch:
    height, width = (max(side) for side in zip(*sizes, strict=True))
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in zip(padding, sizes, strict=True):
        row[:h, :w] = False
    return Batch(
        images=torch.zeros(len(sizes), 3, height, width),
        padding=padding,
        targets=Targets.of([torch.zeros(0)] * len(sizes), [torch.zeros(0, 4)] * len(sizes)),
        image_ids=list(range(len(sizes))),
        sizes=torch.tensor(sizes),
        original_sizes=torch.tensor(originals),
        files=["?"] * len(sizes),
    )


def predictions_of(logits: torch.Tensor, masks: torch.Tensor) -> Predictions:
    """Logits [B, Q, K] and mask logits [B, Q, h, w]."""
    boxes = torch.zeros(1, *logits.shape[:2], 4)
    return Predictions(logits[None], boxes, masks=lambda image, query: masks[image, query])


def random_case(seed: int, *, sigmoid: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs of different sizes, from dominating to a few pixels; half of the queries are sure of something."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, QUERIES, CLASSES + (not sigmoid), generator=generator) * 2
    sure = torch.rand(1, QUERIES, generator=generator) < 0.6
    chosen = torch.randint(CLASSES, (1, QUERIES, 1), generator=generator)
    logits = logits.scatter_add(2, chosen, 9.0 * sure[..., None])
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    centre = torch.rand(QUERIES, 2, 1, 1, generator=generator) * torch.tensor([8.0, 10.0])[:, None, None]
    radius = torch.rand(QUERIES, 1, 1, generator=generator) ** 2 * 4
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    return logits, (radius - distance + torch.randn(QUERIES, 8, 10, generator=generator) * 0.3)[None]


def original(
    scores: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], target: tuple[int, int]
) -> tuple[np.ndarray, list[int]]:
    """What the paper's code does with the kept queries, step by step and pixel by pixel.

    Returns ids [H, W] that count from 0, and the class of each; no class: the ids are a filler.
    """
    masks = F.interpolate(masks[:, None], size, mode="bilinear")[:, 0] if len(masks) else masks
    labels_left, scores_left, masks_left = labels.tolist(), scores.tolist(), list(masks)
    merging = True
    while True:
        if not masks_left:
            return np.zeros(target, dtype=np.int64), []
        ids = torch.stack(masks_left, -1).flatten(0, 1).softmax(-1).argmax(-1).view(size).numpy()
        if merging:
            for label in set(labels_left):
                if not THINGS[label]:
                    equal = [index for index, each in enumerate(labels_left) if each == label]
                    for other in equal[1:]:
                        ids[ids == other] = equal[0]
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        picture = Image.fromarray(colours).resize((target[1], target[0]), Image.Resampling.NEAREST)
        scaled = (np.asarray(picture).astype(np.int64) * [1, 256, 65536]).sum(-1)
        areas = [(scaled == index).sum() for index in range(len(masks_left))]
        if min(areas) > 4:
            return scaled, labels_left
        large = [index for index, area in enumerate(areas) if area > 4]
        labels_left, scores_left, masks_left = (
            [values[index] for index in large] for values in (labels_left, scores_left, masks_left)
        )
        merging = False


def assert_equal(found: PanopticSegments, ids: np.ndarray, labels: list[int]) -> None:
    assert found.labels.tolist() == labels
    assert np.array_equal(found.ids.numpy(), ids + 1 if labels else np.zeros_like(ids))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("min_score", [0.5, 0.85])
def test_softmax_is_the_original(seed, min_score):
    logits, masks = random_case(seed)
    size, target = (32, 40), [(32, 40), (50, 70), (17, 21)][seed % 3]
    scores, labels = logits[0].softmax(-1).max(-1)
    keep = (labels != CLASSES) & (scores > min_score)
    expected = original(scores[keep], labels[keep], masks[0][keep], size, target)
    (found,) = panoptic_segments(
        predictions_of(logits, masks),
        batch_of([size], [target]),
        classification="softmax",
        things=THINGS,
        min_score=min_score,
    )
    assert_equal(found, *expected)


@pytest.mark.parametrize("seed", range(20))
def test_sigmoid_differs_in_scores_only(seed):
    logits, masks = random_case(seed, sigmoid=True)
    scores, labels = (logits[0] - 6).sigmoid().max(-1)
    keep = scores > 0.35
    expected = original(scores[keep], labels[keep], masks[0][keep], (32, 40), (32, 40))
    (found,) = panoptic_segments(
        predictions_of(logits - 6, masks),
        batch_of([(32, 40)], [(32, 40)]),
        classification="sigmoid",
        things=THINGS,
        min_score=0.35,
    )
    assert_equal(found, *expected)
    assert torch.equal(found.scores > 0.35, torch.ones(len(found.scores), dtype=torch.bool))


def test_the_cases_are_hard_enough():
    """Stuff is merged, and small segments are dropped, in many of them."""
    merged = dropped = empty = 0
    for seed in range(60):
        logits, masks = random_case(seed)
        scores, labels = logits[0].softmax(-1).max(-1)
        keep = (labels != CLASSES) & (scores > 0.85)
        _, left = original(scores[keep], labels[keep], masks[0][keep], (32, 40), (32, 40))
        stuff = [label for label in labels[keep].tolist() if not THINGS[label]]
        merged += len(stuff) > len(set(stuff))
        dropped += len(left) < keep.sum() - len(stuff) + len(set(stuff))
        empty += not left
    assert merged > 20
    assert dropped > 5
    assert empty < 10


def test_nothing_is_sure_enough():
    logits, masks = random_case(0)
    (found,) = panoptic_segments(
        predictions_of(logits * 0, masks),
        batch_of([(32, 40)], [(16, 20)]),
        classification="softmax",
        things=THINGS,
        min_score=0.85,
    )
    assert found.ids.shape == (16, 20)
    assert not found.ids.any()
    assert len(found.labels) == 0


def test_padding_is_cropped_and_batches_do_not_matter():
    """Each image of a padded batch gets what it would get alone, up to the mask's own resolution."""
    sizes, originals = [(32, 40), (24, 28)], [(64, 80), (24, 28)]
    logits = torch.full((2, 2, CLASSES + 1), -9.0)
    logits[:, 0, 0] = logits[:, 1, 1] = 9.0
    masks = torch.zeros(2, 2, 8, 10)
    masks[:, 0, :, :3] = 5.0  # three columns of four pixels
    masks[:, 1, :, 3:] = 5.0
    found = panoptic_segments(
        predictions_of(logits, masks),
        batch_of(sizes, originals),
        classification="softmax",
        things=THINGS,
        min_score=0.85,
    )
    for each, (_, original_width), (_, width) in zip(found, originals, sizes, strict=True):
        border = 12 * original_width // width
        assert (each.ids[:, :border] == 1).all()
        assert (each.ids[:, border:] == 2).all()


def test_merged_stuff_by_hand():
    """Two halves of one stuff class are one segment, and a thing keeps its own; then the second half is anybody's."""
    masks = torch.full((3, 6, 12), -5.0)
    masks[0, :, :6] = masks[1, :, 6:] = 5.0
    masks[2, 2:5, 2:5] = 9.0
    masks[2, :, 6:] = -6.0
    ids, rows = share_out(masks, [1, 1, None], (6, 12))
    assert rows.tolist() == [0, 2]
    assert (ids[2:5, 2:5] == 2).all()
    assert (ids == 1).sum() == 6 * 12 - 9


def test_small_segments_leave_their_pixels_to_others():
    masks = torch.zeros(3, 6, 6)
    masks[0] = 1.0
    masks[1, 0, :4] = 2.0  # four pixels: too few
    masks[2, 5, :5] = 2.0  # five are enough
    ids, rows = share_out(masks, [None, None, None], (6, 6))
    assert rows.tolist() == [0, 2]
    assert (ids[0] == 1).all()
    assert (ids[5, :5] == 2).all()
    assert (ids == 2).sum() == 5
