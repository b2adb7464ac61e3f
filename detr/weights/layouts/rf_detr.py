"""RF-DETR's weights as the authors (roboflow/rf-detr) call them, which is how transformers writes them, too.

In memory, and in some published files, transformers has other names. `lw_detr` says what else differs from here. The
mask token of DINOv2, which no detector reads, is left out, and written as zeros. So is what the authors' package (from
1.8 on) writes about keypoints, which these detectors do not have; it is not written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.backbones.dinov2 import DinoV2
from detr.models.detr import DETR
from detr.models.product_masks import ProductMaskHead
from detr.models.projector import C2fProjector
from detr.weights.layouts.blocks import State, layers_of, our_names, their_names
from detr.weights.layouts.lw_detr import (
    AUTHORS_DETECTOR,
    AUTHORS_PROJECTOR,
    DETECTOR,
    QUERIES_KEYS_VALUES,
    detector_config,
    inside,
    our_groups,
    projection,
    their_groups,
    vit_config,
)
from detr.weights.renaming import Table

FAMILY = "RF-DETR"
MASK_TOKEN = ".embeddings.mask_token"
LEFT_OUT = (MASK_TOKEN, "_kp_active_mask")  # ends of names


def _backbone(prefix: str) -> Table:
    """DINOv2 of transformers, below a prefix."""
    blocks: Table = (
        *((f"{theirs}.*", f"attn.{x}_proj.*") for theirs, x in QUERIES_KEYS_VALUES),
        ("attention.output.dense.*", "attn.proj.*"),
        ("attention.o_proj.*", "attn.proj.*"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        *((f"{each}.**", f"{each}.**") for each in ("norm1", "norm2", "mlp")),
    )
    return (
        (f"{prefix}.embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}.embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}.embeddings.register_tokens", "backbone.register_tokens"),
        (f"{prefix}.embeddings.patch_embeddings.projection.*", "backbone.patch_embed.*"),
        *inside(f"{prefix}.encoder.layer.*.", "backbone.blocks.*.", blocks),
        (f"{prefix}.layernorm.*", "backbone.norm.*"),
    )


MASK_HEAD: Table = (
    ("segmentation_head.blocks.*.dwconv.*", "mask_head.blocks.*.depthwise.*"),
    ("segmentation_head.blocks.*.norm.*", "mask_head.blocks.*.norm.*"),
    ("segmentation_head.blocks.*.pwconv1.*", "mask_head.blocks.*.linear.*"),
    ("segmentation_head.spatial_features_proj.*", "mask_head.pixels.*"),
    ("segmentation_head.query_features_block.norm_in.*", "mask_head.norm.*"),
    ("segmentation_head.query_features_block.layers.*.*", "mask_head.mlp.*.*"),
    ("segmentation_head.query_features_proj.*", "mask_head.queries.*"),
    ("segmentation_head.bias", "mask_head.bias"),
)

AUTHORS: Table = (*AUTHORS_DETECTOR, *_backbone("backbone.0.encoder.encoder"), *AUTHORS_PROJECTOR, *MASK_HEAD)
TABLE: Table = AUTHORS
MARKS = (  # by which it is known
    "backbone.0.encoder.encoder.embeddings.position_embeddings",
    "transformer.enc_out_class_embed.0.weight",
)

IN_MEMORY: Table = (
    *DETECTOR,
    *_backbone("model.backbone.backbone"),
    *projection(
        "model.backbone.projector.projector_layer",
        "neck.projections.0",
        parts=("conv1", "conv2"),
        blocks="bottlenecks",
        norm="norm",
    ),
    ("model.backbone.projector.layer_norm.*", "neck.norms.0.*"),
)


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return the authors' or Hugging Face's weights under our names.

    Raises:
        UserError: a name that no table knows, or attention without its queries, keys or values.
    """
    read = {name: tensor for name, tensor in state.items() if not name.endswith(LEFT_OUT)}
    return our_groups(our_names(read, (*TABLE, *IN_MEMORY), FAMILY, source))


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as the authors and transformers write them.

    Raises:
        UserError: a weight that RF-DETR does not have.
    """
    theirs = their_names(their_groups(state), TABLE, FAMILY, source)
    first = state["backbone.cls_token"]
    return theirs | {f"backbone.0.encoder.encoder{MASK_TOKEN}": first.new_zeros(1, first.shape[-1])}


WIDTH = 384  # of the backbone: DINOv2 is the small one in all sizes
SIZES = {  # side of a patch, rows of positions, decoder layers
    "rf_detr_nano": (16, 24, 2),
    "rf_detr_small": (16, 32, 3),
    "rf_detr_medium": (16, 36, 4),
    "rf_detr_base": (14, 37, 3),
    "rf_detr_large": (16, 44, 4),
    "rf_detr_seg_nano": (12, 26, 4),
    "rf_detr_seg_small": (12, 32, 4),
    "rf_detr_seg_medium": (12, 36, 5),
    "rf_detr_seg_large": (12, 42, 5),
    "rf_detr_seg_xlarge": (12, 52, 6),
    "rf_detr_seg_2xlarge": (12, 64, 6),
}


def detectors_in(state: Mapping[str, Tensor]) -> list[str]:
    """Return which detectors weights under our names may be of."""
    size = (
        state["backbone.patch_embed.weight"].shape[-1],
        math.isqrt(state["backbone.pos_embed"].shape[1] - 1),
        layers_of(state, "decoder.layers"),
    )
    small = len(state["backbone.blocks.0.norm1.weight"]) == WIDTH
    return [name for name, each in SIZES.items() if each == size and small]


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    backbone = config.get("backbone_config") or {}
    patch, side = backbone.get("patch_size"), backbone.get("image_size")
    plain = config.get("model_type") == "rf_detr" and backbone.get("hidden_size") == WIDTH
    if not plain or not isinstance(patch, int) or not isinstance(side, int):
        return None
    size = (patch, side // patch, config.get("decoder_layers"))
    return next((name for name, each in SIZES.items() if each == size), None)


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than RF-DETR's.
    """
    backbone, neck = model.backbone, model.neck
    if not isinstance(backbone, DinoV2) or not isinstance(neck, C2fProjector) or neck.strides != backbone.strides[:1]:
        raise UserError("RF-DETR's layout is for backbone=rf_detr_… with neck=c2f only")
    if backbone.register_tokens is not None:
        raise UserError("transformers has no RF-DETR with registers; give backbone.registers=0")
    return {
        "model_type": "rf_detr",
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            **vit_config(backbone),
            "num_windows": backbone.windows,
            "out_features": [f"stage{level}" for level in backbone.levels],
            "image_size": backbone.grid * backbone.patch_size,
        },
        "layer_norm_eps": 1e-6,  # the authors'; transformers' own default is another
        **detector_config(model),
        **({} if model.mask_head is None else mask_config(model)),
    }


def mask_config(model: DETR) -> dict[str, Any]:
    """Return what a configuration says of a mask head.

    Raises:
        UserError: it is not RF-DETR's.
    """
    head = model.mask_head
    if not isinstance(head, ProductMaskHead) or len(head.blocks) != len(model.decoder.layers):
        raise UserError("RF-DETR's layout has masks of mask_head=product only, with a block for each decoder layer")
    hidden: Any = head.mlp[0]
    return {"mask_downsample_ratio": head.stride, "intermediate_size": hidden.out_features}
