"""LW-DETR's weights as Hugging Face's transformers and as the authors (Atten4Vis/LW-DETR) call them.

Otherwise than here, transformers keeps queries, keys and values of attention apart, groups are numbered with the one
that counts among them, and the sines of a box begin with y. RF-DETR's layout (`rf_detr`) builds on this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detr.errors import UserError
from detr.models.backbones.plain_vit import PlainViT
from detr.models.backbones.windowed import WindowedViT
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR
from detr.models.grouped_two_stage import GroupedTwoStageQueries
from detr.models.projector import C2fProjector
from detr.weights.official import Renaming, Table

State = dict[str, Tensor]

HEADS: Table = (
    ("enc_output.*.*", "queries.heads.*.token_head.0.*"),
    ("enc_output_norm.*.*", "queries.heads.*.token_head.1.*"),
    ("enc_out_class_embed.*.*", "queries.heads.*.class_head.*"),
    ("enc_out_bbox_embed.*.**", "queries.heads.*.box_head.**"),
)


def inside(theirs: str, ours: str, table: Table) -> Table:
    """Return a table with something before all names of both sides."""
    return tuple((theirs + name, ours + own) for name, own in table)


def convolution(theirs: str, ours: str, norm: str) -> Table:
    """Return the rows of a convolution and its norm, which goes by that name."""
    return ((f"{theirs}.conv.weight", f"{ours}.0.weight"), (f"{theirs}.{norm}.*", f"{ours}.1.*"))


def projection(theirs: str, ours: str, *, parts: tuple[str, str], blocks: str, norm: str) -> Table:
    """Return the rows of a C2f block, whose convolutions, inner blocks and norms go by these names."""
    inner = [
        row
        for number, part in enumerate(parts)
        for row in convolution(f"{theirs}.{blocks}.*.{part}", f"{ours}.blocks.*.{number}", norm)
    ]
    first, last = parts
    return (
        *convolution(f"{theirs}.{first}", f"{ours}.entry", norm),
        *convolution(f"{theirs}.{last}", f"{ours}.exit", norm),
        *inner,
    )


# Hugging Face's decoder and queries.
DETECTOR: Table = (
    *inside("model.", "", HEADS),
    *((f"model.decoder.layers.*.self_attn.{x}_proj.*", f"decoder.layers.*.self_attn.{x}_proj.*") for x in "qkv"),
    ("model.decoder.layers.*.self_attn.o_proj.*", "decoder.layers.*.self_attn.out_proj.*"),
    ("model.decoder.layers.*.cross_attn.**", "decoder.layers.*.cross_attn.**"),
    ("model.decoder.layers.*.mlp.fc1.*", "decoder.layers.*.feed_forward.linear1.*"),
    ("model.decoder.layers.*.mlp.fc2.*", "decoder.layers.*.feed_forward.linear2.*"),
    ("model.decoder.layers.*.self_attn_layer_norm.*", "decoder.layers.*.norm1.*"),
    ("model.decoder.layers.*.cross_attn_layer_norm.*", "decoder.layers.*.norm2.*"),
    ("model.decoder.layers.*.layer_norm.*", "decoder.layers.*.norm3.*"),
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
            ("attention.attention.query.*", "attn.q_proj.*"),
            ("attention.attention.key.*", "attn.k_proj.*"),
            ("attention.attention.value.*", "attn.v_proj.*"),
            ("attention.output.*", "attn.proj.*"),
            *((f"attention.{x}_proj.*", f"attn.{x}_proj.*") for x in "qkv"),  # as transformers has them in memory
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
    *convolution(f"{SCALE}.sampling_layers.*.layers.*", "neck.sampling.*.*.*", "norm"),
    (f"{SCALE}.sampling_layers.*.layers.*.*", "neck.sampling.*.*.*.*"),
)

AUTHORS: Table = (
    *AUTHORS_DETECTOR,
    ("backbone.0.encoder.pos_embed", "backbone.pos_embed"),
    ("backbone.0.encoder.patch_embed.proj.*", "backbone.patch_embed.*"),
    ("backbone.0.encoder.blocks.**", "backbone.blocks.**"),
    *AUTHORS_PROJECTOR,
    *convolution("backbone.0.projector.stages_sampling.*.*.*", "neck.sampling.*.*.*", "bn"),
    ("backbone.0.projector.stages_sampling.*.*.*.*", "neck.sampling.*.*.*.*"),
)

APART = re.compile(r"(.+)\.([qkv])_proj\.(weight|bias)")  # queries, keys or values of an attention
TOGETHER = re.compile(r"(decoder\..+\.in_proj_|.+\.attn\.qkv\.)(weight|bias)|(.+\.attn)\.([qv])_bias")
GROUP = re.compile(r"queries\.heads\.(\d+)\.(.+)")
FURTHER = re.compile(r"queries\.(?:further_heads\.(\d+)\.)?((?:token|class|box)_head\..+)")
SINES = "queries.position.mlp.layers.0.weight"  # reads those of x, y, width, height


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's or the authors' weights under our names.

    Raises:
        UserError: a name that no table knows, or attention without its queries, keys or values.
    """
    return from_apart(rename(state, (*TABLE, *AUTHORS), f"{source}: %s is no weight of LW-DETR"), source)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them.

    Raises:
        UserError: a weight that LW-DETR does not have.
    """
    back = tuple((ours, theirs) for theirs, ours in TABLE)
    return rename(to_apart(state), back, f"{source}: LW-DETR has no place for %s")


def rename(state: Mapping[str, Tensor], table: Table, complaint: str) -> State:
    """Return all weights under the names that a table has for them.

    Raises:
        UserError: the complaint, its %s replaced by the name without another.
    """
    names = Renaming(table)
    result = {}
    for name, tensor in state.items():
        other = names.ours(name)
        if other is None:
            raise UserError(complaint % name)
        result[other] = tensor
    return result


def from_apart(state: Mapping[str, Tensor], source: str) -> State:
    """Join queries, keys and values, number groups as we do, and put x before y."""
    result: State = {}
    for name, tensor in state.items():
        if match := APART.fullmatch(name):
            result |= _joined(state, match, source)
        elif match := GROUP.fullmatch(name):
            before = "" if match[1] == "0" else f"further_heads.{int(match[1]) - 1}."
            result[f"queries.{before}{match[2]}"] = tensor
        else:
            result[name] = _swapped(tensor) if name == SINES else tensor
    return result


def to_apart(state: Mapping[str, Tensor], *, joint: tuple[str, ...] = ()) -> State:
    """Undo `from_apart`, but for attention in what is called `joint`: there it stays together."""
    result: State = {}
    for name, tensor in state.items():
        match = TOGETHER.fullmatch(name)
        if match and not name.startswith(joint):
            result |= _separate(match, tensor)
        elif match := FURTHER.fullmatch(name):
            result[f"queries.heads.{0 if match[1] is None else int(match[1]) + 1}.{match[2]}"] = tensor
        else:
            result[name] = _swapped(tensor) if name == SINES else tensor
    return result


def _joined(state: Mapping[str, Tensor], match: re.Match[str], source: str) -> State:
    """The weight or bias of an attention, whichever of the three was found first; keys may have no bias."""
    module, part, kind = match.groups()
    three = {each: state.get(f"{module}.{each}_proj.{kind}") for each in "qkv"}
    if module.startswith("backbone.") and kind == "bias" and three["k"] is None:
        return {f"{module}.{part}_bias": state[match[0]]}
    missing = [each for each, tensor in three.items() if tensor is None]
    if missing:
        raise UserError(f"{source}: {module} has no {missing[0]}_proj.{kind}")
    joint = f"{module}.in_proj_{kind}" if module.startswith("decoder.") else f"{module}.qkv.{kind}"
    return {joint: torch.cat([tensor for tensor in three.values() if tensor is not None])}


def _separate(match: re.Match[str], tensor: Tensor) -> State:
    """Queries, keys and values of a joint weight or bias; or the bias of queries or values alone."""
    joint, kind, module, part = match.groups()
    if module:
        return {f"{module}.{part}_proj.bias": tensor}
    module = joint.removesuffix(".in_proj_").removesuffix(".qkv.")
    return {f"{module}.{x}_proj.{kind}": each.clone() for x, each in zip("qkv", tensor.chunk(3), strict=True)}


def _swapped(weight: Tensor) -> Tensor:
    """A layer that reads sines of x, y, width and height, for those of y, x, …; and the other way round."""
    x, y, width, height = weight.chunk(4, 1)
    return torch.cat([y, x, width, height], 1)


SIZES = {  # width and blocks of the backbone, width of the transformer, queries
    "lw_detr_tiny": (192, 6, 256, 100),
    "lw_detr_small": (192, 10, 256, 300),
    "lw_detr_medium": (384, 10, 256, 300),
    "lw_detr_large": (384, 10, 384, 300),
    "lw_detr_xlarge": (768, 10, 384, 300),
}


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
        "decoder_n_points": cross.sampling_offsets.out_features // (2 * cross.num_heads * model.neck.num_levels),
        "num_feature_levels": model.neck.num_levels,
        "num_queries": queries.num_queries,
        "group_detr": 1 + len(queries.further_heads),
        "dropout": 0.0,
    }
