"""What a data set is to everything behind it, and the images of one split.

A further format is a reader that returns `Annotations`, and a class with what `DataSet` asks for, as `Splits` has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import get_size, pil_to_tensor, resize
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from detr.data.annotations import Annotations
from detr.data.cache import Cache, ImageCache, image_cache
from detr.data.images import read_image
from detr.errors import UserError
from detr.structures import Classes, Sample

Target = dict[str, Any]  # "boxes": BoundingBoxes [n, 4] xyxy in pixels, "labels": Tensor [n], maybe "masks": Mask
Transform = Callable[[Image.Image, Target], tuple[Image.Image, Target]]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Fingerprint:
    """Holds what tells the images of a split from others: counts, and a digest of all annotations."""

    images: int
    objects: int
    digest: str


class ImageSet(Protocol):
    """Offers the images of one split with their objects: what loaders, evaluations and comparisons ask for."""

    classes: Classes

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """`[index]` or, for augmentations that change from epoch to epoch, `[epoch, index]`.

        Raises:
            UserError: the image cannot be read.
        """

    @property
    def files(self) -> list[str]:
        """Return [I] paths of the images."""

    @property
    def image_ids(self) -> list[int]:
        """Return [I] the names of the images in results."""

    @property
    def objects_per_image(self) -> NDArray[np.int64]:
        """Return [I] how many objects an image trains with."""

    @property
    def annotated(self) -> bool:
        """Return False where there are images only: nothing to evaluate against."""

    def ground_truth(self) -> dict[str, Any]:
        """Return a COCO dictionary of all images for evaluators, in the data set's own category ids."""

    def fingerprint(self) -> Fingerprint:
        """Return what tells this split from others, wherever it lies."""

    def subset(self, indices: Sequence[int]) -> Self:
        """Return these images only, in this order."""


class DataSet(Protocol):
    """Offers the splits of a data set: what `dataset=NAME` builds."""

    @property
    def classes(self) -> Classes:
        """Return the classes of the training split."""

    def categories(self, name: Split) -> dict[int, str]:
        """Return category id → name, as the annotations of a split list them."""

    def split(self, name: Split, *, transform: Transform, seed: int = 0, classes: Classes | None = None) -> ImageSet:
        """Return one split, validated.

        Args:
            name: which.
            transform: of image and target, from torch's global generator.
            seed: of the augmentation.
            classes: of a checkpoint; None: those of the training split.

        Raises:
            UserError: whatever is wrong with the files, with file and id.
        """


class AnnotatedImages(Dataset[Sample]):
    """Offers images with boxes and maybe masks: an `ImageSet` for any format that is read into `Annotations`.

    `dataset[index]` or `dataset[epoch, index]` -> `Sample`. The augmentation is a pure function of
    (seed, epoch, index): neither the number of workers nor resuming changes it, and torch's global
    generator is left as it was.

    Training targets: crowds are dropped, boxes clipped to the image, images without objects kept
    (datasets/coco.py of facebookresearch/detr).
    """

    def __init__(
        self,
        annotations: Annotations,
        classes: Classes,
        *,
        transform: Transform,
        seed: int = 0,
        keep_crowds: bool = False,
    ) -> None:
        """Raises UserError if an annotation's category is none of `classes`."""
        self.classes = classes
        self.transform = transform
        self.seed = seed
        self._annotations = annotations
        self._targets = annotations if keep_crowds else annotations.keep(~annotations.crowd)
        self._boxes = self._targets.corners()
        self._labels = _class_indices(annotations, self._targets.category_ids, classes)
        # Masks are drawn at an image's own size. What else a transform asks for, it gets.
        self._longest = None if annotations.segmentations is not None else getattr(transform, "longest", None)
        self._cache: ImageCache | None = None

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Raises UserError if the image file is broken or not of the size that the annotations say."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        file = str(self._annotations.files[index])
        height, width = self._annotations.sizes[index].tolist()
        image, target = self._image(index, file, (height, width)), self._target(index, (height, width))
        if image.size != (width, height):
            target["boxes"] = resize(target["boxes"], [image.height, image.width])
        image, target = self._augment(image, target, epoch, index)
        return Sample(
            image=image.as_subclass(Tensor) if isinstance(image, Tensor) else pil_to_tensor(image),
            labels=target["labels"],
            boxes=_normalized(target["boxes"], get_size(image)),
            image_id=int(self._annotations.image_ids[index]),
            original_size=(height, width),
            file=file,
            masks=_as_bool(target.get("masks")),
        )

    @property
    def annotations(self) -> Annotations:
        """Return all annotations as they were read, crowds included."""
        return self._annotations

    @property
    def files(self) -> list[str]:
        """Return [I] paths of the images (a new list: ask once)."""
        return self._annotations.files.tolist()

    @property
    def image_ids(self) -> list[int]:
        """Return [I] ids of the images (a new list: ask once); of merged files, clashing ids are renumbered."""
        return self._annotations.image_ids.tolist()

    @property
    def objects_per_image(self) -> NDArray[np.int64]:
        """Return [I] how many objects an image trains with: without crowds and boxes without area."""
        return np.diff(self._targets.offsets)

    def class_counts(self) -> NDArray[np.int64]:
        """Return [I, C] how many objects of each class an image trains with."""
        counts = np.zeros((len(self), self.classes.num_classes), dtype=np.int64)
        np.add.at(counts, (self._targets.image_index, self._labels), 1)
        return counts

    @property
    def annotated(self) -> bool:
        """Return False where the JSON lists images only (COCO's test sets): nothing to evaluate against."""
        return self._annotations.annotated

    def fingerprint(self) -> Fingerprint:
        """Return what tells this split from others, wherever it lies."""
        return Fingerprint(len(self), int(self.objects_per_image.sum()), self._annotations.digest())

    def ground_truth(self) -> dict[str, Any]:
        """Return a COCO dictionary for evaluators: boxes as in the file, crowds (regions to ignore) included.

        Boxes without area are left out: no detection could match them. Annotations are numbered anew.
        """
        return self._annotations.to_coco()

    def subset(self, indices: Sequence[int]) -> AnnotatedImages:
        """Return these images only; augmentation counts them anew."""
        chosen = self._annotations.subset(indices)
        return AnnotatedImages(chosen, self.classes, transform=self.transform, seed=self.seed)

    def cached(self, mode: Cache) -> Self:
        """Return these images, which are decoded once from now on; see `image_cache`."""
        self._cache = image_cache(mode, self._annotations.files, self._annotations.sizes, self._longest)
        return self

    @property
    def kept(self) -> bool:
        """Return whether decoded images are kept."""
        return self._cache is not None

    def _image(self, index: int, file: str, size: tuple[int, int]) -> Image.Image:
        kept = None if self._cache is None else self._cache.get(index)
        if kept is not None:
            return kept
        image = read_image(file, size=size, longest=self._longest)
        if self._cache is not None:
            self._cache.put(index, image)
        return image

    def _target(self, index: int, size: tuple[int, int]) -> Target:
        rows = self._targets.objects(index)
        boxes = torch.from_numpy(self._boxes[rows])
        target: Target = {
            "boxes": BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=size),
            "labels": torch.from_numpy(self._labels[rows]),
        }
        if self._targets.segmentations is not None:
            masks = self._targets.segmentations.masks(rows, size)
            target["masks"] = Mask(torch.from_numpy(masks.view(np.uint8)))  # bool cannot be resized
        return target

    def _augment(self, image: Image.Image, target: Target, epoch: int, index: int) -> tuple[Image.Image, Target]:
        return transformed(self.transform, image, target, entropy=[self.seed % 2**64, epoch, index])


