"""D-FINE's weights as Hugging Face's transformers and the authors (Peterande/D-FINE) call them; DEIM's as the latter.

Otherwise than here, transformers keeps queries, keys and values of attention apart, heads of all layers a second time
outside of the decoder, and those of the first layer alone where they are tied. Bins are told by `up` and `reg_scale`,
the second of which is one over our curvature. What follows from the config alone is in some files; it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from detr.errors import UserError
from detr.models.backbone import Timm
from detr.models.d_fine import DFineDecoder
from detr.models.d_fine_encoder import DFineEncoder
from detr.models.detr import DETR
from detr.models.two_stage import TwoStageQueries
from detr.weights.layouts.blocks import (
    State,
    attention,
    changed,
    convolution,
    feed_forward,
    layers_of,
    our_names,
    their_names,
)
from detr.weights.renaming import Table

FAMILY = "D-FINE"
DERIVED = (  # endings of names; the authors' decoder has its bins twice
    *(".num_points_scale", "decoder.anchors", "decoder.valid_mask"),
    *("decoder.decoder.up", "decoder.decoder.reg_scale"),
)
SECOND = re.compile(r"(class|bbox)_embed\..+")  # heads outside of transformers' decoder
HEAD = re.compile(r"(class_head|box_head)\.0\.(.+)")


def _backbone(theirs_stem: str, theirs_stages: str, names: tuple[str, str]) -> Table:
    """An HGNetV2 in timm's names: `names` of a convolution and its norm, behind which an affine block may be."""
    kinds = ((names[0], "conv"), (names[1], "bn"), ("lab", "lab"))
    inside = ("downsample", "blocks.*.layers.*", "blocks.*.layers.*.conv1", "blocks.*.layers.*.conv2")
    return tuple(
        (f"{theirs}.{kind}.*", f"{ours}.{mine}.*")
        for kind, mine in kinds
        for theirs, ours in (
            (f"{theirs_stem}.*", "backbone.body.stem.*"),
            *(
                (f"{theirs_stages}.{stage}.{part}", f"backbone.body.stages_{stage}.{part}")
                for stage in range(4)
                for part in (*inside, "blocks.*.aggregation.*")
            ),
        )
    )


def _stage(theirs: str, ours: str) -> Table:
    """What a stage of a fusion block begins with, RepVGG blocks beside a shortcut."""
    return (
        *convolution(f"{theirs}.conv1", f"{ours}.entry"),
        *convolution(f"{theirs}.conv2", f"{ours}.direct"),
        *convolution(f"{theirs}.bottlenecks.*.conv1", f"{ours}.blocks.*.wide"),
        *convolution(f"{theirs}.bottlenecks.*.conv2", f"{ours}.blocks.*.narrow"),
    )


def _transformers_fusion(theirs: str, ours: str) -> Table:
    return (
        *convolution(f"{theirs}.conv1", f"{ours}.entry"),
        *_stage(f"{theirs}.csp_rep1", f"{ours}.stages.0.0"),
        *convolution(f"{theirs}.conv2", f"{ours}.stages.0.1"),
        *_stage(f"{theirs}.csp_rep2", f"{ours}.stages.1.0"),
        *convolution(f"{theirs}.conv3", f"{ours}.stages.1.1"),
        *convolution(f"{theirs}.conv4", f"{ours}.merge"),
    )


def _authors_fusion(theirs: str, ours: str) -> Table:
    return (
        *convolution(f"{theirs}.cv1", f"{ours}.entry"),
        *(row for i in (0, 1) for row in _stage(f"{theirs}.cv{i + 2}.0", f"{ours}.stages.{i}.0")),
        *(row for i in (0, 1) for row in convolution(f"{theirs}.cv{i + 2}.1", f"{ours}.stages.{i}.1")),
        *convolution(f"{theirs}.cv4", f"{ours}.merge"),
    )


def _rows(theirs: str, ours: str, names: Mapping[str, str]) -> Table:
    """Rows of modules, by what they are called."""
    return tuple((f"{theirs}.{name}.*", f"{ours}.{mine}.*") for name, mine in names.items())


