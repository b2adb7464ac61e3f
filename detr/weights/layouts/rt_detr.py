"""RT-DETR's and RT-DETRv2's weights as Hugging Face's transformers and as the authors (lyuwenyu/RT-DETR) call them.

Otherwise than here, transformers keeps queries, keys and values of attention apart. What follows from the config alone
(anchors, points of each level) is in some files; it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.backbones.resnet_d import AUTHORS as RESNET_D
from detr.models.backbones.resnet_d import STEM, ResNetD
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.two_stage import TwoStageQueries
from detr.weights.layouts.blocks import (
    State,
    attention,
    convolution,
    feed_forward,
    layers_of,
    norms,
    our_names,
    resnet_stage,
    their_names,
)
from detr.weights.renaming import Table

FAMILY = "RT-DETR"
SCALES = ".num_points_scale"  # the end of names that only RT-DETRv2's authors write
DERIVED = (".n_points_scale", SCALES, "decoder.anchors", "decoder.valid_mask")  # endings

MODEL = "model.backbone.model"


def _fusion(theirs: str, ours: str) -> Table:
    """Rows of a block that fuses two levels."""
    parts = {"conv1": "entry", "conv2": "direct", "conv3": "exit"}
    branches = {"conv1": "wide", "conv2": "narrow"}
    return (
        *(row for a, b in parts.items() for row in convolution(f"{theirs}.{a}", f"{ours}.{b}")),
        *(
            row
            for a, b in branches.items()
            for row in convolution(f"{theirs}.bottlenecks.*.{a}", f"{ours}.blocks.*.{b}")
        ),
    )


def _levels(prefix: str) -> Table:
    """Rows of what fuses levels in the encoder."""
    return (
        *convolution(f"{prefix}.lateral_convs.*", "encoder.lateral.*"),
        *convolution(f"{prefix}.downsample_convs.*", "encoder.downsampling.*"),
        *_fusion(f"{prefix}.fpn_blocks.*", "encoder.top_down.*"),
        *_fusion(f"{prefix}.pan_blocks.*", "encoder.bottom_up.*"),
    )


ENCODER_LAYER, DECODER_LAYER = "model.encoder.encoder.0.layers.*", "model.decoder.layers.*"

TABLE: Table = (
    *(
        row
        for index, (kernel, norm) in enumerate(STEM)
        for row in (
            (f"{MODEL}.embedder.embedder.{index}.convolution.*", f"backbone.body.{kernel}.*"),
            (f"{MODEL}.embedder.embedder.{index}.normalization.*", f"backbone.body.{norm}.*"),
        )
    ),
    *resnet_stage(MODEL, "backbone.body", 0, "shortcut", 1),
    *(row for index in (1, 2, 3) for row in resnet_stage(MODEL, "backbone.body", index, "shortcut.1", 1)),
    *convolution("model.encoder_input_proj.*", "neck.projections.*", ("0", "1")),
    *attention(f"{ENCODER_LAYER}.self_attn", "encoder.layers.*.self_attn"),
    *feed_forward(ENCODER_LAYER, "encoder.layers.*"),
    *norms(ENCODER_LAYER, "encoder.layers.*", "self_attn_layer_norm", "final_layer_norm"),
    *_levels("model.encoder"),
    *convolution("model.decoder_input_proj.*", "encoder.outputs.*", ("0", "1")),
    ("model.denoising_class_embed.weight", "denoising.embedding.weight"),
    ("model.weight_embedding.weight", "queries.content.weight"),
    ("model.enc_output.*.*", "queries.token_head.*.*"),
    ("model.enc_score_head.*", "queries.class_head.*"),
    ("model.enc_bbox_head.**", "queries.box_head.**"),
    ("model.decoder.query_pos_head.**", "queries.position.mlp.**"),
    *attention(f"{DECODER_LAYER}.self_attn", "decoder.layers.*.self_attn"),
    (f"{DECODER_LAYER}.encoder_attn.*.*", "decoder.layers.*.cross_attn.*.*"),
    *feed_forward(DECODER_LAYER, "decoder.layers.*"),
    *norms(DECODER_LAYER, "decoder.layers.*", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ("model.decoder.class_embed.*.*", "class_head.*.*"),
    ("model.decoder.bbox_embed.*.**", "box_head.*.**"),
    ("class_embed.*.*", "class_head.*.*"),  # some files have these beside those of the decoder, or instead
    ("bbox_embed.*.**", "box_head.*.**"),
)

THEIR_ENCODER, THEIR_DECODER = "encoder.encoder.0.layers.*", "decoder.decoder.layers.*"

AUTHORS: Table = (
    *((f"backbone.{theirs}", f"backbone.body.{ours}") for theirs, ours in RESNET_D),
    *convolution("encoder.input_proj.*", "neck.projections.*", ("0", "1")),
    *convolution("encoder.input_proj.*", "neck.projections.*"),
    (f"{THEIR_ENCODER}.self_attn.**", "encoder.layers.*.self_attn.**"),
    *((f"{THEIR_ENCODER}.linear{i}.*", f"encoder.layers.*.feed_forward.linear{i}.*") for i in (1, 2)),
    *norms(THEIR_ENCODER, "encoder.layers.*", "norm1", "norm2"),
    *_levels("encoder"),
    *convolution("decoder.input_proj.*", "encoder.outputs.*"),
    ("decoder.denoising_class_embed.weight", "denoising.embedding.weight"),
    ("decoder.tgt_embed.weight", "queries.content.weight"),
    ("decoder.enc_output.0.*", "queries.token_head.0.*"),
    ("decoder.enc_output.1.*", "queries.token_head.1.*"),
    ("decoder.enc_output.proj.*", "queries.token_head.0.*"),
    ("decoder.enc_output.norm.*", "queries.token_head.1.*"),
    ("decoder.enc_score_head.*", "queries.class_head.*"),
    ("decoder.enc_bbox_head.**", "queries.box_head.**"),
    ("decoder.query_pos_head.**", "queries.position.mlp.**"),
    (f"{THEIR_DECODER}.self_attn.**", "decoder.layers.*.self_attn.**"),
    (f"{THEIR_DECODER}.cross_attn.*.*", "decoder.layers.*.cross_attn.*.*"),
    *((f"{THEIR_DECODER}.linear{i}.*", f"decoder.layers.*.feed_forward.linear{i}.*") for i in (1, 2)),
    *norms(THEIR_DECODER, "decoder.layers.*", "norm1", "norm2", "norm3"),
    ("decoder.dec_score_head.*.*", "class_head.*.*"),
    ("decoder.dec_bbox_head.*.**", "box_head.*.**"),
)


MARKS = ("encoder.fpn_blocks.0.conv1.conv.weight", "decoder.dec_score_head.0.weight")  # by which AUTHORS is known


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's or the authors' weights under our names.

    Raises:
        UserError: a name that neither table knows, or attention without its queries, keys or values.
    """
    learned = {name: tensor for name, tensor in state.items() if not name.endswith(DERIVED)}
    return our_names(learned, (*TABLE, *AUTHORS), FAMILY, source)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that RT-DETR does not have.
    """
    return their_names(state, TABLE, FAMILY, source)


# Of each size: blocks of the backbone's stages, whether they are bottlenecks, width of the encoder, decoder layers.
SIZES = {
    "r18": ((2, 2, 2, 2), False, 256, 3),
    "r34": ((3, 4, 6, 3), False, 256, 4),
    "r50": ((3, 4, 6, 3), True, 256, 6),
    "r101": ((3, 4, 23, 3), True, 384, 6),
}


def detectors_in(state: Mapping[str, Tensor]) -> list[str]:
    """Return which detectors weights under our names may be of.

    RT-DETRv2, interpolating, is RT-DETR in other words: it has the same names here, and gives the same numbers.
    """
    size = (
        tuple(layers_of(state, f"backbone.body.layer{stage}") for stage in (1, 2, 3, 4)),
        "backbone.body.layer1.0.conv3.weight" in state,
        len(state["encoder.layers.0.norm1.weight"]),
        layers_of(state, "decoder.layers"),
    )
    return [f"rt_detr_{name}" for name, each in SIZES.items() if each == size]


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    backbone = config.get("backbone_config") or {}
    size = (
        tuple(backbone.get("depths", (3, 4, 6, 3))),
        backbone.get("layer_type", "bottleneck") == "bottleneck",
        config.get("encoder_hidden_dim", 256),
        config.get("decoder_layers", 6),
    )
    name = next((name for name, each in SIZES.items() if each == size), None)
    plain = config.get("decoder_n_points", 4) == 4 and config.get("decoder_method", "default") == "default"
    family = config.get("model_type")
    return f"{family}_{name}" if family in ("rt_detr", "rt_detr_v2") and name and plain else None


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than RT-DETR's.
    """
    decoder, queries = model.decoder, model.queries
    backbone, encoder = model.backbone, model.encoder
    if not (
        isinstance(backbone, ResNetD)
        and isinstance(encoder, HybridEncoder)
        and isinstance(decoder, DeformableDecoder)
        and isinstance(queries, TwoStageQueries)
    ):
        raise UserError("RT-DETR's layout is for detector=rt_detr_… and rt_detr_v2_… only")
    stages: dict[str, Any] = {stage: backbone.body[stage] for stage in backbone.LEVELS}
    fusing: Any = encoder.top_down[0]
    first: Any = encoder.layers[0]
    layer: Any = decoder.layers[0]
    cross = layer.cross_attn
    points = set(cross.points)
    if len(points) > 1:
        raise UserError("transformers has as many points in each level; transformer.decoder.num_points is a list here")
    fusion, width = fusing.blocks[0].wide[0].in_channels, first.self_attn.embed_dim
    return {
        "model_type": "rt_detr_v2" if cross.discrete else "rt_detr",
        "backbone_config": {
            "model_type": "rt_detr_resnet",
            "depths": [len(stage) for stage in stages.values()],
            "layer_type": "bottleneck" if hasattr(stages["layer1"][0], "conv3") else "basic",
            "hidden_sizes": [backbone.channels[-1] // 8 * 2**i for i in range(4)],
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "freeze_backbone_batch_norms": not any("num_batches" in name for name in backbone.state_dict()),
        "encoder_in_channels": backbone.channels,
        "encoder_hidden_dim": width,
        "encoder_layers": len(encoder.layers),
        "encoder_ffn_dim": first.feed_forward.linear1.out_features,
        "encoder_attention_heads": first.self_attn.num_heads,
        "hidden_expansion": fusion / width,
        "d_model": layer.self_attn.embed_dim,
        "decoder_in_channels": [width] * encoder.num_levels,
        "decoder_layers": len(decoder.layers),
        "decoder_ffn_dim": layer.feed_forward.linear1.out_features,
        "decoder_attention_heads": cross.num_heads,
        "decoder_n_points": points.pop(),
        "num_feature_levels": encoder.num_levels,
        "num_queries": queries.num_queries,
        "learn_initial_query": queries.content is not None,
        "num_denoising": 100 if model.denoising is not None else 0,
    } | ({"decoder_method": "discrete", "decoder_n_levels": encoder.num_levels} if cross.discrete else {})
