"""Mask terms against their formulas, one mask at a time, and against Hugging Face's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from builders import match, matched, random_predictions, random_targets
from torch import Tensor

from detr.errors import UserError
from detr.losses.masks import Dice, MaskFocal
from detr.structures import Normalizer, Predictions, Targets

COUNTS, SIZE = [2, 0, 1], (12, 20)


def with_masks(predictions: Predictions, size: tuple[int, int] = (6, 10)) -> tuple[Predictions, Tensor]:
    """The same with a mask head of random answers [B, Q, h, w]."""
    masks = 2 * torch.randn(*predictions.logits.shape[1:3], *size, generator=torch.Generator().manual_seed(7))
    masks.requires_grad_()
    return replace(predictions, masks=lambda image, query: masks[image, query]), masks


def scene() -> tuple[Predictions, Tensor, Targets]:
    return *with_masks(random_predictions(3)), random_targets(COUNTS, masks=SIZE)


def by_hand(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> tuple[float, float]:
    """Focal and dice loss of one mask."""
    focal = overlap = sizes = 0.0
    for logit, is_inside in zip(logits.flatten().tolist(), wanted.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        focal -= alpha * (1 - p) ** gamma * math.log(p) if is_inside else (1 - alpha) * p**gamma * math.log(1 - p)
        overlap += p * is_inside
        sizes += p + is_inside
    return focal / logits.numel(), 1 - (2 * overlap + 1) / (sizes + 1)


def test_terms_by_hand() -> None:
    predictions, masks, targets = scene()
    matches = match(predictions, targets)[""]
    assert targets.masks is not None
    focal = dice = 0.0
    last = len(predictions.logits) - 1
    for layer, image, query, target in torch.stack(
        [matches.layer, matches.image, matches.query, matches.target], 1
    ).tolist():
        if layer == last:
            scaled = torch.nn.functional.interpolate(masks[image, query][None, None], size=SIZE, mode="bilinear")[0, 0]
            one, other = by_hand(scaled, targets.masks[target], 0.25, 2.0)
            focal, dice = focal + one, dice + other
    seen = matched(predictions, targets, Normalizer(objects=5, images=3), matches)
    torch.testing.assert_close(MaskFocal()(seen), torch.tensor([focal / 5]))
    torch.testing.assert_close(Dice()(seen), torch.tensor([dice / 5]))


def test_terms_equal_hugging_face() -> None:
    from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss

    predictions, _, targets = scene()
    seen = matched(predictions, targets, Normalizer(objects=3, images=3))
    flat = [each.flatten(1) for each in seen.masks]
    assert len(flat[0]) == sum(COUNTS)
    torch.testing.assert_close(MaskFocal()(seen)[0], sigmoid_focal_loss(*flat, 3))
    torch.testing.assert_close(Dice()(seen)[0], dice_loss(*flat, 3))


def test_only_matched_masks_of_the_last_layer_get_a_gradient() -> None:
    predictions, masks, targets = scene()
    matches = match(predictions, targets)[""]
    seen = matched(predictions, targets, Normalizer(objects=3, images=3), matches)
    (MaskFocal()(seen) + Dice()(seen)).sum().backward()
    assert masks.grad is not None
    touched = masks.grad.abs().amax((2, 3)) > 0
    expected = torch.zeros_like(touched)
    last = matches.layer == len(predictions.logits) - 1
    expected[matches.image[last], matches.query[last]] = True
    assert torch.equal(touched, expected)
    assert expected.sum() == sum(COUNTS)


def test_refusals() -> None:
    predictions, _, targets = scene()
    normalizer = Normalizer(objects=3, images=3)
    with pytest.raises(UserError, match="need a mask head"):
        Dice()(matched(replace(predictions, masks=None), targets, normalizer))
    with pytest.raises(UserError, match="need masks in the targets"):
        Dice()(matched(predictions, replace(targets, masks=None), normalizer))
    with pytest.raises(ValueError, match="weight: expected at least 0, got -1"):
        Dice(weight=-1)