def transformed(
    transform: Transform, image: Image.Image, target: Target, *, entropy: Sequence[int]
) -> tuple[Image.Image, Target]:
    """Return image and target after a transform that draws from a generator seeded with `entropy`."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed CUDA, whose state fork_rng does not restore here.
        torch.default_generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        return transform(image, target)


def check_objects(dataset: ImageSet, what: str) -> None:
    """Raise UserError if no image has an object to learn from; `what` says which images these are."""
    if dataset.objects_per_image.any():
        return
    crowds = len(dataset.annotations.boxes) if isinstance(dataset, AnnotatedImages) else 0
    reason = (
        f": all {crowds} annotations are crowds (iscrowd, difficult), which are regions to ignore" if crowds else ""
    )
    raise UserError(f"none of {len(dataset)} {what} has an object to learn from{reason}; `detr check` says more")


def check_capacity(dataset: ImageSet, num_queries: int) -> None:
    """Raise UserError if an image has more objects than the model has queries: some could never be matched."""
    counts = dataset.objects_per_image
    fullest = int(counts.argmax())
    if counts[fullest] > num_queries:
        raise UserError(
            f"{dataset.files[fullest]} has {counts[fullest]} objects, but the model has {num_queries} queries; "
            f"set queries.num_queries to at least {counts[fullest]}, "
            "and for a detector with sigmoids evaluator.detections_per_image, too"
        )


def _class_indices(annotations: Annotations, category_ids: NDArray[np.int64], classes: Classes) -> NDArray[np.int64]:
    """[n] class of each object. Every annotation must be of a known category, crowds too, under its known name."""
    for category_id in np.unique(annotations.category_ids).tolist():
        name = annotations.categories[category_id]
        index = classes.index_of.get(category_id)
        if index is None or classes.names[index] != name:
            position = int(np.flatnonzero(annotations.category_ids == category_id)[0])
            known = "unknown to the model" if index is None else f'"{classes.names[index]}" to the model'
            raise UserError(
                f"annotation {annotations.annotation_ids[position]} of image "
                f"{annotations.files[annotations.image_index[position]]} has category {category_id} "
                f'("{name}"), which is {known}; use the categories of the training data'
            )
    return np.array([classes.index_of[category_id] for category_id in category_ids.tolist()], dtype=np.int64)


def _as_bool(masks: Mask | None) -> Tensor | None:
    """[n, H, W] plain and boolean."""
    return None if masks is None else masks.as_subclass(Tensor).bool()


def _normalized(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """[n, 4] xyxy in pixels of an image of (height, width) -> cxcywh in [0, 1]."""
    height, width = size
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return box_convert(torch.as_tensor(boxes).as_subclass(Tensor), "xyxy", "cxcywh") / scale
