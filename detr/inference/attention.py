"""Where a detector looked: the attention of its queries to the image, and of its encoder from a point.

The model is watched, not changed: what its attention modules were called with is kept, and weights are computed from it
afterwards, for what was found only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from detr.errors import UserError, described
from detr.models.deformable_attention import DeformableAttention
from detr.models.detr import DETR
from detr.models.structures import Memory
from detr.structures import Batch

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]  # module, arguments, keyword arguments
Point = tuple[float, float]  # (x, y) in pixels of the image


@dataclass(frozen=True)
class Looks:
    """Holds where n queries or tokens looked in L layers: everywhere with some weight, or at k points."""

    maps: NDArray[np.float32] | None = None  # [L, n, h, w] over the image; each sums up to 1
    points: NDArray[np.float32] | None = None  # [L, n, k, 3] (x, y) in pixels of the image, and the weight

    @property
    def layers(self) -> int:
        """Return L."""
        arrays = self.maps if self.points is None else self.points
        return 0 if arrays is None else len(arrays)

    def of(self, layer: int, row: int) -> dict[str, Any]:
        """Return `map` and `points` of one of them in one layer."""
        return {
            "map": None if self.maps is None else self.maps[layer, row],
            "points": None if self.points is None else self.points[layer, row],
        }


@dataclass(frozen=True)
class Attention:
    """Holds where the queries of what was found looked, and where the encoder looked from a point."""

    queries: Looks  # n as in `Found`
    point: Point | None = None
    encoder: Looks | None = None  # from `point`, n = 1

    @property
    def layers(self) -> int:
        """Return of how many layers of the decoder."""
        return self.queries.layers

    @classmethod
    def of(
        cls, recorder: Recorder, queries: Tensor | None, batch: Batch, *, every_layer: bool, point: Point | None
    ) -> Attention:
        """Return the attention of a forward pass with a single image.

        Args:
            recorder: that watched it.
            queries: [n] whose attention is wanted.
            batch: that the model saw.
            every_layer: of all layers; else of the last one.
            point: that the encoder's attention is wanted from.

        Raises:
            UserError: an attention module of an unknown kind, or a point outside of the image.
        """
        assert queries is not None
        layers = slice(None) if every_layer else slice(-1, None)
        frame = Frame.of(batch, recorder.memory)
        decoder = looks(recorder.cross[layers], queries, frame, "transformer.decoder")
        if point is None:
            return cls(decoder)
        if not recorder.encoder:
            raise UserError("attention_point: the encoder of this detector has no attention to show")
        tokens = frame.tokens_at(point, all_levels=_tokens(recorder.encoder[-1]) == recorder.memory.tokens.shape[1])
        seen = looks(recorder.encoder[layers], tokens, frame, "transformer.encoder")
        return cls(decoder, point, _as_one(seen))


class Recorder:
    """Keeps what the attention modules of a model are called with, as long as it is entered."""

    def __init__(self, model: DETR) -> None:
        self.model = model
        self.cross: list[Call] = []  # of the decoder's layers
        self.encoder: list[Call] = []  # of the encoder's layers

    def __enter__(self) -> Self:
        self._handles = [self.model.encoder.register_forward_hook(self._remember)]
        for layers, name, calls in (
            (self.model.decoder.layers, "cross_attn", self.cross),
            (self.model.encoder.layers, "self_attn", self.encoder),
        ):
            for layer in layers:
                if hasattr(layer, name):
                    hook = _keeping(calls)
                    self._handles.append(getattr(layer, name).register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _remember(self, module: nn.Module, arguments: tuple[Any, ...], output: Memory) -> None:
        self.memory = output


def _keeping(calls: list[Call]) -> Any:
    def keep(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.append((module, arguments, keywords))

    return keep


@dataclass(frozen=True)
class Frame:
    """Holds how the image lies in the model's levels of features."""

    shapes: list[tuple[int, int]]  # (h, w) of each level, padding included
    part: tuple[float, float]  # (x, y) how much of the padded image the image is
    size: tuple[int, int]  # (width, height) of the image as it was given
    grid: tuple[int, int]  # (h, w) of maps: the image in cells of the finest level

    @classmethod
    def of(cls, batch: Batch, memory: Memory) -> Frame:
        height, width = batch.sizes[0].tolist()
        original_height, original_width = batch.original_sizes[0].tolist()
        part = (width / batch.images.shape[-1], height / batch.images.shape[-2])
        h, w = memory.shapes[0]
        grid = (max(1, round(h * part[1])), max(1, round(w * part[0])))
        return cls(memory.shapes, part, (original_width, original_height), grid)

    def tokens_at(self, point: Point, *, all_levels: bool) -> Tensor:
        """Return the tokens that a point lies in, one a level: of all, or of the coarsest alone."""
        if not all(0 <= value < side for value, side in zip(point, self.size, strict=True)):
            raise UserError(
                f"attention_point: expected x,y within the image, 0 … {self.size[0] - 1}, 0 … {self.size[1] - 1}, "
                f"got {point[0]:g},{point[1]:g}"
            )
        x, y = (value / side * part for value, side, part in zip(point, self.size, self.part, strict=True))
        shapes, start, found = (self.shapes if all_levels else self.shapes[-1:]), 0, []
        for height, width in shapes:
            found.append(start + int(y * height) * width + int(x * width))
            start += height * width
        return torch.tensor(found)

    def maps(self, weights: Tensor) -> NDArray[np.float32]:
        """Return [n, h, w] of weights [n, T] of the tokens of all levels, or of the coarsest alone."""
        shapes = self.shapes if weights.shape[1] == sum(h * w for h, w in self.shapes) else self.shapes[-1:]
        levels = weights.float().split([h * w for h, w in shapes], dim=1)
        rows, columns = (
            (2 * (torch.arange(count) + 0.5) / count * part - 1).to(weights.device)
            for count, part in zip(self.grid, self.part[::-1], strict=True)
        )
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1).expand(len(weights), -1, -1, -1)
        total = sum(
            # A token's weight is that of its whole cell: per pixel, those of fine levels count more.
            F.grid_sample(
                level.view(-1, 1, *shape) * (shape[0] * shape[1]), grid, padding_mode="border", align_corners=False
            )[:, 0]
            for level, shape in zip(levels, shapes, strict=True)
        )
        assert isinstance(total, Tensor)
        return (total / total.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy()

    def points(self, samples: Tensor, weights: Tensor) -> NDArray[np.float32]:
        """Return [n, k, 3] of samples [n, heads, P, 2] in [0, 1] of the padded image, and weights."""
        scale = torch.tensor([side / part for side, part in zip(self.size, self.part, strict=True)])
        places = samples.float().cpu() * scale
        shares = weights.float().cpu() / weights.shape[1]  # of each head they sum up to 1
        return torch.cat([places, shares[..., None]], -1).flatten(1, 2).numpy()


def looks(calls: Sequence[Call], rows: Tensor, frame: Frame, name: str) -> Looks:
    """Return where rows (queries or tokens) looked in each of the layers that were recorded.

    Raises:
        UserError: an attention module of an unknown kind.
    """
    maps, points = [], []
    for module, arguments, keywords in calls:
        rows = rows.to(arguments[0].device)
        if isinstance(module, DeformableAttention):
            queries, locations, memory = arguments[:3]
            samples, weights = module.sampling(queries[:, rows], locations[:, rows], memory)
            points.append(frame.points(samples[0], weights[0]))
        elif isinstance(module, nn.MultiheadAttention):
            asked = (arguments[0][:, rows], *arguments[1:])
            _, shares = module.forward(*asked, **keywords | {"need_weights": True})
            assert shares is not None
            maps.append(frame.maps(shares[0]))
        else:
            with _Weights() as seen:
                module.forward(*arguments, **keywords)
            if seen.weights is None:
                raise UserError(f"attention: {name}: nobody can look into {described(type(module))}")
            maps.append(frame.maps(seen.weights[0, rows]))
    if not calls:
        raise UserError(f"attention: {name} has no attention that could be looked into")
    return Looks(np.stack(maps) if maps else None, np.stack(points) if points else None)


class _Weights(TorchFunctionMode):
    """Computes the weights of the `scaled_dot_product_attention` that is called within it, averaged over heads."""

    weights: Tensor | None = None  # [B, Q, T]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            query, key = args[:2]
            scores = query.float() @ key.float().mT / math.sqrt(query.shape[-1])
            allowed = (kwargs or {}).get("attn_mask")
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -torch.inf)
            self.weights = scores.softmax(-1).mean(1)
        return function(*args, **(kwargs or {}))


def _tokens(call: Call) -> int:
    """How many tokens an attention module of the encoder saw."""
    return call[1][0].shape[1]


def _as_one(seen: Looks) -> Looks:
    """Several tokens, one a level, as one that looks like all of them."""
    maps = None if seen.maps is None else seen.maps.mean(axis=1, keepdims=True)
    if seen.points is None:
        return Looks(maps)
    layers, count = seen.points.shape[:2]
    shared = np.array([1, 1, count], dtype=np.float32)  # the weights among the tokens
    return Looks(maps, (seen.points.reshape(layers, 1, -1, 3) / shared).astype(np.float32))
