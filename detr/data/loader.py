"""Batches: padding, and the order of an epoch."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler

from detr.data.dataset import ImageSet
from detr.data.variations import Key, Slot, Variations, Varying
from detr.data.workers import CollateOrReport, Reporting, shield, shielding
from detr.errors import UserError
from detr.structures import Batch, Sample, Targets

logger = logging.getLogger(__name__)

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly however many there are


def collate(samples: Sequence[Sample], size_divisor: int = 1) -> Batch:
    """Pad images with zeros at the bottom and right to the largest height and width, and concatenate objects.

    Args:
        samples: of the batch.
        size_divisor: height and width become multiples of it.
    """
    sizes = torch.tensor([sample.image.shape[-2:] for sample in samples])
    height, width = (-(-side // size_divisor) * size_divisor for side in sizes.amax(dim=0).tolist())
    images = torch.zeros(len(samples), 3, height, width, dtype=samples[0].image.dtype)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, (sample, (h, w)) in enumerate(zip(samples, sizes.tolist(), strict=True)):
        images[index, :, :h, :w] = sample.image
        padding[index, :h, :w] = False
    masks = [_padded(sample.masks, height, width) for sample in samples if sample.masks is not None]
    targets = Targets.of(
        [sample.labels for sample in samples], [sample.boxes for sample in samples], masks if masks else None
    )
    return Batch(
        images=images,
        padding=padding,
        targets=targets,
        image_ids=[sample.image_id for sample in samples],
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
        files=[sample.file for sample in samples],
    )


def _padded(masks: Tensor, height: int, width: int) -> Tensor:
    """[n, h, w] → [n, height, width], no object in the padding."""
    return F.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))


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
    """

    def __init__(self, size: int, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        """Raises ValueError if `size` images do not make one batch for each process."""
        self.rank, processes = share
        self.together = batch_size * processes  # images of one batch of every process
        if not 1 <= self.together <= size:
            raise ValueError(f"{size} images do not make a batch of {self.together}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
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
        order = torch.randperm(self.size, generator=generator).tolist()
        for batch in range(self.first_batch, self.batches_per_epoch):
            start = batch * self.together + self.rank * self.batch_size
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]


class _Slots(Sampler[list[tuple[Key, Slot]]]):
    """The batches of an epoch, each key with the place of its batch in the run."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[Key, Slot]]]:
        for batch, keys in enumerate(self.sampler, self.sampler.first_batch):
            slot = Slot(self.sampler.epoch, batch, self.sampler.part(batch))
            yield [(key, slot) for key in keys]


class _InOrder(Sampler[list[Key]]):
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


class Loader:
    """Loads batches of a data set, in the order of its sampler. Workers change nothing but the speed.

    Worker processes live as long as the loader and compute with one thread each (PyTorch's default for them).

    Args:
        dataset: the images.
        sampler: which of them make a batch.
        num_workers: processes that read ahead; 0: none.
        size_divisor: of the batches' height and width, as the backbone wants it.

    Raises:
        UserError: a negative number of workers.
    """

    def __init__(
        self, dataset: ImageSet, sampler: EpochSampler | _InOrder, num_workers: int, *, size_divisor: int = 1
    ) -> None:
        if num_workers < 0:
            raise UserError(f"dataloader.num_workers: expected at least 0, got {num_workers}")
        self.dataset = dataset
        self.sampler = sampler
        self.num_workers = num_workers
        self.size_divisor = size_divisor
        self._batches = self._start()

    def _start(self) -> DataLoader[Sample | UserError]:
        images, batches = self._source()
        return DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=CollateOrReport(functools.partial(collate, size_divisor=self.size_divisor)),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Its own, since each pass draws a seed from it: the model's dropout must not depend on the passes so far.
            generator=torch.Generator(),
            worker_init_fn=shield,
            pin_memory=torch.cuda.is_available(),
        )

    def _source(self) -> tuple[Reporting, Iterable[list[Any]]]:
        """What gives images, and the keys of each batch."""
        return Reporting(self.dataset), self.sampler

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Raises UserError if an image cannot be loaded, from whichever process."""
        mistake = None
        with shielding():
            batches = iter(self._batches)
        for batch in batches:
            if isinstance(batch, UserError):
                mistake = str(batch)  # raised anew: an exception among this frame's variables would be a cycle
                break
            yield batch
        if mistake is not None:
            # Workers are stopped at once when nothing refers to them; left to the garbage collector, together with
            # the traceback, each takes five seconds to notice.
            del batches
            self._batches = self._start()
            raise UserError(mistake)


class TrainLoader(Loader):
    """Loads shuffled batches of equal length; call `set_epoch` before each epoch.

    Args:
        dataset, num_workers, size_divisor: as for `Loader`.
        sampler: of the epochs.
        variations: of images, beside their augmentation.
    """

    sampler: EpochSampler

    def __init__(
        self,
        dataset: ImageSet,
        sampler: EpochSampler,
        num_workers: int,
        *,
        size_divisor: int = 1,
        variations: Variations | None = None,
    ) -> None:
        self.variations = variations or Variations()
        super().__init__(dataset, sampler, num_workers, size_divisor=size_divisor)

    def _source(self) -> tuple[Reporting, Iterable[list[Any]]]:
        return Varying(self.dataset, self.variations, self.size_divisor), _Slots(self.sampler)

    def first(self, count: int) -> Iterator[Sample]:
        """Yield the first images of the coming epoch, read by this process.

        Raises:
            UserError: an image cannot be loaded.
        """
        images, batches = self._source()
        for key in itertools.islice(itertools.chain.from_iterable(batches), count):
            yield images.sample(key)

    @property
    def batches_per_epoch(self) -> int:
        """Return the batches of a whole epoch, for each process, wherever in it the next one starts."""
        return self.sampler.batches_per_epoch

    @property
    def images_per_batch(self) -> int:
        """Return the images of one batch of every process."""
        return self.sampler.together

    def set_epoch(self, epoch: int, first_batch: int = 0, part: Callable[[int], float] = beginning) -> None:
        """Set which epoch comes next; see `EpochSampler.set_epoch`."""
        self.sampler.set_epoch(epoch, first_batch, part)

    def epochs(self) -> Iterator[Batch]:
        """Yield the batches of one epoch after another, from the first one on, without an end.

        Each is as at another time of the run, so that they cost what its batches do on average.
        """
        for epoch in itertools.count():
            self.set_epoch(epoch, part=functools.partial(self._spread, epoch))
            yield from self

    def _spread(self, epoch: int, batch: int) -> float:
        return (epoch * self.batches_per_epoch + batch) * GOLDEN % 1


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class EvalLoader(Loader):
    """Loads every image exactly once, in order, over all processes together."""

    sampler: _InOrder

    def rounds(self) -> Iterator[Batch | None]:
        """Yield the batches of this process, and None where others have one more."""
        missing = self.sampler.rounds - len(self)
        yield from self
        yield from [None] * missing


def train_loader(
    dataset: ImageSet,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
    size_divisor: int = 1,
    variations: Variations | None = None,
) -> TrainLoader:
    """Build the loader of shuffled, augmented batches; one larger than the data set becomes smaller with a warning.

    Args:
        dataset: the training split.
        batch_size: of one process.
        num_workers: processes that read ahead.
        seed: of the order.
        share: (rank, processes).
        size_divisor: of the batches' height and width.
        variations: of images, beside their augmentation.

    Raises:
        UserError: fewer images than processes.
    """
    _check_batch_size(batch_size)
    processes = share[1]
    if processes > len(dataset):
        raise UserError(
            f"{len(dataset)} training images are too few for {processes} processes; start at most {len(dataset)} "
            "with torchrun --nproc-per-node=N"
        )
    if batch_size * processes > len(dataset):
        fitting = len(dataset) // processes
        logger.warning(
            "dataloader.batch_size is %d%s, but there are only %d training images; each batch has %d",
            *(batch_size, f" in each of {processes} processes" if processes > 1 else "", len(dataset), fitting),
        )
        batch_size = fitting
    sampler = EpochSampler(len(dataset), batch_size, seed, share)
    return TrainLoader(dataset, sampler, num_workers, size_divisor=size_divisor, variations=variations)


def eval_loader(
    dataset: ImageSet, *, batch_size: int, num_workers: int, share: tuple[int, int] = (0, 1), size_divisor: int = 1
) -> EvalLoader:
    """Build the loader of every image exactly once, in order; the last batch may be smaller.

    Arguments as for `train_loader`.
    """
    _check_batch_size(batch_size)
    sampler = _InOrder(len(dataset), batch_size, share)
    return EvalLoader(dataset, sampler, num_workers, size_divisor=size_divisor)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"dataloader.batch_size: expected at least 1, got {batch_size}")
