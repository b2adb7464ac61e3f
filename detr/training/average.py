"""The moving average of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float, tau: float | None = None) -> AveragedModel:
    """Return an exponential moving average that follows quickly at first.

    Args:
        decay: that it comes to have.
        tau: updates in which it nearly has: the decay rises as decay · (1 − e^(−n / tau)) (RT-DETR: 2000; RF-DETR:
            100); None: as (1 + n) / (10 + n) until it is reached.
    """
    return _Average(model, decay, tau)


class _Average(AveragedModel):
    """Torch's own copies the number of updates to the device in each one, which would be waited for."""

    def __init__(self, model: nn.Module, decay: float, tau: float | None) -> None:
        super().__init__(model)
        self.decay, self.tau = decay, tau
        # Found once: a walk through a detector's modules takes as long as the update.
        self.averages: list[Tensor] = list(self.module.parameters())
        self.latest: list[Tensor] = list(model.parameters())
        modules = zip(self.module.modules(), model.modules(), strict=True)
        self.keepers = [(mine, its) for mine, its in modules if any(True for _ in its.buffers(recurse=False))]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the model, which is the one that the average was made of."""
        updates = int(self.n_averaged)  # kept on the host
        torch._foreach_lerp_(self.averages, self.latest, 1 - risen(self.decay, self.tau, updates) if updates else 1.0)
        for mine, its in self.keepers:
            torch._foreach_copy_(list(mine.buffers(recurse=False)), list(its.buffers(recurse=False)))
        self.n_averaged += 1


def risen(decay: float, tau: float | None, updates: int) -> float:
    """Return the decay of an update that so many others came before."""
    if tau is None:
        return min(decay, (1 + updates) / (10 + updates))
    return decay * (1 - math.exp(-updates / tau))
