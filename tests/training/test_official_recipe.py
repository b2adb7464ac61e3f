"""Five optimizer steps of the paper's recipe beside the same five steps written out by hand.

The other side shares nothing but the model's forward pass (which is compared with Hugging Face's elsewhere): matching,
losses, parameter groups, clipping and AdamW are spelled out, an image at a time, from the paper's code.
"""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_images, random_targets
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detr.assembly import build_optimizer
from detr.config import build, compose, resolved
from detr.data.loader import TrainLoader
from detr.data.order import EpochSampler
from detr.models.detr import DETR
from detr.structures import Batch, Predictions, Targets
from detr.tracking.logger import NullLogger
from detr.tracking.run_folder import RunFolder
from detr.training.parts import Parts
from detr.training.trainer import Trainer

CLASSES, STEPS = 91, 5
SIZES = [(64, 96), (96, 64), (80, 80)]
COUNTS = [[3, 0, 2], [1, 4, 0], [0, 0, 1], [2, 2, 2], [5, 0, 3]]


def detector(plain: dict[str, Any]) -> DETR:
    """Its frozen batch norm scaled down, since nobody trained it and fifty layers would blow up."""
    torch.manual_seed(0)
    model: DETR = build(plain["model"], "model", num_classes=CLASSES)
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.3)
    return model.train()


def batches() -> list[Batch]:
    images, padding = random_images(SIZES)
    sizes = torch.tensor(SIZES)
    return [
        Batch(
            images=images.roll(step, dims=-1).masked_fill(padding[:, None], 0),
            padding=padding,
            targets=random_targets(counts, classes=CLASSES, masks=(96, 96), seed=step),
            image_ids=[0, 1, 2],
            sizes=sizes,
            original_sizes=sizes,
            files=["a", "b", "c"],
        )
        for step, counts in enumerate(COUNTS)
    ]


def corners(boxes: Tensor) -> Tensor:
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Of boxes with others one by one, both xyxy [..., 4]."""
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    both, hull = inner.prod(-1), outer.prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - both
    return both / union - (hull - union) / hull


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> list[tuple[int, int]]:
    """(query, object) of one layer of one image: class probability, 5 × L1, 2 × GIoU."""
    columns = [
        -logits.softmax(-1)[:, label] + 5 * (boxes - box).abs().sum(-1) - 2 * giou(corners(boxes), corners(box))
        for label, box in zip(labels.tolist(), wanted, strict=True)
    ]
    if not columns:
        return []
    return list(zip(*(each.tolist() for each in linear_sum_assignment(torch.stack(columns, 1))), strict=True))


def mask_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal plus dice of one object's mask."""
    scaled = F.interpolate(logits[None, None], size=wanted.shape, mode="bilinear", align_corners=False)[0, 0]
    p, t = scaled.sigmoid(), wanted.float()
    right = p * t + (1 - p) * (1 - t)
    focal = (
        -(0.25 * t + 0.75 * (1 - t)) * (1 - right) ** 2 * (F.logsigmoid(scaled) * t + F.logsigmoid(-scaled) * (1 - t))
    )
    return focal.mean() + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def loss_by_hand(predictions: Predictions, targets: Targets) -> Tensor:
    """Over all layers: cross-entropy with no-object weighing 0.1, 5 × L1, 2 × GIoU; masks of the last layer."""
    objects = max(1, len(targets))
    labels, boxes = targets.labels.split(targets.counts), targets.boxes.split(targets.counts)
    total = torch.zeros(())
    layers, images, queries, columns = predictions.logits.shape
    weights = torch.ones(columns)
    weights[-1] = 0.1
    for layer in range(layers):
        log_likelihood, weight = torch.zeros(()), torch.zeros(())
        for image in range(images):
            pairs = match(
                predictions.logits[layer, image], predictions.boxes[layer, image], labels[image], boxes[image]
            )
            classes = torch.full((queries,), columns - 1)
            for query, number in pairs:
                classes[query] = labels[image][number]
                predicted, wanted = predictions.boxes[layer, image, query], boxes[image][number]
                total = total + 5 * (predicted - wanted).abs().sum() / objects
                total = total + 2 * (1 - giou(corners(predicted), corners(wanted))) / objects
                if layer == layers - 1 and predictions.masks is not None and targets.masks is not None:
                    logits = predictions.masks(torch.tensor([image]), torch.tensor([query]))[0]
                    total = total + mask_loss(logits, targets.masks.split(targets.counts)[image][number]) / objects
            chosen = predictions.logits[layer, image].log_softmax(-1).gather(-1, classes[:, None])[:, 0]
            log_likelihood, weight = log_likelihood - (weights[classes] * chosen).sum(), weight + weights[classes].sum()
        total = total + log_likelihood / weight
    return total


def steps_by_hand(model: DETR, steps: list[Batch]) -> list[float]:
    """AdamW at 1e-4, the backbone at 1e-5, weight decay 1e-4 on everything, gradients clipped to a norm of 0.1."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if re.match(r"backbone\.body\.(conv1|layer1)", name)}
    optimizer = torch.optim.AdamW(
        [
            {"params": [each for name, each in named if "backbone" not in name]},
            {"params": [each for name, each in named if "backbone" in name], "lr": 1e-5},
        ],
        lr=1e-4,
        weight_decay=1e-4,
        foreach=False,
    )
    losses = []
    for batch in steps:
        loss = loss_by_hand(model(batch.images, batch.padding), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(torch.stack([each.grad.square().sum() for _, each in named if each.grad is not None]).sum())
        for _, each in named:
            if each.grad is not None:
                each.grad.mul_(min(1.0, 0.1 / (norm.item() + 1e-6)))
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("mask_head", ["none", "fpn"])
def test_five_steps(mask_head: str, tmp_path: Path) -> None:
    small = ["backbone.weights=null", "transformer.dropout=0", "logger=none", "trainer.device=cpu"]
    plain = resolved(compose(["experiment=detr_r50_coco", f"mask_head={mask_head}", *small]))
    model = detector(plain)
    other = copy.deepcopy(model)
    data: Any = [None] * 4  # what an epoch would read; the steps below are given their batches
    nothing: Any = None
    parts = Parts(
        options=build(plain["trainer"]),
        recipe=nothing,
        loader=TrainLoader(data, EpochSampler(4, 2, seed=0), num_workers=0),
        model=model,
        criterion=build(plain["loss"]),
        optimizer=build_optimizer(plain["optimizer"], model),
        schedule=build(plain["scheduler"]),
        validation=nothing,
        logger=NullLogger(),
    )
    trainer = Trainer(parts, folder=RunFolder(tmp_path))
    losses = [trainer.train_step([batch]).total.item() for batch in batches()]
    expected = steps_by_hand(other, batches())
    assert losses == pytest.approx(expected, rel=1e-4)
    assert all(abs(one - other) > 1e-3 for one, other in itertools.pairwise(expected))
    moved = (model.class_head.weight - other.class_head.weight).abs().max()
    assert moved < 1e-5 * STEPS
