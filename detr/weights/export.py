"""Checkpoints in other layouts, for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from detr.errors import UserError
from detr.files import write_with
from detr.weights.official import to_official
from detr.weights.sources import Weights, load
from detr.weights.zoo import ZOO, is_address

log = logging.getLogger(__name__)

Format = Literal["official"]


def export(checkpoint: str, layout: Format, output: str | None) -> Path:
    """Write the weights that an evaluation would use (the moving average where there is one), and say where.

    Args:
        checkpoint: as `checkpoint=` of evaluate.py.
        layout: official: `{"model": …}` as the published files are.
        output: the file; None: beside the checkpoint, or here if that is no local one.

    Raises:
        UserError: a detector that the layout has no place for.
    """
    weights = load(checkpoint)
    content = {"model": official_weights(weights)}
    path = Path(output) if output is not None else default_output(checkpoint, layout)
    write_with(path, lambda stream: torch.save(content, stream))
    log.info("wrote %d weights to %s", len(content["model"]), path)
    return path


def official_weights(weights: Weights) -> dict[str, Tensor]:
    """Return weights under the official names, or refuse what these cannot express."""
    converted = to_official(weights.tensors, weights.source)
    if weights.classes is not None and weights.num_logits == weights.classes.num_classes:
        raise UserError(
            f"{weights.source} cannot be written in the official layout, whose class logits end with no-object: "
            "these are sigmoids (loss.classification)"
        )
    wide = weights.tensors["decoder.layers.0.feed_forward.linear1.weight"]
    if len(wide) != weights.tensors["decoder.layers.0.feed_forward.linear2.weight"].shape[1]:
        raise UserError(
            f"{weights.source} cannot be written in the official layout, which has no gated feed-forward layers "
            "(transformer.activation=glu)"
        )
    return converted


def default_output(checkpoint: str, layout: Format) -> Path:
    """Return best_official.pth for best.pt."""
    if checkpoint in ZOO or is_address(checkpoint):
        return Path(f"{Path(checkpoint).stem}_{layout}.pth")
    path = Path(checkpoint)
    return path.with_name(f"{path.name if path.is_dir() else path.stem}_{layout}.pth")
