"""What a part returns against what its base class promises: shapes, which would fail or be misread far from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detr.errors import UserError, described
from detr.models.backbone import Backbone
from detr.models.decoder import Decoder
from detr.models.encoder import Encoder
from detr.models.queries import Queries
from detr.models.structures import Decoded, Features, Memory, QuerySet


def check_output(part: nn.Module, arguments: Sequence[Any], output: Any) -> None:
    """Check what a part of a detector was given and returned; the type of `output` is right.

    Raises:
        UserError: the shapes do not fit.
    """
    if isinstance(part, Backbone):
        _check_levels(part, output, arguments[0])
    elif isinstance(part, Encoder):
        _check_memory(part, output, arguments[0])
    elif isinstance(part, Queries):
        _check_queries(part, output, arguments[0])
    elif isinstance(part, Decoder):
        _check_decoded(part, output, arguments[0])


def _check_levels(backbone: Backbone, levels: list[Tensor], images: Tensor) -> None:
    """Raises UserError unless a backbone's levels are what it says of them; images [B, 3, H, W]."""
    said = list(zip(backbone.channels, backbone.strides, strict=True))
    found = [list(each.shape) for each in levels]
    fits = len(found) == len(said) and all(
        len(shape) == 4 and shape[1] == channels and _near(shape[2:], images.shape[2:], stride)
        for shape, (channels, stride) in zip(found, said, strict=True)
    )
    if not fits:
        wanted = ", ".join(f"[B, {channels}, H/{stride}, W/{stride}]" for channels, stride in said)
        raise UserError(
            f"backbone: {described(type(backbone))} returns levels {found} of images {list(images.shape)}, but by its "
            f"channels and strides they are {wanted}"
        )


def _near(level: Sequence[int], image: Sequence[int], stride: int) -> bool:
    """Whether sides are about what a stride says; convolutions without padding lose some."""
    return all(abs(side * stride - whole) <= max(stride, whole / 3) for side, whole in zip(level, image, strict=True))


def _check_memory(encoder: Encoder, memory: Memory, features: Features) -> None:
    """Raises UserError unless the tokens are those of the levels, image by image."""
    images = len(features.maps[0])
    tokens, count = memory.tokens.shape, sum(height * width for height, width in memory.shapes)
    positions = memory.positions.shape if encoder.keeps_positions else (*memory.positions.shape[:2], tokens[2])
    if tokens[:2] != (images, count) or positions != tokens or memory.padding.shape != tokens[:2]:
        raise UserError(
            f"transformer.encoder: {described(type(encoder))} returns tokens {list(tokens)}, positions "
            f"{list(memory.positions.shape)} and padding {list(memory.padding.shape)}, expected [B, T, D] twice and "
            f"[B, T] with B = {images} and, by their shapes, T = {count}"
        )


def _check_queries(part: Queries, queries: QuerySet, memory: Memory) -> None:
    """Raises UserError unless there are queries for every image, of the transformer's width."""
    images, _, width = memory.tokens.shape
    shape, reference = queries.content.shape, queries.reference
    if len(shape) != 3 or (shape[0], shape[2]) != (images, width):
        raise UserError(
            f"queries: {described(type(part))} returns content {list(shape)}, expected [{images}, Q, {width}]"
        )
    if reference is not None and reference.shape[:2] != shape[:2]:
        raise UserError(
            f"queries: {described(type(part))} returns references {list(reference.shape)} for content {list(shape)}"
        )


def _check_decoded(decoder: Decoder, decoded: Decoded, queries: QuerySet) -> None:
    """Raises UserError unless there is a state and a box for every query."""
    hidden, boxes, asked = decoded.hidden.shape, decoded.boxes.shape, queries.content.shape
    if len(hidden) != 4 or hidden[1:3] != asked[:2] or boxes != (*hidden[:3], 4):
        raise UserError(
            f"transformer.decoder: {described(type(decoder))} returns hidden {list(hidden)} and boxes {list(boxes)}, "
            f"expected [L, B, Q, D] and [L, B, Q, 4] for queries {list(asked)}"
        )
