"""How images of a training vary beyond their own augmentation: mixed with others, and resized batch by batch.

Both follow from the seed, the image or the batch, and where in the run its batch is. So neither the number of workers
nor of processes nor resuming changes them, and they can end before the run does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from detr.data.dataset import ImageSet
from detr.data.moment import when
from detr.data.workers import Reporting, checked
from detr.structures import Sample

Key = tuple[int, int]  # (epoch, index)
STRIDE = 32  # pixels of a cell of the coarsest features, as most detectors have them


@dataclass(frozen=True)
class Slot:
    """Holds where in a run a batch is."""

    epoch: int
    batch: int  # of its epoch, the same in all processes
    part: float  # of the run that is over before its step, in [0, 1]


class Mixing(Protocol):
    """Makes a training image of several."""

    def __call__(self, sample: Sample, partner: Callable[[], Sample], part: float, draw: np.random.Generator) -> Sample:
        """Return an image as large as `sample`, or `sample` itself.

        Args:
            sample: augmented.
            partner: gives another image of the data set, drawn anew and augmented.
            part: of the run that is over, in [0, 1].
            draw: that all randomness comes from.
        """


class MultiScale:
    """Resizes all images of a batch by one factor, drawn anew for each batch.

    The longer side becomes a multiple of about 32 pixels: squares of 640 become 480, 512, … or 800 as in RT-DETR.

    Args:
        scales: of an image's sides; one that is listed twice is drawn twice as often.
        stop_at: the part of the run after which images keep their size.

    Raises:
        ValueError: no scale, or one that is not above 0.
    """

    def __init__(self, *, scales: Sequence[float], stop_at: float = 0.85) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales: expected at least one number above 0, got {list(scales)}")
        check_part("stop_at", stop_at)
        self.scales, self.stop_at = scales, stop_at

    def __call__(self, sample: Sample, part: float, draw: np.random.Generator, *, divisor: int = 1) -> Sample:
        """Return the image at the scale of its batch.

        Args:
            sample: of the batch.
            part: of the run that is over, in [0, 1].
            draw: in the same state for each image of a batch.
            divisor: the longer side becomes a multiple of a multiple of it.
        """
        scale = self.scale(part, draw) if part < self.stop_at else 1
        if scale == 1:
            return sample
        step = divisor * max(1, STRIDE // divisor)
        longer = max(sample.image.shape[-2:])
        return resized(sample, max(step, round(scale * longer / step) * step) / longer)

    def scale(self, part: float, draw: np.random.Generator) -> float:
        """Return the factor of a batch's sides; arguments as for a call."""
        return self.scales[int(draw.integers(len(self.scales)))]


class Growing(MultiScale):
    """Begins with small images, which cost little, and lets them grow evenly to their size.

    Args:
        smallest: factor of the first images' sides.
        stop_at: the part of the run after which images keep their size.

    Raises:
        ValueError: a factor that is not above 0.
    """

    def __init__(self, *, smallest: float = 0.6, stop_at: float = 0.7) -> None:
        super().__init__(scales=[smallest], stop_at=stop_at)
        self.smallest = smallest

    def scale(self, part: float, draw: np.random.Generator) -> float:
        return self.smallest + (1 - self.smallest) * part / self.stop_at


@dataclass(frozen=True)
class Variations:
    """Holds how the images of a training vary.

    Args:
        mixing: of several images; None: none.
        multi_scale: of batches; None: images keep their size.
        seed: of both.
        max_objects: an image that would have more of them stays unmixed.
    """

    mixing: Mixing | None = None
    multi_scale: MultiScale | None = None
    seed: int = 0
    max_objects: int | None = None


class Varying(Reporting):
    """Returns images as a training sees them, or a UserError, by their key and the slot of their batch.

    Args:
        images: of the training.
        variations: of them.
        divisor: of the sides of batches.
    """

    def __init__(self, images: ImageSet, variations: Variations, divisor: int = 1) -> None:
        super().__init__(images)
        self.variations, self.divisor = variations, divisor

    def sample(self, key: tuple[Key, Slot]) -> Sample:
        own, slot = key
        with when(slot.part):
            sample, multi_scale = self._mixed(own, slot), self.variations.multi_scale
        if multi_scale is None:
            return sample
        draw = self._generator((slot.epoch, slot.batch), 1)
        return multi_scale(sample, slot.part, draw, divisor=self.divisor)

    def _mixed(self, key: Key, slot: Slot) -> Sample:
        """An image alone, or with others."""
        read, mixing, limit = super().sample, self.variations.mixing, self.variations.max_objects
        sample = read(key)
        if mixing is None:
            return sample
        draw = self._generator(key, 0)
        mixed = mixing(sample, lambda: read((key[0], int(draw.integers(len(self.images))))), slot.part, draw)
        mixed = checked(mixed, self.images.classes, "augmentation.mixing", type(mixing))
        return sample if limit is not None and len(mixed.labels) > limit else mixed

    def _generator(self, numbers: Key, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.variations.seed % 2**64, *numbers, purpose])


def resized(sample: Sample, scale: float) -> Sample:
    """Return an image and its masks with both sides `scale` times as long; boxes are relative and stay."""
    size = [max(1, round(side * scale)) for side in sample.image.shape[-2:]]
    masks = sample.masks
    if masks is not None:
        masks = F.resize(masks, size, interpolation=InterpolationMode.NEAREST)
    return replace(sample, image=F.resize(sample.image, size, antialias=True), masks=masks)


def check_part(name: str, value: float) -> None:
    """Raise ValueError if a probability, or a part of the run, is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
