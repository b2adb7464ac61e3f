"""A small D-FINE, and transformers' with the same weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from hugging_face_family import give_values_that_matter
from torch import nn

from detr.models.backbone import Timm
from detr.models.box_coder import LogitBoxCoder
from detr.models.d_fine import DFineDecoder
from detr.models.d_fine_encoder import DFineEncoder
from detr.models.denoising import ContrastiveDenoising
from detr.models.detr import DETR
from detr.models.heads import BoxHead
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import GridPositionEmbedding
from detr.models.two_stage import TwoStageQueries
from detr.weights.layouts.d_fine import config_of, to_theirs

CLASSES = 5


def small_d_fine(
    *,
    levels: int = 3,
    width: int = 32,
    encoder_width: int | None = None,
    curvature: float = 0.25,
    activation: Any = "relu",
    layers: int = 3,
    num_blocks: int = 1,
    seed: int = 0,
) -> DETR:
    """In evaluation mode, with values in every weight that show when it is not used."""
    torch.manual_seed(seed)
    coder = LogitBoxCoder()
    inside = width if encoder_width is None else encoder_width
    of_encoder = LayerConfig(d_model=inside, num_heads=4, dim_feedforward=48, dropout=0.0, activation="gelu")
    of_decoder = LayerConfig(d_model=width, num_heads=4, dim_feedforward=40, dropout=0.0, activation=activation)
    model = DETR(
        backbone=Timm(
            name="hgnetv2_b0", weights=None, levels=range(-levels, 0), trainable=["stages_[123]"], normalize=False
        ),
        neck=functools.partial(
            Neck,
            num_levels=levels,
            d_model=inside,
            position_embedding=GridPositionEmbedding(d_model=inside),
            normalization="batch",
        ),
        encoder=DFineEncoder(
            layer=of_encoder, num_levels=levels, expansion=0.5, num_blocks=num_blocks, output_width=encoder_width and width
        ),
        decoder=DFineDecoder(
            layer=of_decoder,
            box_coder=coder,
            num_layers=layers,
            num_levels=levels,
            num_points=[3, 6, 3][:levels],
            curvature=curvature,
        ),
        queries=functools.partial(
            TwoStageQueries,
            num_queries=11,
            d_model=width,
            box_coder=coder,
            anchor_side=0.05,
            copies=1,
            supervised="chosen",
            detach=True,
            position="anchors",
            activation=activation,
            border=0.01,
        ),
        box_head=functools.partial(BoxHead, activation=activation),
        denoising=functools.partial(ContrastiveDenoising, d_model=width, num_queries=6, box_coder=coder),
        d_model=width,
        classification="sigmoid",
        heads_per_layer=True,
        num_classes=CLASSES,
    )
    constants = model.decoder.reach.clone(), model.decoder.curvature.clone()
    give_values_that_matter(model)
    model.decoder.reach, model.decoder.curvature = constants
    return model.eval()


def theirs_with(model: DETR, folder: Path | None = None) -> nn.Module:
    """Transformers' detector, read from a folder with our weights if one is given."""
    from safetensors.torch import save_file
    from transformers import DFineConfig, DFineForObjectDetection

    config = DFineConfig(**config_of(model), num_labels=CLASSES)
    state = {name: tensor.contiguous() for name, tensor in to_theirs(model.state_dict()).items()}
    if folder is not None:
        config.architectures = ["DFineForObjectDetection"]
        config.save_pretrained(folder)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return DFineForObjectDetection.from_pretrained(folder).eval()
    theirs = DFineForObjectDetection(config)
    found = theirs.load_state_dict(state, strict=False)
    print(found)
    return theirs.eval()