SEEN = ("sampling_offsets", "attention_weights")
GATE = {"gateway.gate": "gate.linear", "gateway.norm": "gate.norm"}
LINEAR = {f"linear{i}": f"feed_forward.linear{i}" for i in (1, 2)}
NORMS = {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}

TABLE: Table = (
    *_backbone(
        "model.backbone.model.embedder", "model.backbone.model.encoder.stages", ("convolution", "normalization")
    ),
    ("model.encoder_input_proj.*.*.*", "neck.projections.*.*.*"),
    ("model.decoder_input_proj.*.*.*", "encoder.outputs.*.*.*"),
    *attention("model.encoder.encoder.0.layers.*.self_attn", "encoder.layers.*.self_attn"),
    *feed_forward("model.encoder.encoder.0.layers.*", "encoder.layers.*"),
    *_rows("model.encoder.encoder.0.layers.*", "encoder.layers.*", NORMS),
    *convolution("model.encoder.lateral_convs.*", "encoder.lateral.*"),
    *_transformers_fusion("model.encoder.fpn_blocks.*", "encoder.top_down.*"),
    *convolution("model.encoder.downsample_convs.*.conv1", "encoder.downsampling.*.0"),
    *convolution("model.encoder.downsample_convs.*.conv2", "encoder.downsampling.*.1"),
    *_transformers_fusion("model.encoder.pan_blocks.*", "encoder.bottom_up.*"),
    ("model.enc_output.*.*", "queries.token_head.*.*"),
    ("model.enc_score_head.*", "queries.class_head.*"),
    ("model.enc_bbox_head.**", "queries.box_head.**"),
    ("model.weight_embedding.weight", "queries.content.weight"),
    ("model.decoder.query_pos_head.**", "queries.position.mlp.**"),
    ("model.denoising_class_embed.weight", "denoising.embedding.weight"),
    *attention("model.decoder.layers.*.self_attn", "decoder.layers.*.self_attn"),
    *_rows("model.decoder.layers.*.encoder_attn", "decoder.layers.*.cross_attn", {name: name for name in SEEN}),
    *_rows("model.decoder.layers.*", "decoder.layers.*", GATE | NORMS),
    *feed_forward("model.decoder.layers.*", "decoder.layers.*"),
    ("model.decoder.pre_bbox_head.**", "decoder.preliminary.**"),
    ("model.decoder.lqe_layers.*.reg_conf.**", "decoder.quality.*.mlp.**"),
    ("model.decoder.up", "decoder.reach"),
    ("model.decoder.reg_scale", "decoder.curvature"),
    ("model.decoder.class_embed.*.*", "class_head.*.*"),
    ("model.decoder.bbox_embed.**", "box_head.**"),
)

