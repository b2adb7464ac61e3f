"""The splits of one data set, in whatever format: what of a `DataSet` does not depend on how files are read."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detr.data.annotations import Annotations
from detr.data.cache import Cache
from detr.data.dataset import AnnotatedImages, Split, Transform
from detr.data.holdout import choose
from detr.errors import UserError
from detr.structures import Classes

log = logging.getLogger(__name__)

Holdout = float | list[str] | None  # a share of the training images, or which of them


class Splits(ABC):
    """Builds the splits of one data set.

    Args:
        root: the data set's folder; the paths of the splits usually start with it.
        masks: whether samples have instance masks.
        holdout: the share of the training images that is kept for validation, in the place of the validation split; or
            the names of these images, as `held_out` lists them.
        holdout_seed: of the choice.
        cache: whether decoded images are kept in memory that all workers share; "auto": where they take little, and
            those that are evaluated only if those of the training are kept, beside which they are soon read.

    Attributes:
        held_out: the names of the images that are kept for validation, once a split was read; None: there are none.

    Raises:
        UserError: `holdout` is no share.
    """

    def __init__(
        self, *, root: str, masks: bool = False, holdout: Holdout = None, holdout_seed: int = 0, cache: Cache = False
    ) -> None:
        if isinstance(holdout, float | int) and not 0 < holdout < 1:
            raise UserError(f"dataset.holdout: expected a share of the training images between 0 and 1, got {holdout}")
        self.root = root
        self.masks = masks
        self.holdout = holdout
        self.holdout_seed = holdout_seed
        self.cache = cache
        self.held_out: list[str] | None = None
        self._classes: Classes | None = None
        self._trains_unkept = False

    @abstractmethod
    def read(self, name: Split, *, everything: bool = False) -> Annotations:
        """Return a split as its files have it, boxes without area and what no detector learns from included.

        Args:
            name: which; `holdout` does not count.
            everything: also the masks that there are, and what else the files say of each object, as `extras`.

        Raises:
            UserError: whatever is wrong with the files, with file and id or line.
        """

    @abstractmethod
    def table(self, name: Split) -> dict[int, str]:
        """Return category id → name, as the files of a split list them; `holdout` does not count."""

    def has(self, name: Split) -> bool:
        """Return whether there is a split of this name; that of training is taken for granted."""
        return name == "train" or (name == "val" and self.holdout is not None) or self.there(name)

    @abstractmethod
    def there(self, name: Split) -> bool:
        """Return whether the files of a split are there."""

    def part(self, name: Split) -> Annotations:
        """Return everything that is known of a split, with what `holdout` makes of it. Errors as for `read`."""
        if self.holdout is None or name == "test":
            return self.read(name, everything=True)
        whole = self.read("train", everything=True)
        classes = self.learned_classes("train", whole.categories)
        held = self._held(AnnotatedImages(whole.without_empty_boxes(), classes, transform=lambda *each: each))
        return whole.subset(np.flatnonzero(held if name == "val" else ~held).tolist())

    def unread(self, name: Split) -> Counter[str]:
        """Return what the files of a split say that even `read(everything=True)` leaves out, and how often."""
        return Counter()

    def classes_from(self, categories: dict[int, str]) -> Classes:
        """Return the classes that training categories become."""
        return Classes.contiguous(categories)

    @property
    def classes(self) -> Classes:
        """Return the classes of the training split, read when first asked for."""
        if self._classes is None:
            self._classes = self.classes_from(self.table("train"))
        return self._classes

    def categories(self, name: Split) -> dict[int, str]:
        """Return category id → name, as the annotations of a split list them."""
        return self.table("train" if name == "val" and self.holdout is not None else name)

    def split(
        self, name: Split, *, transform: Transform, seed: int = 0, classes: Classes | None = None
    ) -> AnnotatedImages:
        """Return one split, validated. With `classes` (of a checkpoint), only its own files are read.

        Raises:
            UserError: whatever is wrong with the files, with file and id or line.
        """
        own = self.holdout is None or name == "test"
        images = self.images(name if own else "train", transform=transform, seed=seed, classes=classes)
        if not own:
            held = self._held(images)
            images = images.subset(np.flatnonzero(held if name == "val" else ~held).tolist())
        images = images.cached(False if self.cache == "auto" and self._trains_unkept else self.cache)
        self._trains_unkept |= name == "train" and not images.kept
        return images

    def images(self, name: Split, *, transform: Transform, seed: int, classes: Classes | None) -> AnnotatedImages:
        """Return the images of a split; `holdout` does not count. Arguments and errors as for `split`."""
        annotations = self.read(name).without_empty_boxes()
        if classes is None:
            classes = self.learned_classes(name, annotations.categories)
        return AnnotatedImages(annotations, classes, transform=transform, seed=seed)

    def learned_classes(self, name: Split, categories: dict[int, str]) -> Classes:
        """Return the classes of the training split, whose categories were just read if it is `name`."""
        if name == "train" and self._classes is None:
            self._classes = self.classes_from(categories)
        return self.classes

    def _held(self, whole: AnnotatedImages) -> np.ndarray:
        """[I] which of the training images are kept for validation."""
        names = [name_of(file, self.root) for file in whole.files]
        if isinstance(self.holdout, list):
            held = np.isin(names, self.holdout)
            missing = len(self.holdout) - int(held.sum())
            if missing == len(self.holdout):
                raise UserError(
                    f"none of the {missing} images that were kept for validation, such as {self.holdout[0]}, is among "
                    f"the training images in {self.root}"
                )
            if missing:
                log.warning("%d of %d images that were kept for validation are gone", missing, len(self.holdout))
        else:
            assert self.holdout is not None
            held = choose(whole.class_counts(), self.holdout, self.holdout_seed)
        self.held_out = [name for name, kept in zip(names, held, strict=True) if kept]
        return held


def name_of(file: str, root: str) -> str:
    """Return how an image is called wherever the data set lies: relative to its root, if it lies there."""
    path, folder = Path(os.path.abspath(file)), Path(os.path.abspath(root))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def missing_split(name: Split, given: Sequence[str]) -> UserError:
    """Return the error that a split which is asked for is not there, and what to do about it."""
    if name != "val":
        return UserError(f"dataset.{name} is not set; this data set has the splits {', '.join(given)}")
    return UserError(
        "there is no validation split: dataset.holdout=0.2 keeps a fifth of the training images for it, and "
        "dataset.val=null trains without one"
    )
