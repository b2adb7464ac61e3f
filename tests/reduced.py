"""Detectors of the papers, all their parts as they are but small, with losses that are finite from random weights."""

from __future__ import annotations

from typing import Any

import torch
from builders import CLASSES

from detr.assembly import build_model
from detr.config import build, compose, resolved
from detr.models.detr import DETR
from detr.structures import Classes

SMALL = [
    "backbone.weights=null",
    "queries.num_queries=14",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "transformer.dropout=0",
    "transformer.encoder.num_layers=1",
    "transformer.decoder.num_layers=3",
]
# Noise is drawn on the device that computes, by other generators than the CPU's.
WITHOUT_NOISE = ["denoising.num_queries=4", "denoising.label_noise=0", "denoising.box_noise=0"]

CASES = [
    ["experiment=detr_r50_coco"],
    ["experiment=conditional_detr_r50"],
    ["experiment=deformable_detr_r50"],
    ["experiment=dino_r50", *WITHOUT_NOISE],
    ["experiment=rt_detr_r50", *WITHOUT_NOISE],
    ["experiment=small_data"],
    ["detector=rt_detr_v2_r18", *WITHOUT_NOISE],
    ["detector=d_fine_n", *WITHOUT_NOISE],
    ["detector=rf_detr_nano"],
]


def name_of(words: list[str]) -> str:
    return words[0].partition("=")[2]


def built(words: list[str]) -> tuple[DETR, Any]:
    """A small detector, and its criterion."""
    values = resolved(compose([*words, *SMALL]))
    torch.manual_seed(0)
    model = build_model(values, Classes.contiguous({index: str(index) for index in range(CLASSES)}), pretrained=False)
    for name, buffer in model.backbone.named_buffers():  # so that no block's output explodes or vanishes
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith(("bn2.weight", "bn3.weight")):
            buffer.fill_(0.5)
    return model, build(values["loss"])
