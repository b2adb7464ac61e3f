"""The moving average of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average that follows quickly at first: the decay rises as (1 + n) / (10 + n)."""

    def update(averages: Any, parameters: Any, _: Tensor | int) -> None:
        updates = int(average.n_averaged)  # the number that is passed is on the device, which would be waited for
        torch._foreach_lerp_(averages, parameters, 1 - min(decay, (1 + updates) / (10 + updates)))

    average = AveragedModel(model, multi_avg_fn=torch.no_grad()(update))
    return average
