"""Running means of an epoch, kept on the device so that no step has to wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from detr.structures import Losses


class Meter:
    """Keeps means over the steps of an epoch.

    Args:
        since: seconds of training before the epoch.
    """

    def __init__(self, since: float = 0.0) -> None:
        self.sums: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = since
        self.waited = 0.0  # seconds, for batches

    def add(self, losses: Losses, images: int) -> None:
        """Add one step; `images` of all processes."""
        self.last = {"loss": losses.total, **losses.terms, **losses.metrics}
        for name, value in self.last.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1
        self.images += images

    def latest(self) -> dict[str, float]:
        """Return the values of the last step."""
        return _by_layer(self.last)

    def means(self) -> dict[str, float]:
        return _by_layer({name: value / self.steps for name, value in self.sums.items()})

    def pace(self, seconds: float) -> dict[str, float]:
        """Return images per second, and the seconds of a step: waiting for `data`, and all else as `compute`.

        Args:
            seconds: of training, up to now.
        """
        seconds -= self.since
        return {
            "images_per_second": self.images / seconds,
            "step_seconds/data": self.waited / self.steps,
            "step_seconds/compute": (seconds - self.waited) / self.steps,
        }

    def state(self) -> dict[str, Any]:
        """Return the state for checkpoints: plain, and on the host."""
        return {
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "steps": self.steps,
            "images": self.images,
            "since": self.since,
            "waited": self.waited,
        }

    @classmethod
    def restored(cls, states: Sequence[dict[str, Any]], device: torch.device) -> Self:
        """Return a meter from a state, or as the mean over the states of several processes."""
        first = states[0]
        meter = cls(first["since"])
        meter.steps, meter.images, meter.waited = first["steps"], first["images"], first["waited"]
        for name in first["sums"]:
            meter.sums[name] = (sum(each["sums"][name] for each in states) / len(states)).to(device)
        return meter


def memory(device: torch.device) -> dict[str, float]:
    """Return the most memory of a GPU that tensors took since the last call, in GB; nothing on other devices."""
    if device.type != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {"memory_gb": most / 1e9}


def _by_layer(values: dict[str, Tensor]) -> dict[str, float]:
    """The last layer's value under the plain name, those of the others as NAME/layerN."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        *others, last = value.reshape(-1).tolist()
        flat |= {f"{name}/layer{index}": each for index, each in enumerate(others)} | {name: last}
    return flat