AUTHORS: Table = (
    *_backbone("backbone.stem", "backbone.stages", ("conv", "bn")),
    *convolution("encoder.input_proj.*", "neck.projections.*"),
    *convolution("decoder.input_proj.*", "encoder.outputs.*"),
    ("encoder.encoder.0.layers.*.self_attn.**", "encoder.layers.*.self_attn.**"),
    *_rows("encoder.encoder.0.layers.*", "encoder.layers.*", LINEAR | {"norm1": "norm1", "norm2": "norm2"}),
    *convolution("encoder.lateral_convs.*", "encoder.lateral.*"),
    *_authors_fusion("encoder.fpn_blocks.*", "encoder.top_down.*"),
    *convolution("encoder.downsample_convs.*.0.cv1", "encoder.downsampling.*.0"),
    *convolution("encoder.downsample_convs.*.0.cv2", "encoder.downsampling.*.1"),
    *_authors_fusion("encoder.pan_blocks.*", "encoder.bottom_up.*"),
    ("decoder.enc_output.proj.*", "queries.token_head.0.*"),
    ("decoder.enc_output.norm.*", "queries.token_head.1.*"),
    ("decoder.enc_score_head.*", "queries.class_head.*"),
    ("decoder.enc_bbox_head.**", "queries.box_head.**"),
    ("decoder.tgt_embed.weight", "queries.content.weight"),
    ("decoder.query_pos_head.**", "queries.position.mlp.**"),
    ("decoder.denoising_class_embed.weight", "denoising.embedding.weight"),
    ("decoder.decoder.layers.*.self_attn.**", "decoder.layers.*.self_attn.**"),
    *_rows("decoder.decoder.layers.*.cross_attn", "decoder.layers.*.cross_attn", {name: name for name in SEEN}),
    *_rows("decoder.decoder.layers.*", "decoder.layers.*", LINEAR | GATE | {"norm1": "norm1", "norm3": "norm2"}),
    ("decoder.pre_bbox_head.**", "decoder.preliminary.**"),
    ("decoder.decoder.lqe_layers.*.reg_conf.**", "decoder.quality.*.mlp.**"),
    ("decoder.up", "decoder.reach"),
    ("decoder.reg_scale", "decoder.curvature"),
    ("decoder.dec_score_head.*.*", "class_head.*.*"),
    ("decoder.dec_bbox_head.**", "box_head.**"),
)


MARKS = ("encoder.fpn_blocks.0.cv1.conv.weight", "decoder.dec_score_head.0.weight")  # by which AUTHORS is known


