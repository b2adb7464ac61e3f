"""What a run of 50 epochs of COCO costs on 1, 8 and 64 GPUs, computed from parts: the table of docs/scaling.md.

python benchmarks/scaling.py                                          # the table
python benchmarks/scaling.py --measure                                # the parts that need no GPU, on this machine
torchrun --standalone --nproc-per-node=4 benchmarks/scaling.py --gloo # the formula against 1, 2 and 4 processes here

The last one times all-reduces of DETR-R50's gradients, and whole steps, in groups of 1, 2 and 4 processes in turns, one
thread each. It predicts a step of N processes from one of a single process and from the all-reduce alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGES, VALIDATION, EPOCHS = 118_287, 5_000, 50
GRADIENTS = 41_500_000 * 4  # bytes, fp32
BACKWARD = 0.55  # of a step, in which an all-reduce can hide: what it is in a step of small_data on a CPU


@dataclass(frozen=True)
class Parts:
    """Holds what the parts of a run take.

    Attributes:
        step: seconds of a step of `batch` images on one GPU.
        batch: images of a step of one GPU.
        inference: images/s of one GPU.
        worker: images/s of one worker of the data loader.
        workers: of a GPU.
        inside, between: bytes/s that a GPU sends to the next one of its machine, and of another machine.
        machine: GPUs of a machine.
        metrics: seconds of COCO's numbers of the validation images, on one core.
        checkpoint: seconds to write one.
    """

    step: float
    batch: int
    inference: float = 280.9
    worker: float = 126.0
    workers: int = 8
    inside: float = 300e9
    between: float = 12.5e9
    machine: int = 8
    metrics: float = 0.6
    checkpoint: float = 4.1


@dataclass(frozen=True)
class Cost:
    """Holds what an epoch takes in seconds, by part, and the whole run in hours."""

    step: float
    reduce: float
    exposed: float
    data: float
    training: float
    evaluation: float
    checkpoint: float
    hours: float
    efficiency: float


def all_reduce(parts: Parts, processes: int) -> float:
    """Return seconds of an all-reduce in a ring: each process sends 2 (N - 1) / N of the gradients."""
    slowest = parts.inside if processes <= parts.machine else parts.between
    return 2 * (processes - 1) / processes * GRADIENTS / slowest


def cost(parts: Parts, processes: int) -> Cost:
    """Return what a run takes on so many GPUs."""
    reduce = all_reduce(parts, processes)
    exposed = max(0.0, reduce - BACKWARD * parts.step)
    data = parts.batch / (parts.worker * parts.workers)
    step = max(parts.step + exposed, data)
    training = math.ceil(IMAGES / (parts.batch * processes)) * step
    evaluation = VALIDATION / (parts.inference * processes) + parts.metrics
    epoch = training + evaluation + parts.checkpoint
    alone = IMAGES / parts.batch * max(parts.step, data) + VALIDATION / parts.inference
    alone += parts.metrics + parts.checkpoint
    return Cost(
        *(1000 * parts.step, 1000 * reduce, 1000 * exposed, 1000 * data),
        *(training, evaluation, parts.checkpoint, EPOCHS * epoch / 3600, alone / (processes * epoch)),
    )


PARTS = {"8 images a GPU, bf16": Parts(step=8 / 95.1, batch=8), "2 images a GPU, bf16": Parts(step=2 / 24.5, batch=2)}


def table() -> Iterator[str]:
    """Yield the lines of docs/scaling.md's table."""
    times = "step, ms | all-reduce, ms | exposed, ms | data, ms"
    yield f"| | GPUs | {times} | training an epoch, s | evaluating, s | 50 epochs, h | efficiency |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, parts in PARTS.items():
        for processes in (1, 8, 64):
            each = cost(parts, processes)
            times = f"{each.step:.0f} | {each.reduce:.1f} | {each.exposed:.1f} | {each.data:.1f}"
            yield (
                f"| {name} | {processes} | {times} | "
                f"{each.training:.0f} | {each.evaluation:.0f} | {each.hours:.1f} | {each.efficiency:.0%} |"
            )


