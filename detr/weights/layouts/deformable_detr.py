"""Deformable DETR's weights as Hugging Face's transformers calls them: plain, with refinement, in two stages.

Otherwise than here, transformers keeps queries, keys and values of the decoder's self-attention apart, and positions
and contents of queries together. It has a head for every layer, though without refinement all are one; some files have
them once, others twice. In two stages the last of them propose, with scores of all classes of which only the first
counts. The sides of the box around a point are a bias of the head that corrects it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detr.errors import UserError
from detr.models.deformable import DeformableDecoder, DeformableEncoder
from detr.models.detr import DETR
from detr.weights.layouts.blocks import (
    RESNETS,
    State,
    attention,
    changed,
    feed_forward,
    layers_of,
    norms,
    our_names,
    resnet_config,
    sizes,
    their_names,
)
from detr.weights.renaming import Table

FAMILY = "Deformable DETR"
ENCODER, DECODER = "model.encoder.layers.*", "model.decoder.layers.*"
SIDES = torch.tensor([0.0, 0.0, -2.0, -2.0])  # logits of the box around a point, of which a head says corrections

HEAD = re.compile(r"(?:model\.decoder\.)?(class|bbox)_embed\.(\d+)\.(.+)")
TOGETHER = "model.query_position_embeddings.weight"

TABLE: Table = (
    *RESNETS,
    ("model.input_proj.*.*.*", "neck.projections.*.*.*"),
    ("model.extra_proj.*.*", "neck.extra.0.*.*"),  # so called until their number is known
    ("model.level_embed", "neck.level_embedding"),
    (f"{ENCODER}.self_attn.*.*", "encoder.layers.*.self_attn.*.*"),
    *feed_forward(ENCODER, "encoder.layers.*"),
    *norms(ENCODER, "encoder.layers.*", "self_attn_layer_norm", "final_layer_norm"),
    *attention(f"{DECODER}.self_attn", "decoder.layers.*.self_attn"),
    (f"{DECODER}.encoder_attn.*.*", "decoder.layers.*.cross_attn.*.*"),
    *feed_forward(DECODER, "decoder.layers.*"),
    *norms(DECODER, "decoder.layers.*", "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    ("model.position_embeddings.weight", "queries.embedding.weight"),
    ("model.content_embeddings.weight", "queries.content.weight"),
    ("model.reference_points.*", "queries.point_head.layers.0.*"),
    ("model.enc_output.*", "queries.token_head.0.*"),
    ("model.enc_output_norm.*", "queries.token_head.1.*"),
    ("model.pos_trans.*", "queries.anchor_head.0.*"),
    ("model.pos_trans_norm.*", "queries.anchor_head.1.*"),
    ("proposals.class_embed.*", "queries.class_head.*"),
    ("proposals.bbox_embed.**", "queries.box_head.**"),
    ("class_embed.**", "class_head.**"),
    ("bbox_embed.**", "box_head.**"),
)


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, attention without its queries, keys or values, or heads that
            differ where all layers share one.
    """
    two_stage = "model.enc_output.weight" in state
    refines = two_stage or any(name.startswith("model.decoder.bbox_embed.") for name in state)
    theirs = {name: tensor for name, tensor in state.items() if not HEAD.fullmatch(name)}
    theirs |= _heads(state, refines=refines, two_stage=two_stage, source=source)
    last = layers_of(theirs, "model.input_proj") - 1  # made by a convolution with stride 2
    if f"model.input_proj.{last}.0.weight" in theirs and theirs[f"model.input_proj.{last}.0.weight"].shape[-1] == 3:
        theirs = {name.replace(f"input_proj.{last}.", "extra_proj."): tensor for name, tensor in theirs.items()}
    if TOGETHER in theirs:
        position, content = theirs.pop(TOGETHER).chunk(2, 1)
        theirs |= {"model.position_embeddings.weight": position, "model.content_embeddings.weight": content}
    ours = our_names(theirs, TABLE, FAMILY, source)
    return ours if two_stage else changed(ours, _first_bias(refines), lambda bias: bias - SIDES.to(bias))


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them, heads of all layers apart.

    Raises:
        UserError: a weight that Deformable DETR does not have, or one head for all layers that refine.
    """
    two_stage, refines = "queries.token_head.0.weight" in state, "box_head.0.layers.0.weight" in state
    if two_stage and not refines:
        raise UserError(f"{source}: {FAMILY} in two stages has a head for every layer; use model.heads_per_layer=true")
    ours = dict(state)
    if not two_stage:
        ours = changed(ours, _first_bias(refines), lambda bias: bias + SIDES.to(bias))
    theirs = their_names(ours, TABLE, FAMILY, source)
    levels, layers = layers_of(theirs, "model.input_proj"), layers_of(theirs, "model.decoder.layers")
    theirs = {name.replace("extra_proj.", f"input_proj.{levels}."): tensor for name, tensor in theirs.items()}
    if "model.position_embeddings.weight" in theirs:
        parts = [theirs.pop(f"model.{part}_embeddings.weight") for part in ("position", "content")]
        theirs[TOGETHER] = torch.cat(parts, 1)
    heads = {name: theirs.pop(name) for name in list(theirs) if name.startswith(("class_", "bbox_", "proposals."))}
    classes = len(next(tensor for name, tensor in heads.items() if name.startswith("class_embed.")))
    for name, tensor in heads.items():
        each = name.removeprefix("proposals.")
        kind, _, rest = each.partition(".")
        if each is not name and kind == "class_embed":
            tensor = torch.cat([tensor, tensor.new_zeros(classes - 1, *tensor.shape[1:])])
        numbers = [layers] if each != name else [None] if refines else range(layers)
        for number in numbers:
            numbered = each if number is None else f"{kind}.{number}.{rest}"
            theirs[numbered] = tensor.clone()
            if two_stage or (refines and kind == "bbox_embed"):
                theirs[f"model.decoder.{numbered}"] = tensor.clone()
    return theirs


def _heads(state: Mapping[str, Tensor], *, refines: bool, two_stage: bool, source: str) -> State:
    """Heads as the table has them: each once; one for all layers, or each its own, and those that propose apart."""
    layers = layers_of(state, "model.decoder.layers")
    found: dict[tuple[str, int, str], Tensor] = {}
    for name, tensor in state.items():
        if match := HEAD.fullmatch(name):
            key = (match[1], int(match[2]), match[3])
            if key in found and not torch.equal(found[key], tensor):
                raise UserError(f"{source}: {name} is there twice, with different values")
            found[key] = tensor
    heads: State = {}
    for (kind, number, rest), tensor in found.items():
        if two_stage and number == layers:
            heads[f"proposals.{kind}_embed.{rest}"] = tensor[:1] if kind == "class" else tensor
        elif refines:
            heads[f"{kind}_embed.{number}.{rest}"] = tensor
        elif torch.equal(tensor, found[kind, 0, rest]):
            heads[f"{kind}_embed.{rest}"] = tensor
        else:
            raise UserError(f"{source}: {kind}_embed.{number}.{rest} differs from that of the first layer")
    for (kind, number, rest), tensor in found.items():  # a file may have heads once that transformers has tied
        for other in range(layers) if refines and number == 0 else ():
            heads.setdefault(f"{kind}_embed.{other}.{rest}", tensor)
    return heads


def _first_bias(refines: bool) -> str:
    """Our name of the bias of what corrects points: without refinement of all layers, else of the first."""
    return f"box_head.{'0.' if refines else ''}layers.2.bias"


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    if config.get("model_type") != "deformable_detr" or config.get("num_feature_levels", 4) != 4:
        return None
    if config.get("two_stage"):
        return "deformable_detr_r50_two_stage"
    return "deformable_detr_r50" + ("_refine" if config.get("with_box_refine") else "")


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than Deformable DETR's.
    """
    decoder, encoder = model.decoder, model.encoder
    if not isinstance(decoder, DeformableDecoder) or not isinstance(encoder, DeformableEncoder):
        raise UserError("Deformable DETR's layout is for detector=deformable_detr_r50… only")
    first: Any = encoder.layers[0]
    layer: Any = decoder.layers[0]
    points = {*layer.cross_attn.points, *first.self_attn.points}
    if len(points) > 1 or layer.cross_attn.discrete:
        raise UserError("transformers' Deformable DETR has as many points in each level, and interpolates")
    two_stage = model.queries.reference == "anchor"
    return {
        "model_type": "deformable_detr",
        "backbone_config": resnet_config(model, FAMILY),
        "d_model": layer.feed_forward.linear2.out_features,
        "num_feature_levels": decoder.num_levels,
        "encoder_n_points": min(points),
        "decoder_n_points": min(points),
        "with_box_refine": decoder.refine,
        "two_stage": two_stage,
        "two_stage_num_proposals": model.queries.num_queries,
        "tie_word_embeddings": not decoder.refine,  # whether transformers takes the first layer's head for all layers
        **sizes(model, heads=layer.self_attn.num_heads),
    }
