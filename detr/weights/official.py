"""The official DETR's names for our weights, one table for both directions (facebookresearch/detr, models/).

In a pattern, `*` is one part of a dotted name and `**` the rest of it; what they stand for is carried over.
Shapes and values are the same on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from detr.errors import UserError

Table = Sequence[tuple[str, str]]

COUNTER = "num_batches_tracked"  # of batch norm; a frozen one has no use for it, and some files have it
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


def _rule(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    """A regular expression for a pattern, and what `Match.expand` takes."""
    parts = [r"(.+)" if part == "**" else r"([^.]+)" if part == "*" else re.escape(part) for part in pattern.split(".")]
    numbers = iter(range(1, 10))
    filled = [rf"\{next(numbers)}" if part in ("*", "**") else part for part in replacement.split(".")]
    return re.compile(r"\.".join(parts)), ".".join(filled)


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return None


@dataclass(frozen=True)
class Renaming:
    """Applies a table as two functions."""

    table: Table
    prefix: str = ""  # of every name on their side
    _forward: list[tuple[re.Pattern[str], str]] = field(init=False, repr=False)
    _backward: list[tuple[re.Pattern[str], str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [(self.prefix + theirs, ours) for theirs, ours in self.table]
        object.__setattr__(self, "_forward", [_rule(theirs, ours) for theirs, ours in rows])
        object.__setattr__(self, "_backward", [_rule(ours, theirs) for theirs, ours in rows])

    def ours(self, name: str) -> str | None:
        """Return our name for theirs; None if the table has none."""
        return _rename(name, self._forward)

    def theirs(self, name: str) -> str | None:
        """Return their name for ours; None if the table has none."""
        return _rename(name, self._backward)


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


def renamed(weights: Mapping[str, Tensor], rename: Callable[[str], str | None], complaint: str) -> dict[str, Tensor]:
    """Return all weights under other names, without batch norm's counters.

    Raises:
        UserError: the complaint, its %s replaced by the name without another.
    """
    result = {}
    for name, tensor in weights.items():
        if name.endswith(COUNTER):
            continue
        other = rename(name)
        if other is None:
            raise UserError(complaint % name)
        result[other] = tensor
    return result
