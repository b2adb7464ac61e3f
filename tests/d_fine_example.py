"""A small D-FINE, or DEIM, with parts of a size each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from hugging_face_family import Pyramid, give_values_that_matter
from torch import nn

from detr.losses.criterion import SetCriterion
from detr.losses.distributions import DistributionDistillation, FineGrainedLocalization
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, GIoU, Varifocal
from detr.models.backbone import Backbone, Timm
from detr.models.box_coder import LogitBoxCoder
from detr.models.d_fine import DFineDecoder
from detr.models.d_fine_encoder import DFineEncoder
from detr.models.denoising import ContrastiveDenoising
from detr.models.detr import DETR
from detr.models.heads import BoxHead
from detr.models.layers import LayerConfig, MLPActivation
from detr.models.neck import Neck
from detr.models.position_embedding import GridPositionEmbedding
from detr.models.two_stage import TwoStageQueries

CLASSES, QUERIES, WIDTH = 5, 11, 32


def small_d_fine(
    *,
    backbone: Backbone | None = None,
    encoder_width: int | None = None,
    num_points: int | Sequence[int] = (3, 6, 3),
    curvature: float = 0.25,
    num_blocks: int = 1,
    layers: int = 3,
    activation: MLPActivation = "relu",
    fresh: bool = False,
    num_classes: int = CLASSES,
) -> DETR:
    """In evaluation mode. `fresh` weights say nothing yet; others have values that show whether they are used."""
    torch.manual_seed(0)
    backbone = backbone or Pyramid()
    coder, levels = LogitBoxCoder(in_each_layer=True), len(backbone.channels)
    inside = encoder_width or WIDTH
    model = DETR(
        backbone=backbone,
        neck=functools.partial(
            Neck,
            num_levels=levels,
            d_model=inside,
            position_embedding=GridPositionEmbedding(d_model=inside),
            normalization="batch",
        ),
        encoder=DFineEncoder(
            layer=LayerConfig(d_model=inside, num_heads=4, dim_feedforward=48, dropout=0.0, activation="gelu"),
            num_levels=levels,
            expansion=0.5,
            num_blocks=num_blocks,
            output_width=encoder_width and WIDTH,
        ),
        decoder=DFineDecoder(
            layer=LayerConfig(d_model=WIDTH, num_heads=4, dim_feedforward=40, dropout=0.0, activation=activation),
            box_coder=coder,
            num_layers=layers,
            num_levels=levels,
            num_points=num_points,
            curvature=curvature,
        ),
        queries=functools.partial(
            TwoStageQueries,
            num_queries=QUERIES,
            d_model=WIDTH,
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
        denoising=functools.partial(ContrastiveDenoising, d_model=WIDTH, num_queries=6, box_coder=coder),
        d_model=WIDTH,
        classification="sigmoid",
        heads_per_layer=True,
        num_classes=num_classes,
    )
    if not fresh:
        constants = {name: value.clone() for name, value in model.decoder.named_buffers(recurse=False)}
        give_values_that_matter(model)
        model.decoder.load_state_dict(constants, strict=False)
    return model.eval()


def hgnet(levels: int = 3) -> Timm:
    """timm's smallest, without weights of its own."""
    return copy.deepcopy(_hgnet(levels))


@functools.cache
def _hgnet(levels: int) -> Timm:
    """Building it takes a second."""
    return Timm(name="hgnetv2_b0", weights=None, levels=range(-levels, 0), normalize=False)


def criterion_of_d_fine(**more: object) -> SetCriterion:
    """As loss=d_fine has it."""
    terms: dict[str, nn.Module] = {
        "class": Varifocal(),
        "bbox": L1(),
        "giou": GIoU(),
        "fgl": FineGrainedLocalization(),
        "ddf": DistributionDistillation(),
    }
    return SetCriterion(
        matcher=HungarianMatcher(classification="sigmoid", cost_class=2),
        terms=terms,  # type: ignore[arg-type]
        classification="sigmoid",
        unite_matches=True,
        **more,  # type: ignore[arg-type]
    )
