"""A detector as tensors in, tensors out, traced for every batch, height and width at once (`torch.export`)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detr.errors import UserError
from detr.evaluation.postprocess import ranked, to_pixels
from detr.exporting.source import Source
from detr.exporting.symbolic import symbolic_sizes
from detr.models.detr import DETR
from detr.models.two_stage import TwoStageQueries

Outputs = Literal["logits", "detections"]
Precision = Literal["fp32", "fp16", "int8"]

CHOSEN = "chosen"  # name of the value inside: which tokens became queries
EXAMPLE = (2, 384, 352)  # images, height and width that it is traced with; those of the file may be any


@dataclass(frozen=True)
class Wish:
    """Holds what the file is to give, and in which precision it has its weights."""

    outputs: Outputs = "logits"
    precision: Precision = "fp32"


class Traced(nn.Module):
    """Runs a detector and gives its last layer's outputs as a tuple, as `output_names` calls them.

    Args:
        source: the detector.
        wish: which outputs.
        chosen: give one output more, the tokens that became queries, where queries are proposals.
    """

    def __init__(self, source: Source, wish: Wish, *, chosen: bool = False) -> None:
        super().__init__()
        self.model, self.max_detections, self.wish = source.model, source.max_detections, wish
        self.chosen = chosen and chooses(source.model)

    @property
    def input_names(self) -> list[str]:
        return ["images", "padding", *(["original_sizes"] if self.wish.outputs == "detections" else [])]

    @property
    def output_names(self) -> list[str]:
        names = ["logits", "boxes"] if self.wish.outputs == "logits" else ["scores", "labels", "boxes"]
        return [*names, *(["masks"] if self.model.mask_head is not None else [])]

    def forward(self, images: Tensor, padding: Tensor, original_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs; images [B, 3, H, W] uint8, padding [B, H, W] bool, original_sizes [B, 2] int64."""
        chosen: list[Tensor] = []
        with choosing(self.model, lambda best, scores: _noted(best(scores), chosen)):
            predictions = self.model(images, padding)
        logits, boxes = predictions.logits[-1].float(), predictions.boxes[-1].float()
        queries = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[0], -1)
        if original_sizes is None:
            found = [logits, boxes]
        else:
            scores, labels, queries = ranked(logits, self.model.classification, self.max_detections)
            found = [scores, labels, to_pixels(boxes, original_sizes).gather(1, queries[..., None].expand(-1, -1, 4))]
        if predictions.masks is not None:
            images_of = torch.arange(queries.shape[0], device=queries.device)[:, None].expand_as(queries)
            masks = predictions.masks(images_of.flatten(), queries.flatten())
            found.append(masks.view(queries.shape[0], queries.shape[1], masks.shape[1], masks.shape[2]))
        return tuple(found + (chosen if self.chosen else []))


def chooses(model: DETR) -> bool:
    """Return whether the best tokens become queries."""
    return isinstance(model.queries, TwoStageQueries)


@contextlib.contextmanager
def choosing(model: DETR, choose: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Iterator[None]:
    """Have tokens chosen by `choose`, which is told how the queries choose and the scores [B, T]."""
    if not chooses(model):
        yield
        return
    queries = cast(TwoStageQueries, model.queries)
    best = queries.best
    queries.best = lambda scores: choose(best, scores)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del queries.best


def _noted(value: Tensor, notes: list[Tensor]) -> Tensor:
    notes.append(value)
    return value


@torch.no_grad()
def trace(traced: Traced) -> ExportedProgram:
    """Trace a detector with dynamic batch, height and width.

    Raises:
        UserError: PyTorch cannot trace it.
    """
    divisor = traced.model.backbone.size_divisor
    count, height, width = EXAMPLE[0], *(-(-side // divisor) * divisor for side in EXAMPLE[1:])
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    padding = torch.zeros(count, height, width, dtype=torch.bool)
    any_size: Any = Dim.DYNAMIC
    inputs: list[Tensor] = [images, padding]
    shapes: list[dict[int, Any]] = [{0: any_size, 2: any_size, 3: any_size}, {0: any_size, 1: any_size, 2: any_size}]
    if traced.wish.outputs == "detections":
        inputs.append(torch.full((count, 2), 100))
        shapes.append({0: any_size})
    try:
        with quiet(), symbolic_sizes():
            return torch.export.export(traced, tuple(inputs), dynamic_shapes=tuple(shapes), strict=False)
    except UserError:
        raise
    except Exception as error:  # torch's reasons have no common kind
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"this detector cannot be exported: torch.export cannot trace it ({reason})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what PyTorch says about its steps from the terminal and from logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
