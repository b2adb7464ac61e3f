"""Who this process is among those of a job, and the little that they tell each other. The only file that asks.

The first process owns a run: its folder, its W&B run, the console. It composes the config, and has the others follow.

A job is what `torchrun` starts. Without it there is a single process, and everything here works all the same.
Heavy modules are imported where they are needed: entry points ask before they know whether anything will be computed.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from detr.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets

PATIENCE = datetime.timedelta(days=30)  # of processes that wait for what another one does alone
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal to get when the parent dies
FAILURES = "detr/failures"  # how many processes have failed, in the job's store


class _Job:
    """What is made once and lasts as long as the process."""

    waiting: Any = None  # a gloo group for objects, whose members wait as long as it takes


def launched() -> bool:
    """Return whether torchrun started this process."""
    return all(name in os.environ for name in VARIABLES)


def rank() -> int:
    """Return the number of this process among all of the job, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def world_size() -> int:
    """Return how many processes the job has."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_main() -> bool:
    """Return whether this process owns the run: its folder, its W&B run, the console."""
    return rank() == 0


def start() -> None:
    """Join the other processes of the job: once, however many runs it does. Nothing to do without torchrun."""
    if not launched() or _Job.waiting is not None:
        return
    import torch
    from torch import distributed

    _end_with_launcher()
    cuda = torch.cuda.is_available()
    if cuda and _local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(_local_rank())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _Job.waiting = distributed.new_group(backend="gloo", timeout=PATIENCE)


def started() -> bool:
    """Return whether this process can talk to the others, or has none to talk to."""
    return not launched() or _Job.waiting is not None


def stop() -> None:
    """Leave the job in good order, when all runs are done."""
    if _Job.waiting is not None:
        from torch import distributed

        _Job.waiting = None
        distributed.destroy_process_group()


def first_to_fail() -> bool:
    """Return whether no other process of the job failed before. The others fail for want of it, and may keep quiet."""
    if _Job.waiting is None:
        return True
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return _get_default_store().add(FAILURES, 1) == 1
    except RuntimeError:  # the store is gone, with the process that kept it
        return False


def own_device(name: str) -> torch.device:
    """Return where this process computes; under torchrun, `auto` and `cuda` are the GPU of its local rank.

    Raises:
        UserError: no such device, or one that several processes would share.
    """
    import torch

    from detr.environment import resolve_device

    if world_size() == 1:
        return resolve_device(name)
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return resolve_device(f"cuda:{_local_rank()}")
    if name in ("auto", "cpu"):
        return resolve_device("cpu")
    device = resolve_device(name)
    raise UserError(
        f"trainer.device={device} would be shared by all {world_size()} processes; choose trainer.device=cuda, which "
        "gives each its own, or cpu"
    )


def parallel(model: nn.Module) -> DistributedDataParallel | None:
    """Return the model with gradients averaged over processes and the first one's parameters; None: it is alone."""
    if world_size() == 1:
        return None
    from torch.nn.parallel import DistributedDataParallel

    # Buffers are broadcast in each step only where it changes them. Backbones' frozen batch norm has nothing to tell.
    arguments = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {name: bool(_running_statistics(model))}
    return DistributedDataParallel(model, **options)


def share_statistics(model: nn.Module) -> None:
    """Copy the running statistics of batch norm from the first process, whose checkpoints have them.

    In training each step starts so; but from the step's forward pass on each process has moved them by its own images.
    """
    if world_size() == 1:
        return
    from torch import distributed

    for statistic in _running_statistics(model):
        distributed.broadcast(statistic, src=0)


def _running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """Means and variances of every batch norm that keeps them."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    return [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]


def total(values: Sequence[float]) -> list[float]:
    """Return sums over all processes; on the host, so that no device is waited for."""
    if world_size() == 1:
        return list(values)
    import torch
    from torch import distributed

    summed = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(summed)
    return summed.tolist()


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return means over all processes, which have the same names in the same order."""
    return {name: value / world_size() for name, value in zip(values, total(list(values.values())), strict=True)}


def gather(value: T) -> list[T]:
    """Return what every process has, in the order of ranks; an empty list anywhere but on the first."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    found: list[Any] | None = [None] * world_size() if is_main() else None
    distributed.gather_object(value, found, dst=0, group=_Job.waiting)
    return found or []


def from_main(value: T) -> T:
    """Return the first process's value. The others wait as long as it takes."""
    if world_size() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0, group=_Job.waiting)
    return box[0]


class Failed(BaseException):
    """Wraps an exception that a launcher of many jobs must not take for the failure of one of them."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def leadership() -> Iterator[None]:
    """Surround everything that the first process does: it joins the others, and dismisses them in the end.

    Raises:
        Exception: what made a job fail that is `everybodys_end`.
    """
    start()
    try:
        yield
    except Failed as failure:
        raise failure.error from failure.error.__cause__
    from_main(None)
    stop()


def led(task: Callable[[T], None]) -> Callable[[T], None]:
    """Return the task, announced to the others first, so that all do it."""

    @functools.wraps(task)
    def lead(order: T) -> None:
        if not started():
            raise UserError(
                "torchrun starts the processes already, so it cannot be combined with a launcher that starts its own: "
                "leave out hydra/launcher=…, or torchrun"
            )
        from_main((order, os.getcwd()))
        task(order)

    return lead


def everybodys_end(job: Callable[[T], None]) -> Callable[[T], None]:
    """Return the job; with several processes its failure ends them all, also one of many: they are out of step."""

    @functools.wraps(job)
    def end(order: T) -> None:
        try:
            job(order)
        except Exception as error:
            if world_size() == 1:
                raise
            raise Failed(error) from error

    return end


def follow(task: Callable[[Any], None]) -> None:
    """Do what the first process announces, until it has no more. Its folder, console and logs are its own."""
    start()
    logging.getLogger().addHandler(logging.NullHandler())  # else Python shows warnings on stderr
    while (announced := from_main(None)) is not None:
        order, directory = announced
        if directory != os.getcwd() and os.path.isdir(directory):
            os.chdir(directory)  # hydra.job.chdir
        task(order)
    stop()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let the first process go through the block alone, then all others: what it downloads or generates is there."""
    if not is_main():
        from_main(None)
    yield
    if is_main():
        from_main(None)


def _end_with_launcher() -> None:
    """Have this process asked to stop if torchrun is killed: else it would write where the resumed run writes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])
