"""A job among others on one machine: which GPU it has."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

_held: list[IO[str]] = []  # locks that this process holds until it ends


def enter_worker(folder: Path) -> None:
    """Claim a GPU at the start of a job in one of joblib's worker processes; `folder` is the workers' own."""
    # joblib has made its own way of starting processes the default, which data loaders cannot use.
    multiprocessing.set_start_method(None, force=True)
    gpu = claim_gpu(folder)
    log.info("GPU %s, OMP_NUM_THREADS=%s", gpu or "none", os.environ.get("OMP_NUM_THREADS"))  # joblib shares the cores


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def claim_gpu(folder: Path) -> str | None:
    """Take a GPU for the rest of this process's life, and hide the others from it; None where there is none.

    Processes that share `folder` take the GPUs in turn: each holds the first place in line that is free. CUDA must
    not have been used by this process before.
    """
    gpus = visible_gpus()
    if not gpus or _held:  # a worker that has had a job already keeps its GPU
        return gpus[0] if gpus else None
    folder.mkdir(parents=True, exist_ok=True)
    place = 0
    while not _lock(folder / f"{place}.lock"):
        place += 1
    gpu = gpus[place % len(gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return gpu


def _lock(path: Path) -> bool:
    """Hold a lock until this process ends, if nobody else does."""
    file = open(path, "w")  # noqa: SIM115 – the lock is lost when it is closed
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held.append(file)
    return True
