"""Where the host waits for the device: each wait is time in which nothing new is asked of it."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable
from typing import Any

import torch


def waits(step: Callable[[], Any], device: torch.device) -> collections.Counter[str]:
    """Return the places where a step waits for the device, with how often; none on a CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return collections.Counter(
        f"{each.filename.rpartition('site-packages/')[2]}:{each.lineno}"
        for each in caught
        if "synchronizing CUDA operation" in str(each.message)
    )
