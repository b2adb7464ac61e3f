"""Later DETRs of Hugging Face's transformers with our weights: tables of names, and a backbone that both can use.

A table has regular expressions over our names and what Hugging Face calls them (one name, or several where theirs has
copies); the first that fits the whole name counts, and a name without any is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.backbone import Backbone
from detr.models.dab import DabDecoder
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR

CHANNELS = (8, 12, 16)  # of levels with strides 8, 16 and 32

Table = Sequence[tuple[str, str | Sequence[str]]]


def renamed(state: dict[str, Tensor], table: Table) -> dict[str, Tensor]:
    """A state dict under their names. `{q|k|v}` in one of theirs takes that third of our joint projection.

    Raises:
        KeyError: a name that the table does not have.
    """
    theirs: dict[str, Tensor] = {}
    for name, value in state.items():
        names = next((names for pattern, names in table if re.fullmatch(pattern, name)), None)
        pattern = next((pattern for pattern, _ in table if re.fullmatch(pattern, name)), None)
        if names is None or pattern is None:
            raise KeyError(name)
        for each in [names] if isinstance(names, str) else names:
            target = re.sub(pattern, each, name)
            if "{qkv}" in target:
                for part, chunk in zip("qkv", value.chunk(3), strict=True):
                    theirs[target.replace("{qkv}", part)] = chunk
            else:
                theirs[target] = value
    return theirs


def separate_table(ours: str, theirs: str, names: dict[str, str]) -> Table:
    """Rows for the parts of one attention module."""
    return [(rf"{ours}\.{mine}\.(\w+)", rf"{theirs}{their}.\2") for mine, their in names.items()]


FEED_FORWARD = (
    (r"(encoder|decoder)\.layers\.(\d+)\.feed_forward\.linear(\d)\.(\w+)", r"model.\1.layers.\2.mlp.fc\3.\4"),
)
NORMS = (
    (r"(encoder|decoder)\.layers\.(\d+)\.norm1\.(\w+)", r"model.\1.layers.\2.self_attn_layer_norm.\3"),
    (r"encoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.encoder.layers.\1.final_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.decoder.layers.\1.encoder_attn_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm3\.(\w+)", r"model.decoder.layers.\1.final_layer_norm.\2"),
)
SELF_ATTENTION = (
    (r"(\w+)\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", r"model.\1.layers.\2.self_attn.{qkv}_proj.\3"),
    (r"(\w+)\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"model.\1.layers.\2.self_attn.o_proj.\3"),
)

CONDITIONAL: Table = (
    *separate_table(
        r"decoder\.layers\.(\d+)\.self_attn",
        r"model.decoder.layers.\1.self_attn.",
        {
            "query_content": "q_content_proj",
            "query_position": "q_pos_proj",
            "key_content": "k_content_proj",
            "key_position": "k_pos_proj",
            "value": "v_proj",
            "output": "o_proj",
        },
    ),
    *separate_table(
        r"decoder\.layers\.(\d+)\.cross_attn",
        r"model.decoder.layers.\1.encoder_attn.",
        {
            "query_content": "q_content_proj",
            "query_position": "q_pos_proj",
            "query_spatial": "q_pos_sine_proj",
            "key_content": "k_content_proj",
            "key_position": "k_pos_proj",
            "value": "v_proj",
            "output": "o_proj",
        },
    ),
    *FEED_FORWARD,
    *NORMS,
    *SELF_ATTENTION,
    (r"decoder\.spatial_scale\.(.*)", r"model.decoder.query_scale.\1"),
    (r"queries\.point_head\.(.*)", r"model.decoder.ref_point_head.\1"),
    (r"decoder\.norm\.(\w+)", r"model.decoder.layernorm.\1"),
    (r"neck\.projections\.0\.(\w+)", r"model.input_projection.\1"),
    (r"queries\.embedding\.weight", r"model.query_position_embeddings.weight"),
    (r"class_head\.(\w+)", r"class_labels_classifier.\1"),
    (r"box_head\.(.*)", r"bbox_predictor.\1"),
)

DAB: Table = (
    *separate_table(
        r"decoder\.layers\.(\d+)\.self_attn",
        r"model.decoder.layers.\1.self_attn.self_attn",
        {
            "query_content": "_query_content_proj",
            "query_position": "_query_pos_proj",
            "key_content": "_key_content_proj",
            "key_position": "_key_pos_proj",
            "value": "_value_proj",
            "output": ".output_proj",
        },
    ),
    *separate_table(
        r"decoder\.layers\.(\d+)\.cross_attn",
        r"model.decoder.layers.\1.cross_attn.cross_attn",
        {
            "query_content": "_query_content_proj",
            "query_position": "_query_pos_proj",
            "query_spatial": "_query_pos_sine_proj",
            "key_content": "_key_content_proj",
            "key_position": "_key_pos_proj",
            "value": "_value_proj",
            "output": ".output_proj",
        },
    ),
    (r"encoder\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", r"model.encoder.layers.\1.self_attn.{qkv}_proj.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"model.encoder.layers.\1.self_attn.out_proj.\2"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.linear(\d)\.(\w+)", r"model.encoder.layers.\1.fc\2.\3"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.activation\.weight", r"model.encoder.layers.\1.activation_fn.weight"),
    (r"encoder\.layers\.(\d+)\.norm1\.(\w+)", r"model.encoder.layers.\1.self_attn_layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.encoder.layers.\1.final_layer_norm.\2"),
    (r"encoder\.position_scale\.(.*)", r"model.encoder.query_scale.\1"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.linear(\d)\.(\w+)", r"model.decoder.layers.\1.mlp.fc\2.\3"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.activation\.weight", r"model.decoder.layers.\1.mlp.activation_fn.weight"),
    (r"decoder\.layers\.(\d+)\.norm1\.(\w+)", r"model.decoder.layers.\1.self_attn.self_attn_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm2\.(\w+)", r"model.decoder.layers.\1.cross_attn.cross_attn_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm3\.(\w+)", r"model.decoder.layers.\1.mlp.final_layer_norm.\2"),
    (r"decoder\.spatial_scale\.(.*)", r"model.decoder.query_scale.\1"),
    (r"queries\.position\.mlp\.(.*)", r"model.decoder.ref_point_head.\1"),
    (r"decoder\.side_head\.(.*)", r"model.decoder.ref_anchor_head.\1"),
    (r"decoder\.norm\.(\w+)", r"model.decoder.layernorm.\1"),
    (r"neck\.projections\.0\.(\w+)", r"model.input_projection.\1"),
    (r"queries\.anchors\.weight", r"model.query_refpoint_embeddings.weight"),
    (r"class_head\.(\w+)", r"class_embed.\1"),
    (r"box_head\.(.*)", (r"bbox_predictor.\1", r"model.decoder.bbox_embed.\1")),
)


def deformable_table(layers: int, *, refine: bool, two_stage: bool) -> Table:
    """Deformable DETR has a list of heads; without refinement ours has one for all."""
    boxes = ["bbox_embed", *(["model.decoder.bbox_embed"] if refine else [])]
    classes = ["class_embed", *(["model.decoder.class_embed"] if two_stage else [])]
    if refine:
        heads: Table = (
            (r"class_head\.(\d+)\.(\w+)", [rf"{each}.\1.\2" for each in classes]),
            (r"box_head\.(\d+)\.(.*)", [rf"{each}.\1.\2" for each in boxes]),
        )
    else:
        heads = (
            (r"class_head\.(\w+)", [rf"{each}.{layer}.\1" for each in classes for layer in range(layers)]),
            (r"box_head\.(.*)", [rf"{each}.{layer}.\1" for each in boxes for layer in range(layers)]),
        )
    return (
        *heads,
        (r"(encoder)\.layers\.(\d+)\.self_attn\.(\w+\.\w+)", r"model.\1.layers.\2.self_attn.\3"),
        (r"decoder\.layers\.(\d+)\.cross_attn\.(\w+\.\w+)", r"model.decoder.layers.\1.encoder_attn.\2"),
        *SELF_ATTENTION,
        *FEED_FORWARD,
        *NORMS,
        (r"neck\.projections\.(\d)\.(\d)\.(\w+)", r"model.input_proj.\1.\2.\3"),
        (r"neck\.extra\.0\.(\d)\.(\w+)", r"model.input_proj.3.\1.\2"),
        (r"neck\.level_embedding", r"model.level_embed"),
        (r"queries\.point_head\.layers\.0\.(\w+)", r"model.reference_points.\1"),
        (r"queries\.query_embedding", r"model.query_position_embeddings.weight"),  # position and content, joined
        (r"queries\.token_head\.0\.(\w+)", r"model.enc_output.\1"),
        (r"queries\.token_head\.1\.(\w+)", r"model.enc_output_norm.\1"),
        (r"queries\.anchor_head\.0\.(\w+)", r"model.pos_trans.\1"),
        (r"queries\.anchor_head\.1\.(\w+)", r"model.pos_trans_norm.\1"),
        (r"queries\.class_head\.(\w+)", [rf"{each}.{layers}.\1" for each in classes]),
        (r"queries\.box_head\.(.*)", [rf"{each}.{layers}.\1" for each in boxes]),
    )


RT_ENCODER: Table = (
    (r"layers\.(\d+)\.self_attn\.in_proj_(\w+)", r"aifi.0.layers.\1.self_attn.{qkv}_proj.\2"),
    (r"layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"aifi.0.layers.\1.self_attn.o_proj.\2"),
    (r"layers\.(\d+)\.feed_forward\.linear(\d)\.(\w+)", r"aifi.0.layers.\1.mlp.fc\2.\3"),
    (r"layers\.(\d+)\.norm1\.(\w+)", r"aifi.0.layers.\1.self_attn_layer_norm.\2"),
    (r"layers\.(\d+)\.norm2\.(\w+)", r"aifi.0.layers.\1.final_layer_norm.\2"),
    *(
        row
        for mine, theirs in {
            r"lateral\.(\d)": r"lateral_convs.\1",
            r"downsampling\.(\d)": r"downsample_convs.\1",
            r"top_down\.(\d)\.entry": r"fpn_blocks.\1.conv1",
            r"top_down\.(\d)\.direct": r"fpn_blocks.\1.conv2",
            r"bottom_up\.(\d)\.entry": r"pan_blocks.\1.conv1",
            r"bottom_up\.(\d)\.direct": r"pan_blocks.\1.conv2",
        }.items()
        for row in ((rf"{mine}\.0\.(\w+)", rf"{theirs}.conv.\2"), (rf"{mine}\.1\.(\w+)", rf"{theirs}.norm.\2"))
    ),
    *(
        (rf"{mine}\.(\d)\.blocks\.(\d)\.{branch}\.{index}\.(\w+)", rf"{theirs}.\1.bottlenecks.\2.{conv}.{part}.\3")
        for mine, theirs in {"top_down": "fpn_blocks", "bottom_up": "pan_blocks"}.items()
        for branch, conv in {"wide": "conv1", "narrow": "conv2"}.items()
        for index, part in {0: "conv", 1: "norm"}.items()
    ),
)


class Pyramid(Backbone):
    """Patches of the image, projected: features of some levels for next to nothing."""

    def __init__(self, levels: int = len(CHANNELS)) -> None:
        super().__init__((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.channels = list(CHANNELS[-levels:])
        self.strides = [8, 16, 32][-levels:]
        self.body = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride) for channels, stride in zip(self.channels, self.strides, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level(images) for level in self.body]


class TheirBackbone(nn.Module):
    """The same for Hugging Face's models: features, each with what is not padding."""

    def __init__(self, backbone: Pyramid) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        levels = self.backbone(pixel_values)
        masks = [F.interpolate(pixel_mask[None].float(), size=level.shape[-2:])[0].bool() for level in levels]
        return list(zip(levels, masks, strict=True))


