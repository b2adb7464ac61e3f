"""What reads classes and boxes off the decoder's states (DETR, section 3.2; facebookresearch/detr, models/detr.py).

A head is a factory in the config, since the detector says how wide its states are and how many logits there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detr.models.layers import MLP, MLPActivation
from detr.models.operations import Linear
from detr.models.structures import Decoded

QUALITY = "quality"  # in a decoder's extras: [L, B, Q, 1] that the logits of all classes grow by

PRIOR = 0.01  # of every class, where logits are independent (focal loss, Lin et al. 2017, section 3.3)


class ClassHead(Linear):
    """Applies one linear layer to the decoder's states.

    Args:
        d_model: D.
        num_logits: K, with no-object among them if they go through a softmax.
        sigmoid: whether each logit is a class on its own; then all start at a probability of 0.01.
    """

    def __init__(self, *, d_model: int, num_logits: int, sigmoid: bool) -> None:
        super().__init__(d_model, num_logits)
        if sigmoid:
            nn.init.constant_(self.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, decoded: Decoded) -> Tensor:  # type: ignore[override]
        """Return [L, B, Q, K], to which the decoder may add how good it takes a box for. Others may see boxes, too."""
        logits = super().forward(decoded.hidden)
        quality = decoded.extras.get(QUALITY)
        return logits if quality is None else logits + quality


class BoxHead(MLP):
    """Applies the paper's three linear layers: states [..., D] → what the box coder reads [..., num_outputs].

    Args:
        d_model: D.
        num_outputs: numbers for each box.
        corrects: whether they correct a reference: then there is no correction at first.
        num_layers: linear layers.
        activation: between them; DEIM has silu.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_outputs: int = 4,
        corrects: bool = False,
        num_layers: int = 3,
        activation: MLPActivation = "relu",
    ) -> None:
        super().__init__(d_model, d_model, num_outputs, num_layers, activation)
        if corrects:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)


class PerLayer(nn.ModuleList):
    """Has a head for each decoder layer (Deformable DETR with refinement), in the place of one for all."""

    def forward(self, decoded: Decoded) -> Tensor:
        """Apply to each layer its own head; there may be fewer layers than heads."""
        return torch.cat([self[index](decoded.layer(index)) for index in range(len(decoded.hidden))])


def each_layer(head: nn.Module, hidden: Tensor) -> Tensor:
    """Return what a box head, or one of each layer, says of the states of all layers [L, B, Q, D]."""
    if isinstance(head, PerLayer):
        return torch.stack([head[index](state) for index, state in enumerate(hidden)])
    return head(hidden)


def for_layers(count: int | None, head: Callable[[], nn.Module]) -> nn.Module:
    """Return one head for all decoder layers, or as many as there are."""
    return head() if count is None else PerLayer(head() for _ in range(count))


def head_of_layer(head: nn.Module, index: int) -> nn.Module:
    """Return what a decoder layer's states go through: its own head, or the one for all."""
    return head[index] if isinstance(head, PerLayer) else head
