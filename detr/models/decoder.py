"""What every decoder offers to the detector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from detr.models.layers import zero_last_layer
from detr.structures import Memory, QuerySet

if TYPE_CHECKING:
    from detr.models.queries import Queries


class Decoder(nn.Module):
    """What every decoder offers: layers, of which an evaluation may use the first ones only.

    Args:
        layers: one after the other; each one's output is supervised, so that any number of the first is a decoder.
        norm: of every layer's output.
        eval_layers: how many of them an evaluation uses; null: all.

    Attributes:
        corrects: boxes are corrections of a reference, refined or not.
        num_levels: of the memory that it takes; None: any.
        reads_positions: those of the memory.

    Raises:
        ValueError: no such number of layers.
    """

    corrects = False
    num_levels: int | None = None
    reads_positions = True

    def __init__(self, *, layers: Iterable[nn.Module], norm: nn.Module, eval_layers: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        if not self.layers:
            raise ValueError("num_layers must be at least 1, not 0")
        if eval_layers is not None and not 1 <= eval_layers <= len(self.layers):
            raise ValueError(f"eval_layers must lie between 1 and num_layers={len(self.layers)}, not {eval_layers}")
        self.eval_layers = eval_layers

    @property
    def active_layers(self) -> nn.ModuleList:
        """All while training, the first `eval_layers` in evaluations."""
        return self.layers if self.training or self.eval_layers is None else self.layers[: self.eval_layers]

    def fit(self, queries: Queries, d_model: int) -> None:
        """Add what the queries leave to the decoder. The detector calls it once, before training."""

    @classmethod
    def check(cls, queries: Queries | type[Queries]) -> None:
        """ValueError if the queries, or queries of a class, are not of the kind that the decoder works with."""
        if queries.has_reference:
            raise ValueError(
                "queries come with anchors, which transformer.decoder does not use; use queries=learned, or another "
                "decoder: transformer/decoder=anchor, deformable or dab"
            )

    def start_boxes(self, box_head: nn.Module) -> None:
        """Initialise the last layer of a box head, for what it has to say at first."""
        if self.corrects:
            zero_last_layer(box_head)

    def forward(self, queries: QuerySet, memory: Memory, box_head: nn.Module) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Hidden states [L, B, Q, D] of every layer, and their boxes [L, B, Q, 4] before the sigmoid.
        """
        raise NotImplementedError


def needs_anchors(queries: Queries | type[Queries]) -> None:
    """ValueError if the queries have no anchor boxes for a decoder that corrects such."""
    if not queries.has_reference:
        raise ValueError(
            "transformer.decoder refines anchors, but the queries have none; use queries=anchors or two_stage"
        )
