"""DETR's weights as Hugging Face's `DetrForObjectDetection` and `DetrForSegmentation` call them.

Names as `save_pretrained` writes them, whichever version wrote them; the backbone is timm's ResNet or Hugging Face's
own. Attention keeps queries, keys and values apart there and together here; everything else is one table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detr.errors import UserError
from detr.models.backbone import ResNet
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.position_embedding import LearnedPositionEmbedding
from detr.weights.official import MASK_HEAD, RESNET, Layout, Renaming, Table, renamed

State = dict[str, Tensor]

STAGES = "model.backbone.conv_encoder.model.encoder.stages"
STEM = "model.backbone.conv_encoder.model.embedder.embedder"


def _attention(side: str, theirs: str, ours: str) -> Table:
    return tuple(
        (f"model.{side}.layers.*.{theirs}.{part}_proj.*", f"{side}.layers.*.{ours}.{part}_proj.*")
        for part in ("q", "k", "v", "out")
    )


def _feed_forward(side: str) -> Table:
    return tuple((f"model.{side}.layers.*.fc{i}.*", f"{side}.layers.*.feed_forward.linear{i}.*") for i in (1, 2))


def _stage(index: int) -> Table:
    """A stage of Hugging Face's own ResNet, whose blocks have up to three convolutions."""
    theirs, ours = f"{STAGES}.{index}.layers.*", f"backbone.body.layer{index + 1}.*"
    convolutions = [(f"{theirs}.layer.{i}.convolution.*", f"{ours}.conv{i + 1}.*") for i in range(3)]
    norms = [(f"{theirs}.layer.{i}.normalization.*", f"{ours}.bn{i + 1}.*") for i in range(3)]
    shortcut = [
        (f"{theirs}.shortcut.convolution.*", f"{ours}.downsample.0.*"),
        (f"{theirs}.shortcut.normalization.*", f"{ours}.downsample.1.*"),
    ]
    return (*convolutions, *norms, *shortcut)


DETECTOR: Table = (
    *((f"model.backbone.conv_encoder.model.{theirs}", f"backbone.body.{ours}") for theirs, ours in RESNET),
    (f"{STEM}.convolution.weight", "backbone.body.conv1.weight"),
    (f"{STEM}.normalization.*", "backbone.body.bn1.*"),
    *(row for index in range(4) for row in _stage(index)),
    ("model.backbone.position_embedding.row_embeddings.weight", "neck.position_embedding.row_embed.weight"),
    ("model.backbone.position_embedding.column_embeddings.weight", "neck.position_embedding.col_embed.weight"),
    ("model.position_embedding.row_embeddings.weight", "neck.position_embedding.row_embed.weight"),
    ("model.position_embedding.column_embeddings.weight", "neck.position_embedding.col_embed.weight"),
    ("model.input_projection.*", "neck.projections.0.*"),
    ("model.query_position_embeddings.weight", "queries.embedding.weight"),
    *_attention("encoder", "self_attn", "self_attn"),
    *_feed_forward("encoder"),
    ("model.encoder.layers.*.self_attn_layer_norm.*", "encoder.layers.*.norm1.*"),
    ("model.encoder.layers.*.final_layer_norm.*", "encoder.layers.*.norm2.*"),
    *_attention("decoder", "self_attn", "self_attn"),
    *_attention("decoder", "encoder_attn", "cross_attn"),
    *_feed_forward("decoder"),
    ("model.decoder.layers.*.self_attn_layer_norm.*", "decoder.layers.*.norm1.*"),
    ("model.decoder.layers.*.encoder_attn_layer_norm.*", "decoder.layers.*.norm2.*"),
    ("model.decoder.layers.*.final_layer_norm.*", "decoder.layers.*.norm3.*"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("class_labels_classifier.*", "class_head.*"),
    ("bbox_predictor.**", "box_head.**"),
)

PLAIN = Layout((Renaming(DETECTOR),))
WITH_MASKS = Layout((Renaming(DETECTOR, "detr."), Renaming(MASK_HEAD)))

APART = re.compile(r"(.+_attn\.)([qkv])_proj\.(weight|bias)")  # queries, keys or values of an attention
TOGETHER = re.compile(r"(.+_attn\.)in_proj_(weight|bias)")


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, or attention without its queries, keys or values.
    """
    layout = _layout(any(name.startswith("detr.") for name in state))
    apart = renamed(state, layout.ours, f"{source}: %s is no weight of Hugging Face's DETR")
    joined: State = {}
    for name, tensor in apart.items():
        match = APART.fullmatch(name)
        if match is None:
            joined[name] = tensor
        elif (target := f"{match[1]}in_proj_{match[3]}") not in joined:
            three = [f"{match[1]}{part}_proj.{match[3]}" for part in "qkv"]
            missing = [each for each in three if each not in apart]
            if missing:
                raise UserError(f"{source}: {layout.theirs(missing[0])} is missing")
            joined[target] = torch.cat([apart[each] for each in three])
    return joined


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them, the backbone as timm's.

    Raises:
        UserError: a weight that their DETR does not have.
    """
    apart: State = {}
    for name, tensor in state.items():
        if match := TOGETHER.fullmatch(name):
            parts = zip("qkv", tensor.chunk(3), strict=True)
            apart |= {f"{match[1]}{part}_proj.{match[2]}": each.clone() for part, each in parts}
        else:
            apart[name] = tensor
    layout = _layout(any(name.startswith("mask_head.") for name in state))
    return renamed(apart, layout.theirs, f"{source}: Hugging Face's DETR has no place for %s")


def their_name(name: str, state: Mapping[str, Tensor]) -> str:
    """Return Hugging Face's name for one of ours, for messages; of joined attention weights the first of the three."""
    apart = TOGETHER.sub(r"\1q_proj.\2", name)
    return _layout(any(each.startswith("detr.") for each in state)).theirs(apart) or name


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
    learned = isinstance(model.neck.position_embedding, LearnedPositionEmbedding)
    layer = {
        "attention_heads": first.self_attn.num_heads,
        "ffn_dim": first.feed_forward.linear1.out_features,
    }
    return {
        "model_type": "detr",
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "backbone": backbone.name,
        "backbone_config": None,
        "dilation": backbone.dilated,
        "d_model": first.self_attn.embed_dim,
        "num_queries": model.queries.num_queries,
        "position_embedding_type": "learned" if learned else "sine",
        "activation_function": activation,
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in layer.items()},
        "encoder_layers": len(encoder.layers),
        "decoder_layers": len(decoder.layers),
    }


def _layout(masks: bool) -> Layout:
    return WITH_MASKS if masks else PLAIN
