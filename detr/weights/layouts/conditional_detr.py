"""Conditional DETR's weights as Hugging Face's transformers calls them.

Otherwise than here, transformers keeps queries, keys and values of the encoder's attention apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.conditional import ConditionalDecoder
from detr.models.dab import DabDecoder
from detr.models.detr import DETR
from detr.weights.layouts.blocks import (
    RESNETS,
    State,
    attention,
    feed_forward,
    norms,
    our_names,
    resnet_config,
    sizes,
    their_names,
)
from detr.weights.renaming import Table

FAMILY = "Conditional DETR"
ENCODER, DECODER = "model.encoder.layers.*", "model.decoder.layers.*"

SELF = {"sa_qcontent": "query_content", "sa_qpos": "query_position", "sa_kcontent": "key_content"}
SELF |= {"sa_kpos": "key_position", "sa_v": "value"}
CROSS = {"ca_qcontent": "query_content", "ca_qpos": "query_position", "ca_qpos_sine": "query_spatial"}
CROSS |= {"ca_kcontent": "key_content", "ca_kpos": "key_position", "ca_v": "value"}

TABLE: Table = (
    *RESNETS,
    ("model.input_projection.*", "neck.projections.0.*"),
    ("model.query_position_embeddings.weight", "queries.embedding.weight"),
    ("model.decoder.ref_point_head.**", "queries.point_head.**"),
    *attention(f"{ENCODER}.self_attn", "encoder.layers.*.self_attn"),
    *feed_forward(ENCODER, "encoder.layers.*"),
    *norms(ENCODER, "encoder.layers.*", "self_attn_layer_norm", "final_layer_norm"),
    *((f"{DECODER}.{theirs}_proj.*", f"decoder.layers.*.self_attn.{ours}.*") for theirs, ours in SELF.items()),
    (f"{DECODER}.self_attn.out_proj.*", "decoder.layers.*.self_attn.output.*"),
    *((f"{DECODER}.{theirs}_proj.*", f"decoder.layers.*.cross_attn.{ours}.*") for theirs, ours in CROSS.items()),
    (f"{DECODER}.encoder_attn.out_proj.*", "decoder.layers.*.cross_attn.output.*"),
    *feed_forward(DECODER, "decoder.layers.*"),
    *norms(DECODER, "decoder.layers.*", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ("model.decoder.query_scale.**", "decoder.spatial_scale.**"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("class_labels_classifier.*", "class_head.*"),
    ("bbox_predictor.**", "box_head.**"),
)


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, or attention without its queries, keys or values.
    """
    return our_names(state, TABLE, FAMILY, source)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that Conditional DETR does not have.
    """
    return their_names(state, TABLE, FAMILY, source)


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    plain = config.get("num_queries", 300) == 300 and config.get("decoder_layers", 6) == 6
    return "conditional_detr_r50" if config.get("model_type") == "conditional_detr" and plain else None


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than Conditional DETR's.
    """
    if not isinstance(model.decoder, ConditionalDecoder) or isinstance(model.decoder, DabDecoder):
        raise UserError("Conditional DETR's layout is for detector=conditional_detr_r50 only")
    layer: Any = model.decoder.layers[0]
    return {
        "model_type": "conditional_detr",
        "backbone_config": resnet_config(model, FAMILY),
        "d_model": layer.feed_forward.linear2.out_features,
        **sizes(model, heads=layer.self_attn.num_heads),
    }
