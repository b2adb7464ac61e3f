"""Folders of Hugging Face's `DetrForObjectDetection` and `DetrForSegmentation`: their names and files.

Names as `save_pretrained` writes them, whichever version wrote them; the backbone is timm's ResNet or Hugging Face's
own. Attention keeps queries, keys and values apart there and together here; everything else is one table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detr.errors import UserError
from detr.structures import Classes
from detr.weights.checkpoint import read_pickle
from detr.weights.official import MASK_HEAD, RESNET, Layout, Renaming, Table, renamed

CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin")  # in this order; each may be split and listed in FILE.index.json

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
    ("model.position_embedding.row_embeddings.weight", "neck.position_embedding.row_embed.weight"),
    ("model.position_embedding.column_embeddings.weight", "neck.position_embedding.col_embed.weight"),
    ("model.backbone.position_embedding.row_embeddings.weight", "neck.position_embedding.row_embed.weight"),
    ("model.backbone.position_embedding.column_embeddings.weight", "neck.position_embedding.col_embed.weight"),
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

ATTENTION_INPUT = re.compile(r"(.+_attn\.)([qkv])_proj\.(weight|bias)")


def from_hugging_face(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return Hugging Face's weights under our names.

    Raises:
        UserError: a name that the table does not know, or attention without its queries, keys or values.
    """
    layout = _layout(weights)
    apart = renamed(weights, layout.ours, f"{source}: %s is no weight of Hugging Face's DETR")
    return _with_joined_attention(apart, layout, source)


def their_name(name: str, weights: Mapping[str, Tensor]) -> str:
    """Return Hugging Face's name for one of ours, for messages; of joined attention weights the first of the three."""
    apart = re.sub(r"in_proj_(weight|bias)$", r"q_proj.\1", name)
    return _layout(weights).theirs(apart) or name


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a folder under Hugging Face's names, and its config.

    Raises:
        UserError: no model of the DETR kind, files that are missing or cannot be read.
    """
    config = _read_json(folder / CONFIG)
    if config.get("model_type") != "detr":
        raise UserError(f"{folder / CONFIG}: model_type is {config.get('model_type')}; only detr can be read")
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        weights |= _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    return weights, config


def classes_of(config: Mapping[str, Any]) -> Classes | None:
    """Return the names in id2label; None where there are only the placeholders LABEL_0, LABEL_1, …."""
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if not labels or all(name == f"LABEL_{index}" for index, name in labels.items()):
        return None
    return Classes(tuple(labels.get(i, Classes.HOLE) for i in range(max(labels) + 1)), tuple(range(max(labels) + 1)))


def _layout(weights: Mapping[str, Tensor]) -> Layout:
    return WITH_MASKS if any(name.startswith("detr.") for name in weights) else PLAIN


def _weight_files(folder: Path) -> list[Path]:
    for name in FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / part for part in sorted(set(_read_json(index).get("weight_map", {}).values()))]
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"{folder} has a {CONFIG}, but no {' or '.join(FILES)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: truncated, or not a safetensors file ({error})") from error


def _with_joined_attention(apart: dict[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """q_proj, k_proj and v_proj as the in_proj of `nn.MultiheadAttention`."""
    joined: dict[str, Tensor] = {}
    for name, tensor in apart.items():
        match = ATTENTION_INPUT.fullmatch(name)
        if match is None:
            joined[name] = tensor
        elif (target := f"{match[1]}in_proj_{match[3]}") not in joined:
            three = [f"{match[1]}{part}_proj.{match[3]}" for part in "qkv"]
            missing = [each for each in three if each not in apart]
            if missing:
                raise UserError(f"{source}: {layout.theirs(missing[0])} is missing")
            joined[target] = torch.cat([apart[each] for each in three])
    return joined
