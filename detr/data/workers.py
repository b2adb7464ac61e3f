"""Worker processes of data loaders: who may end them, and how their mistakes arrive as one line."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import Dataset

from detr.data.dataset import ImageSet
from detr.environment import return_freed_memory
from detr.errors import UserError, described, own_file, shown
from detr.structures import Batch, Classes, Sample

SLACK = 1e-3  # by which rounding may take a box out of its image
CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS


class Reporting(Dataset[Sample | UserError]):
    """Returns a UserError instead of raising it.

    DataLoader raises an exception of a worker anew with the worker's traceback as its message; the user would
    no longer get one line.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, key: Any) -> Sample | UserError:
        try:
            return self.sample(key)
        except UserError as error:
            return UserError(*error.args)

    def sample(self, key: Any) -> Sample:
        """Raises UserError if the image cannot be read, or is not what an image of a data set must be."""
        maker = type(self.images)
        source = "dataset" if own_file(maker) else "augmentation"  # ours are right until they are changed
        return checked(self.images[key], self.images.classes, source, maker)


def checked(sample: Any, classes: Classes, source: str, maker: type) -> Sample:
    """Return a sample.

    Args:
        sample: what may be one.
        classes: of its labels.
        source: the group of what made it, for messages.
        maker: the class that made it.

    Raises:
        UserError: it is none, or has what would be misread or fail far from here.
    """
    fault = _fault(sample, classes.num_classes)
    if fault is not None:
        raise UserError(f"{source}: {described(maker)} gives {fault}")
    return sample


def _fault(sample: Any, num_classes: int) -> str | None:
    """What is wrong with a sample, of what would be misread or fail far from here; None: nothing."""
    if not isinstance(sample, Sample):
        return f"{shown(sample)}, expected a detr.structures.Sample"
    image, labels, boxes = sample.image, sample.labels, sample.boxes
    if image.dim() != 3 or len(image) != 3:
        return f"an image {list(image.shape)} of {sample.file}, expected [3, H, W]"
    if boxes.shape != (len(labels), 4):
        return f"boxes {list(boxes.shape)} and labels {list(labels.shape)} of {sample.file}, expected [n, 4] and [n]"
    if len(boxes) and not (boxes.min() >= -SLACK and boxes.max() <= 1 + SLACK):
        return f"boxes from {boxes.min():g} to {boxes.max():g} of {sample.file}, expected cxcywh in [0, 1]"
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        return f"labels from {labels.min()} to {labels.max()} of {sample.file}, expected 0 to {num_classes - 1}"
    return None


class CollateOrReport:
    """Makes a batch of samples, or hands on the first mistake among them."""

    def __init__(self, collate: Callable[[Sequence[Sample]], Batch]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Sample | UserError]) -> Batch | UserError:
        loaded = [sample for sample in samples if isinstance(sample, Sample)]
        if len(loaded) == len(samples):
            return self.collate(loaded)
        return next(sample for sample in samples if isinstance(sample, UserError))


@contextmanager
def shielding() -> Iterator[None]:
    """Start worker processes with SIGTERM blocked, for `shield` to take up.

    Were it blocked by the worker itself, threads that libraries start in every forked process (OpenBLAS does) would
    let it through. And they share the memory that they are forked with as long as nobody writes to it: what is free is
    given back before, or each would keep what this process fills anew, and their garbage collection, which writes to
    what it looks at, leaves it alone.
    """
    return_freed_memory()
    gc.freeze()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if CAN_WAIT else set()
    try:
        yield
    finally:
        gc.unfreeze()
        if CAN_WAIT:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield(worker: int) -> None:
    """Leave it to the parent to end this worker process of a data loader, which schedulers and terminals signal, too.

    The parent does so by SIGTERM, so that it counts who sent one. The worker has to be started in `shielding`.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if CAN_WAIT:
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
