"""Small detectors of RF-DETR's and LW-DETR's family, and Hugging Face's beside them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from builders import CLASSES
from safetensors.torch import load_file
from torch import Tensor, nn

from detr.models.backbones.dinov2 import DinoV2
from detr.models.backbones.plain_vit import PlainViT
from detr.models.box_coder import RelativeBoxCoder
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.grouped_two_stage import GroupedTwoStageQueries
from detr.models.groups import GroupMatching
from detr.models.layers import LayerConfig
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.product_masks import ProductMaskHead
from detr.models.projector import C2fProjector

Family = Literal["rf", "lw"]
QUERIES, GROUPS, WIDTH = 6, 3, 32


def detector(
    family: Family,
    *,
    scales: tuple[float, ...] = (1.0,),
    width: int = 24,
    groups: int = GROUPS,
    grid: int = 6,
    masks: bool = False,
    blocks: int = 2,
) -> DETR:
    """A small one of the family, with parts of a size each."""
    backbone: Any
    if family == "rf":
        backbone = DinoV2(
            width=width, depth=5, num_heads=2, global_blocks=(1, 4), levels=(1, 4), grid=grid, weights=None, windows=2
        )
    else:
        some: Any = {"depth": 4, "global_blocks": (1, 3), "levels": (2, 3, 4)}
        one: Any = {"depth": 1, "global_blocks": (0,), "levels": (1,)}  # where blocks are wide
        backbone = PlainViT(width=width, num_heads=2, grid=5, **(some if width < 100 else one))
    return DETR(
        backbone=backbone,
        neck=functools.partial(
            C2fProjector,
            d_model=WIDTH,
            position_embedding=SinePositionEmbedding(d_model=WIDTH),
            scales=scales,
            num_levels=len(scales),
            normalization="layer" if family == "rf" else "batch",
        ),
        encoder=TransformerEncoder(layer=LayerConfig(d_model=WIDTH, num_heads=4), num_layers=0),
        decoder=DeformableDecoder(
            layer=LayerConfig(d_model=WIDTH, num_heads=4, dim_feedforward=40, dropout=0.0),
            box_coder=RelativeBoxCoder(),
            num_layers=2,
            num_levels=len(scales),
            num_points=2,
            refine=False,
            final_norm=True,
            cross_heads=8,
            place_in_padded=True,
        ),
        queries=functools.partial(
            GroupedTwoStageQueries, num_queries=QUERIES, d_model=WIDTH, box_coder=RelativeBoxCoder()
        ),
        mask_head=functools.partial(ProductMaskHead, d_model=WIDTH, num_blocks=blocks) if masks else None,
        one_to_many=GroupMatching(groups=groups) if groups > 1 else None,
        num_classes=CLASSES,
        d_model=WIDTH,
        classification="sigmoid",
    )


def theirs_of(family: Family, config: dict[str, Any], *, classes: int = CLASSES, noise: float = 0.1) -> nn.Module:
    """Hugging Face's detector with values that matter everywhere."""
    from transformers import LwDetrConfig, LwDetrForObjectDetection, RfDetrConfig
    from transformers import RfDetrForInstanceSegmentation as WithMasks
    from transformers import RfDetrForObjectDetection as Plain

    torch.manual_seed(0)
    config = {**config, "num_labels": classes}
    if family == "rf":
        kind = WithMasks if "mask_downsample_ratio" in config else Plain
        model: nn.Module = kind(RfDetrConfig(**config))
    else:
        model = LwDetrForObjectDetection(LwDetrConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
    return model


def saved(model: nn.Module) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        return load_file(Path(folder) / "model.safetensors")