def give_values_that_matter(model: nn.Module) -> None:
    """Zeros and ones that norms, biases and last layers start with would hide that they are used."""
    for name, parameter in model.named_parameters():
        if "sampling_offsets.bias" in name or name.startswith("backbone"):
            continue
        if parameter.dim() == 1:
            nn.init.normal_(parameter, parameter.detach().mean().round().item(), 0.2)
        elif parameter.abs().max() == 0:
            nn.init.normal_(parameter, 0, 0.1)
        elif "class_head" in name:
            nn.init.normal_(parameter, 0, 0.5)  # fresh detectors say nearly the same of every query
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.2)


def state_without_backbone(model: DETR) -> dict[str, Tensor]:
    """As the authors' code would have it: y before x in the sines of boxes, the sides of points as a bias."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone")}
    if "queries.content.weight" in state and "queries.embedding.weight" in state:  # Deformable DETR joins them
        joined = torch.cat([state.pop("queries.embedding.weight"), state.pop("queries.content.weight")], 1)
        state["queries.query_embedding"] = joined
    if isinstance(model.decoder, DabDecoder):
        x, y, width, height = state["queries.position.mlp.layers.0.weight"].chunk(4, 1)
        state["queries.position.mlp.layers.0.weight"] = torch.cat([y, x, width, height], 1)
    if isinstance(model.decoder, DeformableDecoder) and model.queries.reference == "point":
        for name in ("box_head.layers.2.bias", "box_head.0.layers.2.bias"):  # of layers that start from points
            if name in state:
                state[name] = state[name] - torch.tensor([0.0, 0.0, 2.0, 2.0])
    return state
