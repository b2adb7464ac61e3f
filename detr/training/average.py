"""The moving average of weights."""

from __future__ import annotations

import math
from typing import Any

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

    def update(averages: Any, parameters: Any, _: Tensor | int) -> None:
        updates = int(average.n_averaged)  # the number that is passed is on the device, which would be waited for
        torch._foreach_lerp_(averages, parameters, 1 - risen(decay, tau, updates))

    average = AveragedModel(model, multi_avg_fn=torch.no_grad()(update))
    return average


def risen(decay: float, tau: float | None, updates: int) -> float:
    """Return the decay of an update that so many others came before."""
    if tau is None:
        return min(decay, (1 + updates) / (10 + updates))
    return decay * (1 - math.exp(-updates / tau))
