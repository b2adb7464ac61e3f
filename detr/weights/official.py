"""The official DETR's names for our weights, one table for both directions (facebookresearch/detr, models/).

Shapes and values are the same on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from detr.weights.renaming import Renaming, Table, renamed

PREFIX = "detr."  # of everything but the mask head, in models that have one (models/segmentation.py)

RESNET: Table = (
    ("conv1.weight", "conv1.weight"),
    ("bn1.*", "bn1.*"),
    ("layer1.**", "layer1.**"),
    ("layer2.**", "layer2.**"),
    ("layer3.**", "layer3.**"),
    ("layer4.**", "layer4.**"),
)

DETECTOR: Table = (
    *((f"backbone.0.body.{theirs}", f"backbone.body.{ours}") for theirs, ours in RESNET),
    ("backbone.1.row_embed.weight", "neck.position_embedding.row_embed.weight"),
    ("backbone.1.col_embed.weight", "neck.position_embedding.col_embed.weight"),
    ("input_proj.*", "neck.projections.0.*"),
    ("transformer.encoder.layers.*.self_attn.**", "encoder.layers.*.self_attn.**"),
    ("transformer.encoder.layers.*.linear1.*", "encoder.layers.*.feed_forward.linear1.*"),
    ("transformer.encoder.layers.*.linear2.*", "encoder.layers.*.feed_forward.linear2.*"),
    ("transformer.encoder.layers.*.norm1.*", "encoder.layers.*.norm1.*"),
    ("transformer.encoder.layers.*.norm2.*", "encoder.layers.*.norm2.*"),
    ("transformer.encoder.norm.*", "encoder.norm.*"),  # with pre-norm only
    ("transformer.decoder.layers.*.self_attn.**", "decoder.layers.*.self_attn.**"),
    ("transformer.decoder.layers.*.multihead_attn.**", "decoder.layers.*.cross_attn.**"),
    ("transformer.decoder.layers.*.linear1.*", "decoder.layers.*.feed_forward.linear1.*"),
    ("transformer.decoder.layers.*.linear2.*", "decoder.layers.*.feed_forward.linear2.*"),
    ("transformer.decoder.layers.*.norm1.*", "decoder.layers.*.norm1.*"),
    ("transformer.decoder.layers.*.norm2.*", "decoder.layers.*.norm2.*"),
    ("transformer.decoder.layers.*.norm3.*", "decoder.layers.*.norm3.*"),
    ("transformer.decoder.norm.*", "decoder.norm.*"),
    ("query_embed.weight", "queries.embedding.weight"),
    ("class_embed.*", "class_head.*"),
    ("bbox_embed.**", "box_head.**"),
)

MASK_HEAD: Table = (
    ("bbox_attention.q_linear.*", "mask_head.attention.query.*"),
    ("bbox_attention.k_linear.*", "mask_head.attention.key.*"),
    *((f"mask_head.lay{i + 1}.*", f"mask_head.convolutions.{i}.*") for i in range(5)),
    *((f"mask_head.gn{i + 1}.*", f"mask_head.norms.{i}.*") for i in range(5)),
    *((f"mask_head.adapter{i + 1}.*", f"mask_head.adapters.{i}.*") for i in range(3)),
    ("mask_head.out_lay.*", "mask_head.output.*"),
)


@dataclass(frozen=True)
class Layout:
    """Holds names of a whole model, from several tables."""

    parts: tuple[Renaming, ...]

    def ours(self, name: str) -> str | None:
        return next((found for part in self.parts if (found := part.ours(name)) is not None), None)

    def theirs(self, name: str) -> str | None:
        return next((found for part in self.parts if (found := part.theirs(name)) is not None), None)


PLAIN = Layout((Renaming(DETECTOR),))
WITH_MASKS = Layout((Renaming(DETECTOR, PREFIX), Renaming(MASK_HEAD)))


def layout_of(names: Iterable[str]) -> Layout:
    """Return which of the two layouts official weights have, judged by their names."""
    return WITH_MASKS if any(name.startswith((PREFIX, "bbox_attention.")) for name in names) else PLAIN


def is_official(names: Iterable[str]) -> bool:
    """Return whether these look like official weights at all; unknown names may still be among them."""
    return {"class_embed.weight", "query_embed.weight"} <= {name.removeprefix(PREFIX) for name in names}


def from_official(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return official weights under our names.

    Raises:
        UserError: a name that the table does not know.
    """
    return renamed(weights, layout_of(weights).ours, f"{source}: %s is not a weight of the official DETR")


def to_official(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return our weights under the official names.

    Raises:
        UserError: a weight that the official DETR does not have.
    """
    layout = WITH_MASKS if any(name.startswith("mask_head.") for name in weights) else PLAIN
    reason = f"{source} cannot be written in the official layout, which has no place for %s"
    return renamed(weights, layout.theirs, f"{reason}; only the paper's detector on a ResNet has that layout")
