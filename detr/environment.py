"""What a run happens in: the code's revision, the hardware, the seeds, the device and its precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detr.errors import UserError

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 2**30  # bytes


def revision() -> str | None:
    """Return the commit of this code, as `git_sha`; None where the package was installed without its repository."""
    root = Path(__file__).resolve().parents[1]
    return git_sha(root) if (root / "pyproject.toml").exists() else None


def git_sha(root: Path | str) -> str | None:
    """Return the commit checked out at `root`, "-dirty" after it where tracked files differ; None outside of git."""
    sha = _git(root, "rev-parse", "HEAD")
    if sha is None:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{sha}-dirty" if changes else sha


def hardware() -> dict[str, Any]:
    """Return what the numbers were made on, as plain values: processor, cores, memory, device, versions."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cpu": _cpu_model(),
        "cpu_cores": available_cores(),
        "memory_gb": _memory_gb(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def available_cores() -> int:
    """Return how many cores this process may use: in a container or under Slurm fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Have glibc use freed blocks again in place of giving them back, where glibc it is.

    The system clears each page that it gives: where every step asks for the same large tensors anew, on a CPU that is
    a tenth of it, and of an inference with DETR-R50 at 800 × 1066 a fifth. What the user has set by `MALLOC_…` stays.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: Windows has no library of None
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, KEPT)


def return_freed_memory() -> None:
    """Give the system what glibc has kept of freed blocks, where glibc it is."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on every device. Worker processes of the data loader seed themselves."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_torch(*entropy: int) -> None:
    """Seed PyTorch on every device with a mixture of several numbers, such as the seed and the rank."""
    mixed = np.random.SeedSequence([number % 2**64 for number in entropy])
    torch.manual_seed(int(mixed.generate_state(1, np.uint64)[0] >> 1))


def resolve_device(name: str, key: str = "trainer.device") -> torch.device:
    """Return the device: `auto` is the first of cuda, mps and cpu that is there; other names are used as they are.

    Args:
        name: of the device.
        key: how the user gave it, in messages.

    Raises:
        UserError: the name is no device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _mps_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "mps", "cpu"):
        raise UserError(f"{key}={name} is not a known device; choose auto, cpu, cuda, cuda:N or mps")
    if not _is_available(device):
        raise UserError(
            f"{key}={name} is not available here (found: {', '.join(_found())}); choose one of these, or {key}=auto"
        )
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass: mixed precision for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, LOW_PRECISION[precision])


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return _mps_available() and not device.index
    return not device.index


def _found() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if _mps_available() else []), "cpu"]


def _mps_available() -> bool:
    return torch.backends.mps.is_available()


def _git(root: Path | str, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
