"""What every decoder offers to the detector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detr.models.layers import head_of_layer, zero_last_layer
from detr.structures import Memory, QuerySet, at_least_fp32

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


class Refinement:
    """Layers correct a reference one after the other; each one's box (Deformable DETR, appendix A.4).

    Args:
        reference: [B, Q, 2 or 4] before the sigmoid, for the first layer.
        box_head: of all layers, or of each its own.
        refine: each layer corrects the reference of the one before; else all correct the first.
        look_forward_twice: the gradient of a layer's box reaches the layer before it, too (DINO, section 3.6).

    Attributes:
        reference: for the layer that comes, detached from those before it.
    """

    def __init__(self, reference: Tensor, box_head: nn.Module, *, refine: bool, look_forward_twice: bool) -> None:
        self.reference = self.previous = reference  # `previous` may keep its gradient
        self.box_head = box_head
        self.refine, self.look_forward_twice = refine, look_forward_twice

    def box(self, layer: int, normed: Tensor, state: Tensor) -> Tensor:
        """The box [B, Q, 4] before the sigmoid of layer number `layer`, after which the reference is the next one's.

        Args:
            normed: [B, Q, D] what the layer says, of which the box is.
            state: [B, Q, D] what refines the reference: the same, or the layer's output before the final norm.
        """
        head = head_of_layer(self.box_head, layer)
        correction = at_least_fp32(head(normed))
        box = corrected(self.previous, correction)
        if self.refine:
            if state is not normed:
                correction = at_least_fp32(head(state))
            refined = corrected(self.reference, correction)
            self.reference = refined.detach()
            self.previous = refined if self.look_forward_twice else self.reference
        return box


def corrected(reference: Tensor, correction: Tensor) -> Tensor:
    """A reference [B, Q, 2 or 4] and a correction [B, Q, 4], both before the sigmoid, as a box [B, Q, 4].

    Of a point only the centre is corrected; the sides are the correction's.
    """
    if reference.shape[-1] == 4:
        return reference + correction
    return torch.cat([reference + correction[..., :2], correction[..., 2:]], -1)


def needs_anchors(queries: Queries | type[Queries]) -> None:
    """ValueError if the queries have no anchor boxes for a decoder that corrects such."""
    if not queries.has_reference:
        raise ValueError(
            "transformer.decoder refines anchors, but the queries have none; use queries=anchors or two_stage"
        )
