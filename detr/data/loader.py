"""Batches: padding, and the processes that load them."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from detr.data.dataset import AnnotatedImages, ImageSet
from detr.data.order import EpochSampler, InOrder, Slots, beginning
from detr.data.variations import Variations, Varying
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
        self, dataset: ImageSet, sampler: EpochSampler | InOrder, num_workers: int, *, size_divisor: int = 1
    ) -> None:
        if num_workers < 0:
            raise UserError(f"dataloader.num_workers: expected at least 0, got {num_workers}")
        self.dataset = dataset
        self.sampler = sampler
        self.num_workers = num_workers
        self.size_divisor = size_divisor
        self._batches = self._start()

    def _start(self) -> DataLoader[Sample | UserError]:
        self._forked = not self.num_workers  # whether there are all processes that there will be
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
        with nullcontext() if self._forked else shielding():
            batches = iter(self._batches)
        self._forked = True
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
        return Varying(self.dataset, self.variations, self.size_divisor), Slots(self.sampler)

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

        Each two are as at another time of the run, so that they cost what its batches do on average.
        """
        for epoch in itertools.count():
            self.set_epoch(epoch, part=functools.partial(self._spread, epoch))
            yield from self

    def _spread(self, epoch: int, batch: int) -> float:
        return (epoch * self.batches_per_epoch + batch) // 2 * GOLDEN % 1


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

    sampler: InOrder

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
    group_by_shape: bool = False,
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
        group_by_shape: make batches of images of about the same shape.

    Raises:
        UserError: fewer images than processes, or images whose shapes nobody knows are to be grouped by them.
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
    if group_by_shape and not isinstance(dataset, AnnotatedImages):
        raise UserError(
            "dataloader.group_by_shape: the shapes of a data set of its own kind are unknown; set it to false"
        )
    sizes = dataset.annotations.sizes if group_by_shape and isinstance(dataset, AnnotatedImages) else None
    sampler = EpochSampler(len(dataset), batch_size, seed, share, sizes=sizes)
    return TrainLoader(dataset, sampler, num_workers, size_divisor=size_divisor, variations=variations)


def eval_loader(
    dataset: ImageSet, *, batch_size: int, num_workers: int, share: tuple[int, int] = (0, 1), size_divisor: int = 1
) -> EvalLoader:
    """Build the loader of every image exactly once, in order; the last batch may be smaller.

    Arguments as for `train_loader`.
    """
    _check_batch_size(batch_size)
    sampler = InOrder(len(dataset), batch_size, share)
    return EvalLoader(dataset, sampler, num_workers, size_divisor=size_divisor)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"dataloader.batch_size: expected at least 1, got {batch_size}")
