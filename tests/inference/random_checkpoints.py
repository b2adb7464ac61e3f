"""Checkpoints with random weights, as a training writes them, without the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from command import BCCD

from detr.assembly import build_model
from detr.config import check, compose
from detr.data.dataset import Fingerprint
from detr.structures import Classes
from detr.weights.checkpoint import Checkpoint, Recipe, save_checkpoint

BCCD_CLASSES = Classes.contiguous({1: "RBC", 2: "WBC", 3: "Platelets"})
SMALL = [
    "backbone=resnet18",
    "backbone.weights=null",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "queries.num_queries=20",
    "dataloader.num_workers=0",
]
KINDS = {
    "boxes": ["experiment=small_data", f"dataset.root={BCCD}", *SMALL, "augmentation.max_size=128"],
    "paper": ["experiment=detr_r50_coco", *SMALL, "augmentation=none"],
    "dc5": ["experiment=detr_r50_coco", *SMALL, "backbone=resnet50_dc5", "augmentation=none"],
    "conditional": ["experiment=conditional_detr_r50", *SMALL, "augmentation=none"],
    "dab": ["experiment=dab_detr_r50", *SMALL, "augmentation=none"],
    "deformable": ["experiment=deformable_detr_r50", *SMALL, "augmentation=none"],
    "panoptic": ["experiment=shapes_panoptic", *SMALL, "evaluator.min_score.sigmoid=0.2", "mask_head.num_heads=4"],
}


def write_checkpoint(
    path: Path,
    kind: str = "boxes",
    *,
    classes: Classes = BCCD_CLASSES,
    overrides: Sequence[str] = (),
    ema: bool = False,
    seed: int = 0,
) -> Path:
    """A detector whose answers differ from query to query; with `ema`, the weights beside the average are zeros."""
    values, stored = check(compose([*KINDS[kind], *overrides]))
    torch.manual_seed(seed)
    model = build_model(values, classes, pretrained=False)
    for name, parameter in model.named_parameters():
        if "box_head" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "class_head" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    weights = model.state_dict()
    other = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    recipe = Recipe(stored, classes, Fingerprint(1, 1, "none"))
    save_checkpoint(path, Checkpoint(recipe, other if ema else weights, weights if ema else None))
    return path
