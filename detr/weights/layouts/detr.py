"""DETR's weights as Hugging Face's `DetrForObjectDetection` and `DetrForSegmentation` call them.

Names as `save_pretrained` writes them, whichever version wrote them; the backbone is timm's ResNet, which is what is
written, since it may be dilated, or Hugging Face's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.errors import UserError
from detr.models.backbone import ResNet
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.mask_head import MaskHead
from detr.models.position_embedding import LearnedPositionEmbedding
from detr.weights.layouts.blocks import (
    THEIR_RESNET,
    TIMMS_RESNET,
    State,
    attention,
    feed_forward,
    norms,
    our_names,
    sizes,
    their_names,
)
from detr.weights.official import MASK_HEAD
from detr.weights.renaming import Renaming, Table

FAMILY = "Hugging Face's DETR"
ENCODER, DECODER = "model.encoder.layers.*", "model.decoder.layers.*"
POSITIONS = (("row_embeddings", "row_embed"), ("column_embeddings", "col_embed"))

TABLE: Table = (
    *TIMMS_RESNET,
    *THEIR_RESNET,
    *(
        (f"{place}.position_embedding.{theirs}.weight", f"neck.position_embedding.{ours}.weight")
        for place in ("model.backbone", "model")
        for theirs, ours in POSITIONS
    ),
    ("model.input_projection.*", "neck.projections.0.*"),
    ("model.query_position_embeddings.weight", "queries.embedding.weight"),
    *attention(f"{ENCODER}.self_attn", "encoder.layers.*.self_attn"),
    *feed_forward(ENCODER, "encoder.layers.*"),
    *norms(ENCODER, "encoder.layers.*", "self_attn_layer_norm", "final_layer_norm"),
    *attention(f"{DECODER}.self_attn", "decoder.layers.*.self_attn"),
    *attention(f"{DECODER}.encoder_attn", "decoder.layers.*.cross_attn"),
    *feed_forward(DECODER, "decoder.layers.*"),
    *norms(DECODER, "decoder.layers.*", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("class_labels_classifier.*", "class_head.*"),
    ("bbox_predictor.**", "box_head.**"),
)
WITH_MASKS: Table = (*((f"detr.{theirs}", ours) for theirs, ours in TABLE), *MASK_HEAD)


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, or attention without its queries, keys or values.
    """
    return our_names(state, _table(state, "detr."), FAMILY, source)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that their DETR does not have.
    """
    return their_names(state, _table(state, "mask_head."), FAMILY, source)


def their_name(name: str, state: Mapping[str, Tensor]) -> str:
    """Return Hugging Face's name for one of ours, for messages; of joined attention weights the first of the three."""
    apart = re.sub(r"in_proj_(weight|bias)$", r"q_proj.\1", name)
    return Renaming(_table(state, "detr.")).theirs(apart) or name


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return None: what a config.json says of the backbone is not enough, but names and shapes of the weights are."""
    return None


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than DETR's.
    """
    backbone, encoder, decoder = model.backbone, model.encoder, model.decoder
    plain = isinstance(backbone, ResNet) and isinstance(encoder, TransformerEncoder)
    if not plain or not isinstance(decoder, TransformerDecoder) or model.classification != "softmax":
        raise UserError("DETR's layout is for the paper's detector on a ResNet, with transformer=detr and loss=detr")
    first: Any = decoder.layers[0]
    activation = getattr(first.feed_forward.activation, "__name__", "")
    if first.pre_norm or activation not in ("relu", "gelu"):
        raise UserError("DETR's layout has norms after each sublayer and relu or gelu: transformer=detr")
    heads, masks = first.self_attn.num_heads, model.mask_head
    plain = isinstance(masks, MaskHead) and not masks.box and masks.attention.num_heads == heads
    if masks is not None and not plain:
        raise UserError(
            "DETR's layout has masks of mask_head=fpn only, with box=false and as many heads as the transformer"
        )
    learned = isinstance(model.neck.position_embedding, LearnedPositionEmbedding)
    return {
        "model_type": "detr",
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "backbone": backbone.name,
        "backbone_config": None,
        "dilation": backbone.dilated,
        "d_model": first.self_attn.embed_dim,
        "position_embedding_type": "learned" if learned else "sine",
        "activation_function": activation,
        **sizes(model, heads=heads),
    }


def _table(state: Mapping[str, Tensor], marked: str) -> Table:
    """Their names with masks, where names with that beginning are among these, or without."""
    return WITH_MASKS if any(name.startswith(marked) for name in state) else TABLE