def measure() -> Iterator[str]:
    """Yield the parts that need no GPU, in seconds of a core: what else the machine does counts little."""
    import checking
    import evaluation
    import torch

    from detr.config import build, compose, resolved
    from detr.data.coco_reader import read_annotations
    from detr.data.dataset import AnnotatedImages
    from detr.structures import Classes

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        checking.make(root, checking.VALIDATION + 100)
        annotations = read_annotations([str(root / "images")], [str(root / "annotations" / "train.json")])
        transform = build(resolved(compose(["experiment=detr_r50_coco"]))["augmentation"]["train"])
        images = AnnotatedImages(annotations, Classes.contiguous(annotations.categories), transform=transform)
        seconds = of_a_core(lambda: [images[0, index] for index in range(100)])
        yield f"a worker: {100 / seconds:.0f} images/s of 640 × 480, augmentation=detr"
        truth, found = evaluation.synthesise(VALIDATION, VALIDATION * 100)
        seconds = of_a_core(lambda: evaluation.measure("hotcoco", truth, found))
        yield f"numbers of {VALIDATION} images with 100 boxes each: {seconds:.1f} s"
        weights = {name: torch.rand(GRADIENTS // 4) for name in ("model", "exp_avg", "exp_avg_sq")}
        started = time.monotonic()
        torch.save(weights, Path(folder) / "last.pt")
        yield f"a checkpoint of {3 * GRADIENTS / 2**20:.0f} MiB: {time.monotonic() - started:.1f} s"


def of_a_core(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def gloo(size: tuple[int, int], turns: int) -> Iterator[str]:
    """Yield what steps and all-reduces of 1, 2 and 4 processes take here, and what the formula says."""
    import detr_r50
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from detr.config import build
    from detr.structures import Normalizer, Targets

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    counts = [count for count in (1, 2, 4) if count <= world]
    groups = {count: distributed.new_group(list(range(count))) for count in counts}
    gradients = torch.rand(GRADIENTS // 4)
    criterion = build(detr_r50.values()["loss"])
    targets = Targets.of(*detr_r50.objects(1, 7))
    images, padding = torch.rand(1, 3, *size), torch.zeros(1, *size, dtype=torch.bool)
    normalizer = Normalizer(objects=7.0, images=1.0)
    warnings.simplefilter("ignore", FutureWarning)  # of the name of `broadcast_buffers`, which torch changes
    models = {
        count: DistributedDataParallel(detr_r50.ours().train(), process_group=groups[count], broadcast_buffers=False)
        for count in counts
        if rank < count
    }

    def step(count: int) -> None:
        criterion(models[count](images, padding, targets), targets, normalizer).total.backward()

    def apart(count: int) -> None:
        with models[count].no_sync():
            step(count)

    def reduce(count: int) -> None:
        distributed.all_reduce(gradients, group=groups[count])

    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(turns + 1):  # the first one does not count
        for count in counts:
            for work in (reduce, apart, step):
                distributed.barrier()
                if rank < count:
                    models[count].zero_grad()
                    distributed.barrier(group=groups[count])
                    started = time.perf_counter()
                    work(count)
                    distributed.barrier(group=groups[count])
                    if turn:
                        found.setdefault((work.__name__, count), []).append(time.perf_counter() - started)
    if rank == 0:
        yield from against_the_formula({key: statistics.median(values) for key, values in found.items()})
    distributed.destroy_process_group()


def against_the_formula(found: dict[tuple[str, int], float]) -> Iterator[str]:
    """Yield each measured time beside what the others predict."""
    from detr.environment import available_cores

    cores, bandwidth = available_cores(), GRADIENTS / found["reduce", 2]  # each of two sends the gradients once
    yield f"{cores} cores; a step of one process {found['step', 1]:.2f} s; two all-reduce at {bandwidth / 1e9:.2f} GB/s"
    for count in sorted(count for name, count in found if name == "step" and count > 1):
        reduce, apart, step = (found[name, count] for name in ("reduce", "apart", "step"))
        ring = 2 * (count - 1) / count * GRADIENTS / bandwidth * max(1.0, count / cores)  # each core sends for several
        hidden = apart + max(0.0, reduce - BACKWARD * apart)
        yield (
            f"{count} processes: all-reduce {reduce:.2f} s, the ring predicts {ring:.2f} s; step {step:.2f} s, "
            f"{apart:.2f} s without it: predicted {hidden:.2f} s if that hides, {apart + reduce:.2f} s if it does not"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--gloo", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    lines = gloo(tuple(given.size), given.turns) if given.gloo else measure() if given.measure else table()
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
