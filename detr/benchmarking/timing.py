"""Times of several callables, measured in turns so that a busy moment of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from detr.environment import return_freed_memory

Call = Callable[[], object]  # returns when its work is done

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of this process, on Linux


@dataclass(frozen=True)
class Timing:
    """Holds how long a call takes, and what it needs."""

    median: float  # seconds
    p90: float  # seconds: nine of ten calls are faster
    memory: int | None  # bytes at most in the first call, beyond what lay there before; None: the machine does not tell


def in_turns(calls: Mapping[str, Call], device: torch.device, *, repeats: int, warmup: int) -> dict[str, Timing]:
    """Call each once and `warmup` times for nothing, then `repeats` times one after the other in turns."""
    memory: dict[str, int | None] = {}
    for name, call in calls.items():
        memory[name] = _peak(call, device)  # of the first: runtimes keep for the next ones what they have taken
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(statistics.median(each), p90(each), memory[name]) for name, each in seconds.items()}


def p90(values: list[float]) -> float:
    """Return the smallest of the values that at least nine of ten do not exceed."""
    return sorted(values)[-(-9 * len(values) // 10) - 1]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak(call: Call, device: torch.device) -> int | None:
    """Bytes that one call takes at most: of CUDA's memory as PyTorch gives it out, else of the process."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    return_freed_memory()  # else a call would be given again what others have left behind, and take nothing
    try:
        CLEAR.write_text("5")  # the peak becomes what is there now
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    except (OSError, StopIteration):
        call()
        return None


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
