"""LW-DETR's weights as Hugging Face's transformers and as the authors (Atten4Vis/LW-DETR) call them.

Otherwise than here, transformers keeps queries, keys and values of attention apart, groups are numbered with the one
that counts among them, and the sines of a box begin with y. RF-DETR's layout (`rf_detr`) builds on this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.backbones.plain_vit import PlainViT
from detr.models.backbones.windowed import WindowedViT
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR
from detr.models.grouped_two_stage import GroupedTwoStageQueries
from detr.models.projector import C2fProjector
from detr.weights.layouts.blocks import (
    SINES,
    State,
    changed,
    convolution,
    feed_forward,
    layers_of,
    norms,
    our_names,
    their_names,
    y_before_x,
)
from detr.weights.renaming import Table

FAMILY = "LW-DETR"

HEADS: Table = (
    ("enc_output.*.*", "queries.heads.*.token_head.0.*"),
    ("enc_output_norm.*.*", "queries.heads.*.token_head.1.*"),
    ("enc_out_class_embed.*.*", "queries.heads.*.class_head.*"),
    ("enc_out_bbox_embed.*.**", "queries.heads.*.box_head.**"),
)


def inside(theirs: str, ours: str, table: Table) -> Table:
    """Return a table with something before all names of both sides."""
    return tuple((theirs + name, ours + own) for name, own in table)


def projection(theirs: str, ours: str, *, parts: tuple[str, str], blocks: str, norm: str) -> Table:
    """Return the rows of a C2f block, whose convolutions, inner blocks and norms go by these names."""
    inner = [
        row
        for number, part in enumerate(parts)
        for row in convolution(f"{theirs}.{blocks}.*.{part}", f"{ours}.blocks.*.{number}", ("conv", norm))
    ]
    first, last = parts
    return (
        *convolution(f"{theirs}.{first}", f"{ours}.entry", ("conv", norm)),
        *convolution(f"{theirs}.{last}", f"{ours}.exit", ("conv", norm)),
        *inner,
    )


DECODER = "model.decoder.layers.*"

# Hugging Face's decoder and queries.
DETECTOR: Table = (
    *inside("model.", "", HEADS),
    *((f"{DECODER}.self_attn.{x}_proj.*", f"decoder.layers.*.self_attn.{x}_proj.*") for x in "qkv"),
    (f"{DECODER}.self_attn.o_proj.*", "decoder.layers.*.self_attn.out_proj.*"),
    (f"{DECODER}.cross_attn.**", "decoder.layers.*.cross_attn.**"),
    *feed_forward(f"{DECODER}.mlp", "decoder.layers.*"),
    *norms(DECODER, "decoder.layers.*", "self_attn_layer_norm", "cross_attn_layer_norm", "layer_norm"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("model.decoder.ref_point_head.**", "queries.position.mlp.**"),
    ("model.reference_point_embed.weight", "queries.corrections.weight"),
    ("model.query_feat.weight", "queries.content.weight"),
    ("class_embed.*", "class_head.*"),
    ("bbox_embed.**", "box_head.**"),
)

# The authors' decoder and queries, also of RF-DETR.
AUTHORS_DETECTOR: Table = (
    *inside("transformer.", "", HEADS),
    ("transformer.decoder.layers.*.self_attn.**", "decoder.layers.*.self_attn.**"),
    ("transformer.decoder.layers.*.cross_attn.**", "decoder.layers.*.cross_attn.**"),
    ("transformer.decoder.layers.*.linear1.*", "decoder.layers.*.feed_forward.linear1.*"),
    ("transformer.decoder.layers.*.linear2.*", "decoder.layers.*.feed_forward.linear2.*"),
    *((f"transformer.decoder.layers.*.norm{i}.*", f"decoder.layers.*.norm{i}.*") for i in (1, 2, 3)),
    ("transformer.decoder.norm.*", "decoder.norm.*"),
    ("transformer.decoder.ref_point_head.**", "queries.position.mlp.**"),
    ("refpoint_embed.weight", "queries.corrections.weight"),
    ("query_feat.weight", "queries.content.weight"),
    ("class_embed.*", "class_head.*"),
    ("bbox_embed.**", "box_head.**"),
)

# The authors' projector, also of RF-DETR.
AUTHORS_PROJECTOR: Table = (
    *projection("backbone.0.projector.stages.*.0", "neck.projections.*", parts=("cv1", "cv2"), blocks="m", norm="bn"),
    ("backbone.0.projector.stages.*.1.*", "neck.norms.*.*"),
)

QUERIES_KEYS_VALUES = (  # of a vision transformer's block, in files and as transformers has them in memory
    *((f"attention.attention.{name}", name[0]) for name in ("query", "key", "value")),
    *((f"attention.{x}_proj", x) for x in "qkv"),
)
LAYER, OWN = "model.backbone.backbone.encoder.layer.*.", "backbone.blocks.*."
SCALE = "model.backbone.projector.scale_layers.*"

TABLE: Table = (
    *DETECTOR,
    ("model.backbone.backbone.embeddings.position_embeddings", "backbone.pos_embed"),
    ("model.backbone.backbone.embeddings.projection.*", "backbone.patch_embed.*"),
    *inside(
        LAYER,
        OWN,
        (
            *((f"{theirs}.weight", f"attn.{x}_proj.weight") for theirs, x in QUERIES_KEYS_VALUES),
            *((f"{theirs}.bias", f"attn.{x}_bias") for theirs, x in QUERIES_KEYS_VALUES),
            ("attention.output.*", "attn.proj.*"),
            ("attention.o_proj.*", "attn.proj.*"),
            ("layernorm_before.*", "norm1.*"),
            ("layernorm_after.*", "norm2.*"),
            ("intermediate.fc1.*", "mlp.fc1.*"),
            ("intermediate.fc2.*", "mlp.fc2.*"),
            ("gamma_1", "gamma_1"),
            ("gamma_2", "gamma_2"),
        ),
    ),
    *projection(
        f"{SCALE}.projector_layer", "neck.projections.*", parts=("conv1", "conv2"), blocks="bottlenecks", norm="norm"
    ),
    (f"{SCALE}.layer_norm.*", "neck.norms.*.*"),
    *convolution(f"{SCALE}.sampling_layers.*.layers.*", "neck.sampling.*.*.*"),
    (f"{SCALE}.sampling_layers.*.layers.*.*", "neck.sampling.*.*.*.*"),
)

AUTHORS: Table = (
    *AUTHORS_DETECTOR,
    ("backbone.0.encoder.pos_embed", "backbone.pos_embed"),
    ("backbone.0.encoder.patch_embed.proj.*", "backbone.patch_embed.*"),
    ("backbone.0.encoder.blocks.**", "backbone.blocks.**"),
    *AUTHORS_PROJECTOR,
    *convolution("backbone.0.projector.stages_sampling.*.*.*", "neck.sampling.*.*.*", ("conv", "bn")),
    ("backbone.0.projector.stages_sampling.*.*.*.*", "neck.sampling.*.*.*.*"),
)

MARKS = ("backbone.0.encoder.pos_embed", "transformer.enc_out_class_embed.0.weight")  # by which AUTHORS is known

GROUP = re.compile(r"queries\.heads\.(\d+)\.(.+)")
FURTHER = re.compile(r"queries\.(?:further_heads\.(\d+)\.)?((?:token|class|box)_head\..+)")


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's or the authors' weights under our names.

    Raises:
        UserError: a name that no table knows, or attention without its queries, keys or values.
    """
    return our_groups(our_names(state, (*TABLE, *AUTHORS), FAMILY, source))


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that LW-DETR does not have.
    """
    return their_names(their_groups(state), TABLE, FAMILY, source)


def our_groups(state: State) -> State:
    """Return weights with heads of further groups apart from those that count, and what reads sines of y, x as ours."""
    ours = {}
    for name, tensor in state.items():
        if match := GROUP.fullmatch(name):
            before = "" if match[1] == "0" else f"further_heads.{int(match[1]) - 1}."
            name = f"queries.{before}{match[2]}"
        ours[name] = tensor
    return changed(ours, SINES, y_before_x)


def their_groups(state: Mapping[str, Tensor]) -> State:
    """Undo `our_groups`."""
    theirs = {}
    for name, tensor in state.items():
        if match := FURTHER.fullmatch(name):
            name = f"queries.heads.{0 if match[1] is None else int(match[1]) + 1}.{match[2]}"
        theirs[name] = tensor
    return changed(theirs, SINES, y_before_x)


SIZES = {  # width and blocks of the backbone, width of the transformer, queries
    "lw_detr_tiny": (192, 6, 256, 100),
    "lw_detr_small": (192, 10, 256, 300),
    "lw_detr_medium": (384, 10, 256, 300),
    "lw_detr_large": (384, 10, 384, 300),
    "lw_detr_xlarge": (768, 10, 384, 300),
}


def detectors_in(state: Mapping[str, Tensor]) -> list[str]:
    """Return which detectors weights under our names may be of."""
    groups = 1 + layers_of(state, "queries.further_heads")
    size = (
        len(state["backbone.blocks.0.norm1.weight"]),
        layers_of(state, "backbone.blocks"),
        len(state["decoder.norm.weight"]),
        len(state["queries.content.weight"]) // groups,
    )
    return [name for name, each in SIZES.items() if each == size]


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    backbone = config.get("backbone_config") or {}
    size = (
        *(backbone.get(key) for key in ("hidden_size", "num_hidden_layers")),
        *(config.get(key) for key in ("d_model", "num_queries")),
    )
    same = (name for name, each in SIZES.items() if each == size)
    return next(same, None) if config.get("model_type") == "lw_detr" else None


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than LW-DETR's.
    """
    backbone, neck = model.backbone, model.neck
    if not isinstance(backbone, PlainViT) or not isinstance(neck, C2fProjector):
        raise UserError("LW-DETR's layout is for backbone=lw_detr_… with neck=c2f only")
    return {
        "model_type": "lw_detr",
        "backbone_config": {
            "model_type": "lw_detr_vit",
            **vit_config(backbone),
            "num_windows": backbone.windows**2,
            "window_block_indices": [n for n in range(len(backbone.blocks)) if n not in backbone.global_blocks],
            "out_indices": backbone.levels,
            "image_size": 4 * backbone.windows**2 * backbone.patch_size,  # not read, but it has to fit
            "pretrain_image_size": backbone.grid * backbone.patch_size,
        },
        "projector_scale_factors": [backbone.patch_size / stride for stride in neck.strides],
        **detector_config(model),
    }


