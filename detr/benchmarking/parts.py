"""Where the time of a detector goes, part by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from detr.benchmarking.timing import synchronize
from detr.models.detr import DETR

PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "encoder": "encoder",
    "queries": "queries",
    "decoder": "decoder",
    "class_head": "heads",
    "box_head": "heads",
    "mask_head": "mask head",
}  # attribute of a detector → part
POSTPROCESSING, REST = "post-processing", "rest"


@dataclass
class Clock:
    """Takes the time of parts; of a part inside of another, the outer one's stands still."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    since: float = 0.0

    def enter(self, part: str) -> None:
        self._count()
        self.running.append(part)

    def leave(self) -> None:
        self._count()
        self.running.pop()

    def _count(self) -> None:
        """Give the time since the last change to the part that is running."""
        synchronize(self.device)
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] = self.seconds.get(self.running[-1], 0.0) + now - self.since
        self.since = now


@contextmanager
def clocked(model: DETR, clock: Clock) -> Iterator[None]:
    """Have a clock follow the parts of a detector."""
    hooks = []
    for module, part in _modules(model):
        hooks.append(module.register_forward_pre_hook(lambda *_, part=part: clock.enter(part)))
        hooks.append(module.register_forward_hook(lambda *_: clock.leave()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def profile(
    model: DETR, forward: Callable[[], Any], postprocess: Callable[[Any], object], device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the median seconds of each part, in the order in which data flows through them."""
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        clock = Clock(device)
        with clocked(model, clock):
            clock.enter(REST)
            found = forward()
            clock.leave()
            clock.enter(POSTPROCESSING)
            postprocess(found)
            clock.leave()
        rounds.append(clock.seconds)
    names = [name for name in dict.fromkeys([*PARTS.values(), POSTPROCESSING, REST]) if name in rounds[0]]
    return {name: statistics.median(each[name] for each in rounds) for name in names}


def parameters(model: DETR) -> dict[str, int]:
    """Return how many parameters each part has."""
    counts: dict[str, int] = {}
    for attribute, part in PARTS.items():
        module = getattr(model, attribute)
        if module is not None:
            counts[part] = counts.get(part, 0) + sum(each.numel() for each in module.parameters())
    return counts


def _modules(model: DETR) -> Iterator[tuple[nn.Module, str]]:
    """Modules to follow: of heads that each layer has its own, each one, since decoders call them singly."""
    for attribute, part in PARTS.items():
        module = getattr(model, attribute)
        if module is not None:
            yield module, part
            if isinstance(module, nn.ModuleList):
                yield from ((each, part) for each in module)
