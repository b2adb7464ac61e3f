"""Which images make a batch, and in which order: of an epoch, and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from detr.data.variations import Key, Slot

AMONG = 50  # batches, whose images are grouped by shape: fewer and more is padded, more and batches are less random


def beginning(batch: int) -> float:
    """Return that nothing of the run is over, whichever batch of an epoch it is."""
    return 0.0


class EpochSampler(Sampler[list[Key]]):
    """Yields the batches of one epoch as lists of (epoch, index), shuffled as a function of (seed, epoch).

    Several processes share each slice of the order among them, so that N processes with batches of b see in every step
    the images that one process sees with batches of N × b. All of them have equally many batches: images at the end
    that do not make one for each are dropped, as official DETR does (BatchSampler with drop_last).

    Args:
        size: images of the data set.
        batch_size: of one process.
        seed: of the order.
        share: (rank, processes).
        sizes: [I, 2] (height, width) of the images, to make batches of images of about the same shape: those of `AMONG`
            batches that follow each other are dealt out anew by shape, and the batches are shuffled. None: batches as
            the order has them.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        *,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """Raises ValueError if `size` images do not make one batch for each process."""
        self.rank, processes = share
        self.together = batch_size * processes  # images of one batch of every process
        if not 1 <= self.together <= size:
            raise ValueError(f"{size} images do not make a batch of {self.together}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.shapes = None if sizes is None else torch.from_numpy(sizes[:, 0] / sizes[:, 1])
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0, part: Callable[[int], float] = beginning) -> None:
        """Set which epoch comes next.

        Args:
            epoch: counted from 0.
            first_batch: skips batches, to resume within it.
            part: a batch of the epoch → the part of the run that is over before its step.
        """
        self.epoch = epoch
        self.first_batch = first_batch
        self.part = part

    @property
    def batches_per_epoch(self) -> int:
        """Return the batches of a whole epoch, for each process, wherever in it the next one starts."""
        return self.size // self.together

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[Key]]:
        entropy = [self.seed % 2**64, self.epoch]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        shuffled = torch.randperm(self.size, generator=generator)
        order = (shuffled if self.shapes is None else self._by_shape(shuffled, self.shapes, generator)).tolist()
        for batch in range(self.first_batch, self.batches_per_epoch):
            start = batch * self.together + self.rank * self.batch_size
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]

    def _by_shape(self, order: Tensor, shapes: Tensor, generator: torch.Generator) -> Tensor:
        """The images of whole batches in another order."""
        parts = order[: self.batches_per_epoch * self.together].split(AMONG * self.together)
        batches = torch.cat([part[shapes[part].argsort(stable=True)] for part in parts]).view(-1, self.together)
        return batches[torch.randperm(len(batches), generator=generator)].flatten()


class Slots(Sampler[list[tuple[Key, Slot]]]):
    """The batches of an epoch, each key with the place of its batch in the run."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[Key, Slot]]]:
        for batch, keys in enumerate(self.sampler, self.sampler.first_batch):
            slot = Slot(self.sampler.epoch, batch, self.sampler.part(batch))
            yield [(key, slot) for key in keys]


class InOrder(Sampler[list[Key]]):
    """Every image once, in order; the last batch may be smaller.

    Several processes take turns batch by batch, so that each batch is what it is for a single process, padding
    included; the last ones may have a batch less, or none.
    """

    def __init__(self, size: int, batch_size: int, share: tuple[int, int] = (0, 1)) -> None:
        self.size = size
        self.batch_size = batch_size
        self.rank, self.processes = share

    @property
    def starts(self) -> range:
        """The first image of each batch of this process."""
        return range(self.rank * self.batch_size, self.size, self.processes * self.batch_size)

    @property
    def rounds(self) -> int:
        """Batches of the process that has most of them."""
        return -(-self.size // (self.processes * self.batch_size))

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self.starts:
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.size))]