def vit_config(backbone: WindowedViT) -> dict[str, Any]:
    """Return what a configuration says of any vision transformer."""
    block: Any = backbone.blocks[0]
    return {
        "hidden_size": backbone.channels[0],
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "patch_size": backbone.patch_size,
    }


def detector_config(model: DETR) -> dict[str, Any]:
    """Return what a configuration says of decoder and queries.

    Raises:
        UserError: they are not LW-DETR's.
    """
    decoder, queries = model.decoder, model.queries
    plain = isinstance(decoder, DeformableDecoder) and not decoder.refine
    if not plain or not isinstance(queries, GroupedTwoStageQueries):
        raise UserError("this layout is for transformer=lw_detr_… with queries=grouped_two_stage only")
    layer: Any = decoder.layers[0]
    cross = layer.cross_attn
    return {
        "d_model": cross.value_proj.in_features,
        "decoder_layers": len(decoder.layers),
        "decoder_ffn_dim": layer.feed_forward.linear1.out_features,
        "decoder_self_attention_heads": layer.self_attn.num_heads,
        "decoder_cross_attention_heads": cross.num_heads,
        "decoder_n_points": cross.points[0],
        "num_feature_levels": model.neck.num_levels,
        "num_queries": queries.num_queries,
        "group_detr": 1 + len(queries.further_heads),
        "dropout": 0.0,
    }