def to_ours(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return Hugging Face's or the authors' weights under our names.

    Raises:
        UserError: a name that neither table knows, or attention without its queries, keys or values.
    """
    second = [name for name in state if SECOND.fullmatch(name)]
    inside = {f"model.decoder.{name}": state[name] for name in second} | dict(state)
    learned = {n: tensor for n, tensor in inside.items() if n not in second and not n.endswith(DERIVED)}
    ours = our_names(learned, (*TABLE, *AUTHORS), FAMILY, source)
    for name, tensor in list(ours.items()):
        if head := HEAD.fullmatch(name):
            for layer in range(1, layers_of(ours, "decoder.layers")):
                ours.setdefault(f"{head[1]}.{layer}.{head[2]}", tensor)
    return changed(ours, "decoder.curvature", Tensor.reciprocal)


def to_theirs(state: Mapping[str, Tensor], source: str = "these weights") -> State:
    """Return our weights as Hugging Face's transformers writes them, heads outside of the decoder, too.

    Raises:
        UserError: a weight that D-FINE does not have.
    """
    theirs = their_names(changed(dict(state), "decoder.curvature", Tensor.reciprocal), TABLE, FAMILY, source)
    inside = {name.removeprefix("model.decoder."): tensor for name, tensor in theirs.items()}
    return theirs | {name: tensor.clone() for name, tensor in inside.items() if SECOND.fullmatch(name)}


# Of each size: width of the backbone's first stage and of the encoder, decoder layers.
SIZES = {"n": (16, 128, 3), "s": (16, 256, 3), "m": (32, 256, 4), "l": (48, 256, 6), "x": (64, 384, 6)}


def detectors_in(state: Mapping[str, Tensor]) -> list[str]:
    """Return which detectors weights under our names may be of: D-FINE's and DEIM's differ in activations alone."""
    size = (
        len(state["backbone.body.stages_0.blocks.0.layers.0.conv.weight"]),
        len(state["encoder.layers.0.norm1.weight"]),
        layers_of(state, "decoder.layers"),
    )
    return [f"{family}_{name}" for name, each in SIZES.items() if each == size for family in ("d_fine", "deim")]


def detector_of(config: Mapping[str, Any]) -> str | None:
    """Return which detector a config.json describes; None: none that has a name."""
    if config.get("model_type") != "d_fine":
        return None
    backbone = config.get("backbone_config") or {}
    size = (
        next(iter(backbone.get("stage_mid_channels", (48,)))),
        config.get("encoder_hidden_dim", 256),
        config.get("decoder_layers", 6),
    )
    return next((f"d_fine_{name}" for name, each in SIZES.items() if each == size), None)


def config_of(model: DETR) -> dict[str, Any]:
    """Return what a config.json has to say of a detector, but for its classes.

    Raises:
        UserError: a detector with other parts than D-FINE's.
    """
    backbone, encoder, decoder, queries = model.backbone, model.encoder, model.decoder, model.queries
    if not (
        isinstance(backbone, Timm)
        and hasattr(backbone.body, "stem")
        and isinstance(encoder, DFineEncoder)
        and isinstance(decoder, DFineDecoder)
        and isinstance(queries, TwoStageQueries)
        and decoder.quality is not None
        and len(encoder.layers) > 0
    ):
        raise UserError("D-FINE's layout is for detector=d_fine_… only")
    layer: Any = decoder.layers[0]
    of_encoder: Any = encoder.layers[0]
    lateral, fusion = cast("Any", encoder.lateral[0]), cast("Any", encoder.top_down[0])
    width = lateral[0].in_channels
    if layer.feed_forward.activation is not nn.functional.relu:
        raise UserError(
            "transformers has no silu in D-FINE's heads, as DEIM has; only detector=d_fine_… can be written"
        )
    stage = fusion.stages[0][0]
    return {
        "model_type": "d_fine",
        "backbone_config": _backbone_config(backbone.body, levels=len(backbone.channels)),
        "freeze_backbone_batch_norms": not any("num_batches" in name for name in backbone.state_dict()),
        "encoder_in_channels": backbone.channels,
        "feat_strides": backbone.strides,
        "encode_proj_layers": [encoder.num_levels - 1],
        "encoder_hidden_dim": width,
        "encoder_layers": len(encoder.layers),
        "encoder_ffn_dim": of_encoder.feed_forward.linear1.out_features,
        "encoder_attention_heads": of_encoder.self_attn.num_heads,
        "hidden_expansion": 2 * stage.entry[0].out_channels / width,
        "depth_mult": len(stage.blocks) / 3,
        "d_model": layer.self_attn.embed_dim,
        "decoder_in_channels": [width] * encoder.num_levels,
        "decoder_layers": len(decoder.layers),
        "decoder_ffn_dim": layer.feed_forward.linear1.out_features,
        "decoder_attention_heads": layer.cross_attn.num_heads,
        "decoder_n_points": layer.cross_attn.points,
        "num_feature_levels": encoder.num_levels,
        "num_queries": queries.num_queries,
        "learn_initial_query": queries.content is not None,
        "num_denoising": 100 if model.denoising is not None else 0,
        "max_num_bins": decoder.bins,
        "up": decoder.reach.item(),
        "reg_scale": 1 / decoder.curvature.item(),
        "tie_word_embeddings": False,
    }


def _backbone_config(body: Any, *, levels: int) -> dict[str, Any]:
    """What transformers says of timm's HGNetV2."""
    stages = [getattr(body, f"stages_{index}") for index in range(4)]
    layers = [stage.blocks[0].layers for stage in stages]
    last = [each[-1].conv2.conv if hasattr(each[-1], "conv2") else each[-1].conv for each in layers]
    out = [stage.blocks[0].aggregation[1].conv.out_channels for stage in stages]
    stem = body.stem.stem4.conv.out_channels
    return {
        "model_type": "hgnet_v2",
        "embedding_size": stem,
        "hidden_sizes": out,
        "depths": [len(stage.blocks) for stage in stages],
        "stem_channels": [3, body.stem.stem1.conv.out_channels, stem],
        "stage_in_channels": [stem, *out[:-1]],
        "stage_mid_channels": [kernel.out_channels for kernel in last],
        "stage_out_channels": out,
        "stage_num_blocks": [len(stage.blocks) for stage in stages],
        "stage_numb_of_layers": [len(each) for each in layers],
        "stage_kernel_size": [kernel.kernel_size[0] for kernel in last],
        "use_learnable_affine_block": not isinstance(body.stem.stem1.lab, nn.Identity),
        "out_indices": list(range(5 - levels, 5)),
    }
