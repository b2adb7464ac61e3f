"""DAB-DETR's weights as Hugging Face's transformers calls them.

Otherwise than here, transformers keeps queries, keys and values of the encoder's attention apart, and the sines of an
anchor begin with y.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.dab import DabDecoder
from detr.models.detr import DETR
from detr.weights.layouts.blocks import (
    RESNETS,
    SINES,
    State,
    attention,
    changed,
    feed_forward,
    norms,
    our_names,
    resnet_config,
    sizes,
    their_names,
    y_before_x,
)
from detr.weights.renaming import Table

FAMILY = "DAB-DETR"
ENCODER, DECODER = "model.encoder.layers.*", "model.decoder.layers.*"
PARTS = {"query_content": "query_content", "query_pos": "query_position", "query_pos_sine": "query_spatial"}
PARTS |= {"key_content": "key_content", "key_pos": "key_position", "value": "value"}

TABLE: Table = (
    *RESNETS,
    ("model.input_projection.*", "neck.projections.0.*"),
    ("model.query_refpoint_embeddings.weight", "queries.anchors.weight"),
    ("model.decoder.ref_point_head.**", "queries.position.mlp.**"),
    *attention(f"{ENCODER}.self_attn", "encoder.layers.*.self_attn"),
    *feed_forward(ENCODER, "encoder.layers.*"),
    (f"{ENCODER}.activation_fn.weight", "encoder.layers.*.feed_forward.activation.weight"),
    *norms(ENCODER, "encoder.layers.*", "self_attn_layer_norm", "final_layer_norm"),
    ("model.encoder.query_scale.**", "encoder.position_scale.**"),
    *(
        (f"{DECODER}.{module}.{module}_{theirs}_proj.*", f"decoder.layers.*.{module}.{ours}.*")
        for module in ("self_attn", "cross_attn")
        for theirs, ours in PARTS.items()
    ),
    *(
        (f"{DECODER}.{module}.{module}.output_proj.*", f"decoder.layers.*.{module}.output.*")
        for module in ("self_attn", "cross_attn")
    ),
    *feed_forward(f"{DECODER}.mlp", "decoder.layers.*"),
    (f"{DECODER}.mlp.activation_fn.weight", "decoder.layers.*.feed_forward.activation.weight"),
    *norms(
        DECODER,
        "decoder.layers.*",
        "self_attn.self_attn_layer_norm",
        "cross_attn.cross_attn_layer_norm",
        "mlp.final_layer_norm",
    ),
    ("model.decoder.query_scale.**", "decoder.spatial_scale.**"),
    ("model.decoder.ref_anchor_head.**", "decoder.side_head.**"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("class_embed.*", "class_head.*"),
    ("bbox_predictor.**", "box_head.**"),
    ("model.decoder.bbox_embed.**", "box_head.**"),  # the same, where a file has it twice
)


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, or attention without its queries, keys or values.
    """
    return changed(our_names(state, TABLE, FAMILY, source), SINES, y_before_x)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that DAB-DETR does not have.
    """
    return their_names(changed(dict(state), SINES, y_before_x), TABLE, FAMILY, source)


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    plain = config.get("num_queries", 300) == 300 and config.get("num_patterns", 0) == 0
    return "dab_detr_r50" if config.get("model_type") == "dab-detr" and plain else None


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than DAB-DETR's.
    """
    if not isinstance(model.decoder, DabDecoder):
        raise UserError("DAB-DETR's layout is for detector=dab_detr_r50 only")
    layer: Any = model.decoder.layers[0]
    return {
        "model_type": "dab-detr",
        "backbone_config": resnet_config(model, FAMILY),
        "hidden_size": layer.feed_forward.linear2.out_features,
        **sizes(model, heads=layer.self_attn.num_heads),
    }
