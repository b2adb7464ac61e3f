"""What several layouts of Hugging Face's transformers share: rows of tables, and attention's three projections."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from detr.errors import UserError
from detr.models.backbone import ResNet
from detr.models.detr import DETR
from detr.weights.official import RESNET
from detr.weights.renaming import Renaming, Table, renamed

State = dict[str, Tensor]

JOINED = re.compile(r"(.+_attn\.)in_proj_(weight|bias)|(.+\.attn\.)qkv\.(weight|bias)")
APART = re.compile(r"(.+[._]attn\.)([qkv])_proj\.(weight|bias)")
SINES = "queries.position.mlp.layers.0.weight"  # reads those of x, y, width, height


def attention(theirs: str, ours: str) -> Table:
    """Return rows of an attention whose queries, keys and values are apart there and joined here: see `joined`."""
    return tuple((f"{theirs}.{part}_proj.*", f"{ours}.{part}_proj.*") for part in ("q", "k", "v", "out"))


def convolution(theirs: str, ours: str, names: tuple[str, str] = ("conv", "norm")) -> Table:
    """Return rows of a convolution and its norm, by what they are called."""
    return tuple((f"{theirs}.{name}.*", f"{ours}.{place}.*") for place, name in enumerate(names))


def feed_forward(theirs: str, ours: str) -> Table:
    """Return rows of the two linear layers of a transformer layer."""
    return tuple((f"{theirs}.fc{i}.*", f"{ours}.feed_forward.linear{i}.*") for i in (1, 2))


def norms(theirs: str, ours: str, *names: str) -> Table:
    """Return rows of layer norms in the order of the sublayers that they belong to."""
    return tuple((f"{theirs}.{name}.*", f"{ours}.norm{i}.*") for i, name in enumerate(names, 1))


def resnet_stage(theirs: str, ours: str, index: int, shortcut: str, place: int) -> Table:
    """Return rows of a stage of their ResNet, whose blocks have up to three convolutions.

    Args:
        theirs, ours: of the backbone.
        index: of the stage, from 0.
        shortcut: its name, which depends on whether it pools.
        place: of its convolution in ours.
    """
    theirs, ours = f"{theirs}.encoder.stages.{index}.layers.*", f"{ours}.layer{index + 1}.*"
    return (
        *((f"{theirs}.layer.{i}.convolution.*", f"{ours}.conv{i + 1}.*") for i in range(3)),
        *((f"{theirs}.layer.{i}.normalization.*", f"{ours}.bn{i + 1}.*") for i in range(3)),
        (f"{theirs}.{shortcut}.convolution.*", f"{ours}.downsample.{place}.*"),
        (f"{theirs}.{shortcut}.normalization.*", f"{ours}.downsample.{place + 1}.*"),
    )


BACKBONE = "model.backbone.conv_encoder.model"

TIMMS_RESNET: Table = tuple((f"{BACKBONE}.{theirs}", f"backbone.body.{ours}") for theirs, ours in RESNET)
THEIR_RESNET: Table = (
    (f"{BACKBONE}.embedder.embedder.convolution.weight", "backbone.body.conv1.weight"),
    (f"{BACKBONE}.embedder.embedder.normalization.*", "backbone.body.bn1.*"),
    *(row for index in range(4) for row in resnet_stage(BACKBONE, "backbone.body", index, "shortcut", 0)),
)
# transformers' own ResNet, which is what is written, or timm's, as most published files have it.
RESNETS: Table = (*THEIR_RESNET, *TIMMS_RESNET)


def our_names(state: Mapping[str, Tensor], table: Table, family: str, source: str) -> State:
    """Return weights under our names, queries, keys and values of attention joined.

    Raises:
        UserError: a name that the table does not know, or attention without one of the three.
    """
    names = Renaming(table)
    apart = renamed(state, names.ours, f"{source}: %s is no weight of {family}")
    return joined(apart, source, names)


def their_names(state: Mapping[str, Tensor], table: Table, family: str, source: str) -> State:
    """Return our weights under their names, queries, keys and values of attention apart; counters of batch norm, too.

    Raises:
        UserError: a weight that the family does not have.
    """
    names, found = Renaming(table), {}
    for name, tensor in separated(state, names).items():
        theirs = names.theirs(name)
        if theirs is None:
            raise UserError(f"{source}: {family} has no place for {name}")
        found[theirs] = tensor.contiguous()
    return found


def joined(apart: Mapping[str, Tensor], source: str, names: Renaming) -> State:
    """Return q_proj, k_proj and v_proj of an attention as one, all else as it is.

    It is the in_proj of an `nn.MultiheadAttention`, and the qkv of a block of timm's, whose attention is called `attn`.

    Args:
        names: theirs, for messages.

    Raises:
        UserError: one of the three is missing.
    """
    state: State = {}
    for name, tensor in apart.items():
        match = APART.fullmatch(name)
        if match is None:
            state[name] = tensor
        elif (target := _joint(match[1], match[3])) not in state:
            three = [f"{match[1]}{part}_proj.{match[3]}" for part in "qkv"]
            missing = [each for each in three if each not in apart]
            if missing:
                raise UserError(f"{source}: {names.theirs(missing[0]) or missing[0]} is missing")
            state[target] = torch.cat([apart[each] for each in three])
    return state


def _joint(attention: str, kind: str) -> str:
    return f"{attention}in_proj_{kind}" if attention.endswith("_attn.") else f"{attention}qkv.{kind}"


def separated(state: Mapping[str, Tensor], names: Renaming) -> State:
    """Undo `joined`, but for attention that is one in their names, too."""
    apart: State = {}
    for name, tensor in state.items():
        match = JOINED.fullmatch(name)
        if match is None or names.theirs(name) is not None:
            apart[name] = tensor
        else:
            attention, kind = (each for each in match.groups() if each is not None)
            parts = zip("qkv", tensor.chunk(3), strict=True)
            apart |= {f"{attention}{part}_proj.{kind}": chunk.clone() for part, chunk in parts}
    return apart


def y_before_x(weight: Tensor) -> Tensor:
    """Return a layer that reads sines of x, y, width and height as one that reads those of y, x, …; or the converse."""
    x, y, width, height = weight.chunk(4, 1)
    return torch.cat([y, x, width, height], 1)


def layers_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many layers there are whose names start with `prefix` and a number."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def changed(state: State, name: str, change: Callable[[Tensor], Tensor]) -> State:
    """Return the weights with one of them changed, if it is there."""
    return state | {name: change(state[name])} if name in state else state


def resnet_config(model: DETR, family: str) -> dict[str, Any]:
    """Return what a config says of torchvision's ResNet, as transformers' own, with the levels that the neck reads.

    Raises:
        UserError: another backbone.
    """
    backbone = model.backbone
    if type(backbone) is not ResNet or backbone.dilated:
        raise UserError(f"{family}'s layout is for backbone=resnet18, 34, 50 and 101 only")
    count = model.neck.backbone_levels
    stages: dict[str, Any] = {stage: module for stage, module in backbone.body.items() if stage in backbone.LEVELS}
    return {
        "model_type": "resnet",
        "depths": [len(stage) for stage in stages.values()],
        "layer_type": "bottleneck" if hasattr(stages["layer1"][0], "conv3") else "basic",
        "hidden_sizes": [backbone.channels[-1] // 8 * 2**index for index in range(4)],
        "out_features": [f"stage{level[-1]}" for level in backbone.levels[-count:]],
    }


def sizes(model: DETR, *, heads: int) -> dict[str, Any]:
    """Return what the configs of DETR's closer relatives say in the same words."""
    encoder, decoder = model.encoder, model.decoder
    layer: Any = decoder.layers[0]
    hidden = layer.feed_forward.linear1.out_features
    return {
        "num_queries": model.queries.num_queries,
        "encoder_layers": len(encoder.layers),
        "decoder_layers": len(decoder.layers),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": hidden,
        "decoder_ffn_dim": hidden,
    }
