"""Augmentations of (PIL image, target) pairs, built on torchvision's transforms v2.

The target is {"boxes": BoundingBoxes [n, 4] xyxy in pixels, "labels": Tensor [n]}; any further entry with one
row an object follows (a `tv_tensors.Mask` [n, H, W] also in its geometry). The image stays PIL, so that resizing
is the official pipeline's to the bit, but for trainings that ask for less and get it in a third of the time (`Bytes`).
All randomness comes from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detr.data.moment import part_of_the_run
from detr.errors import UserError

Target = dict[str, Any]
Size = tuple[int, int]  # (height, width)

GREY = (124, 116, 104)  # ImageNet's mean colour


def detr_train(scales: Sequence[int], max_size: int, until: float = 1.0, exact: bool = True) -> v2.Transform:
    """Build the paper's training pipeline: flip; then resize, or resize, crop and resize (appendix A.4;
    `make_coco_transforms` in datasets/coco.py of facebookresearch/detr).

    Args:
        scales: lengths of the shorter side in pixels, one of which is drawn.
        max_size: the longer side's limit in pixels.
        until: the part of the run after which nothing is cropped.
        exact: whether pixels are the official code's to the bit; else torch resizes bytes, in a fraction of the time,
            and a few of ten thousand values are a level of 255 off.
    """
    return _flipped_and_cropped(ResizeShortSide(scales, max_size), until, exact)


def light_train(max_size: int, until: float = 1.0) -> v2.Transform:
    """Build a pipeline for small images and little time: flip, zoom and colour.

    The output has the size that `ShrinkLongSide(max_size)` gives, so that equal images make batches without padding.

    Args:
        max_size: the longer side's limit in pixels.
        until: the part of the run after which images are only flipped and scaled down.
    """
    zoom = RandomZoom(max_size)
    steps = [v2.RandomHorizontalFlip(0.5), Until(until, [zoom, RandomPhotometric()], [ShrinkLongSide(max_size)])]
    return _of_reduced(steps, math.ceil(max_size * zoom.scale[1]))


def flip_train(max_size: int) -> v2.Transform:
    """Build nothing but the flip, for trainings of a few epochs: other changes cost time and are not seen twice."""
    return _of_reduced([v2.RandomHorizontalFlip(0.5), ShrinkLongSide(max_size)], max_size)


def _of_reduced(steps: list[v2.Transform], longest: int) -> v2.Transform:
    """Transforms for which large images need not be decoded whole: `read_image` is asked for that longer side."""
    transform = v2.Compose(steps)
    transform.longest = longest
    return transform


def square_train(sizes: Sequence[int], antialias: bool = True, until: float = 1.0, exact: bool = True) -> v2.Transform:
    """Build the paper's pipeline with squares in place of sizes that keep an image's shape (LW-DETR, RT-DETR).

    Args:
        sizes: sides in pixels, one of which is drawn.
        antialias: as `ResizeSquare` has it.
        until: the part of the run after which nothing is cropped.
        exact: whether Pillow resizes; else as `detr_train` has it.
    """
    return _flipped_and_cropped(ResizeSquare(sizes, antialias), until, exact)


def _flipped_and_cropped(resize: v2.Transform, until: float, exact: bool) -> v2.Transform:
    """The paper's flip and, half the time, crop around a resize."""
    crop = v2.Compose([ResizeShortSide([400, 500, 600], None), RandomSizeCrop(384, 600), resize])
    steps = [v2.RandomHorizontalFlip(0.5), Until(until, [v2.RandomChoice([resize, crop])], [resize])]
    return v2.Compose(steps if exact else [Bytes(), *steps])


def rt_detr_train(size: int, until: float = 1.0) -> v2.Transform:
    """Build RT-DETR's pipeline: colours, zooming out and crops as SSD has them (Liu et al. 2016, section 2.2), squares.

    Args:
        size: side in pixels.
        until: the part of the run after which images are only flipped and resized.
    """
    crop = v2.RandomApply([RandomOverlapCrop()], p=0.8)
    strong = [v2.RandomPhotometricDistort(p=0.5), v2.RandomZoomOut(fill=0), crop]
    return v2.Compose([Until(until, strong), v2.RandomHorizontalFlip(0.5), ResizeSquare([size])])


class Until(v2.Transform):
    """Applies some transforms until a part of the run is over, and others after it.

    Args:
        until: that part, in [0, 1]; 1: to the end.
        first: until then, one after the other.
        later: after it.

    Raises:
        ValueError: `until` is out of its range.
    """

    def __init__(self, until: float, first: Sequence[v2.Transform], later: Sequence[v2.Transform] = ()) -> None:
        super().__init__()
        if not 0 <= until <= 1:
            raise ValueError(f"until: expected a number from 0 to 1, got {until}")
        self.until, self.first = until, v2.Compose(first)
        self.later = v2.Compose(later) if later else v2.Identity()

    def forward(self, *inputs: Any) -> Any:
        over = self.until < 1 and part_of_the_run() >= self.until
        return self.later(*inputs) if over else self.first(*inputs)


class Bytes(v2.Transform):
    """Turns a PIL image into a tensor [3, H, W] uint8, which torch resizes several times as fast as Pillow.

    Where a resize's result is not Pillow's, it is one level of 255 away: in one or two of ten thousand values of
    photographs, in one of a hundred of noise. Processors without AVX2, for which torch does it otherwise, leave the
    image to Pillow.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, Image.Image) or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            return inpt
        return tv_tensors.Image(torch.from_numpy(np.array(inpt)).permute(2, 0, 1))


class _Resizing(v2.Transform):
    """A transform whose parameters are the size that comes out."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Image):  # the kernel wants its pixels side by side, which a crop's are not
            inpt = tv_tensors.wrap(inpt.permute(1, 2, 0).contiguous().permute(2, 0, 1), like=inpt)
        return F.resize(inpt, size=list(params["size"]))


class ResizeSquare(_Resizing):
    """Resizes to a square of a side drawn from `sizes`, whatever the image's shape.

    One size makes it deterministic.

    Args:
        sizes: in pixels.
        antialias: a pixel of a smaller image is of all pixels that it covers; else, as OpenCV has it, of four of them.
    """

    def __init__(self, sizes: Sequence[int], antialias: bool = True) -> None:
        super().__init__()
        _check_sizes(sizes)
        self.sizes, self.antialias = list(sizes), antialias

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        side = self.sizes[_below(len(self.sizes))]
        return {"size": (side, side)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if self.antialias or not isinstance(inpt, Image.Image | tv_tensors.Image):
            return super().transform(inpt, params)
        pixels = F.pil_to_tensor(inpt) if isinstance(inpt, Image.Image) else inpt.contiguous()
        resized = F.resize(pixels, size=list(params["size"]), antialias=False)
        return F.to_pil_image(resized) if isinstance(inpt, Image.Image) else resized


class ResizeShortSide(_Resizing):
    """Resizes to a shorter side drawn from `sizes`, unless the longer side would exceed `max_size`.

    One size makes it deterministic.
    """

    def __init__(self, sizes: Sequence[int], max_size: int | None) -> None:
        super().__init__()
        _check_sizes(sizes)
        _check_max_size(max_size)
        self.sizes = list(sizes)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = self.sizes[_below(len(self.sizes))]
        return {"size": short_side_size(_size(flat_inputs), size, self.max_size)}


class ShrinkLongSide(_Resizing):
    """Scales images down whose longer side exceeds `max_size`; leaves smaller ones as they are."""

    def __init__(self, max_size: int) -> None:
        super().__init__()
        _check_max_size(max_size)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"size": long_side_size(_size(flat_inputs), self.max_size)}


class _DroppingTransform(v2.Transform):
    """A transform that may push objects out of the image: they go, with every entry of theirs."""

    def forward(self, image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
        image, target = super().forward(image, target)
        return image, drop_empty_boxes(target)


class RandomSizeCrop(_DroppingTransform):
    """Crops to a height and width drawn from `min_size` … `max_size`; a side shorter than `min_size` stays whole."""

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        self.min_size = min_size
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _size(flat_inputs)
        crop_width = self._side(width)
        crop_height = self._side(height)
        return {
            "top": _below(height - crop_height + 1),
            "left": _below(width - crop_width + 1),
            "height": crop_height,
            "width": crop_width,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)

    def _side(self, length: int) -> int:
        low, high = min(self.min_size, length), min(self.max_size, length)
        return low + _below(high - low + 1)


class RandomOverlapCrop(v2.RandomIoUCrop):
    """Crops so that some object stays in sight by at least a drawn part; objects whose centre is cut off go."""

    def forward(self, image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
        if not len(target["boxes"]):
            return image, target  # there is nothing that a crop has to keep in sight
        image, target = super().forward(image, target)
        return image, drop_empty_boxes(target)


class RandomZoom(_DroppingTransform):
    """Zooms in on a random window or out onto a grey canvas; the output size is `ShrinkLongSide`'s.

    One resize does the zoom and the shrinking.

    Args:
        max_size: the longer side's limit in pixels.
        p: how often to zoom at all.
        scale: factors of the objects' size, drawn log-uniformly.
    """

    def __init__(self, max_size: int, p: float = 0.7, scale: tuple[float, float] = (0.7, 1.5)) -> None:
        super().__init__()
        _check_max_size(max_size)
        self.max_size = max_size
        self.p = p
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = _size(flat_inputs)
        out = long_side_size(size, self.max_size)
        factor = self._factor()
        if factor >= 1:
            window = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
            return {"window": (*_place(window, size), *window), "size": out, "padding": None}
        inner = (max(1, round(out[0] * factor)), max(1, round(out[1] * factor)))
        top, left = _place(inner, out)
        padding = [left, top, out[1] - inner[1] - left, out[0] - inner[0] - top]
        return {"window": (0, 0, *size), "size": inner, "padding": padding}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        inpt = F.resized_crop(inpt, *params["window"], size=list(params["size"]))
        if params["padding"] is None:
            return inpt
        fill = list(GREY) if isinstance(inpt, Image.Image) else 0
        return F.pad(inpt, padding=params["padding"], fill=fill)

    def _factor(self) -> float:
        if torch.rand(()).item() >= self.p:
            return 1.0
        low, high = self.scale
        return low * (high / low) ** torch.rand(()).item()


class RandomPhotometric(v2.Transform):
    """Changes brightness, contrast and saturation by factors of 1 ± `strength`, each half of the time."""

    def __init__(self, p: float = 0.5, strength: float = 0.3) -> None:
        super().__init__()
        self.p = p
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draws = torch.rand(4).tolist()
        return {"apply": draws[0] < self.p, "factors": [1 + self.strength * (2 * draw - 1) for draw in draws[1:]]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not params["apply"] or not isinstance(inpt, Image.Image):
            return inpt
        brightness, contrast, saturation = params["factors"]
        inpt = F.adjust_brightness(inpt, brightness)
        inpt = F.adjust_contrast(inpt, contrast)
        return F.adjust_saturation(inpt, saturation)


def short_side_size(size: Size, short: int, max_size: int | None) -> Size:
    """Return (height, width) with the shorter side `short`; `get_size_with_aspect_ratio` in datasets/transforms.py.

    Its rounding is kept: the limited shorter side is rounded, the longer side cut off.
    """
    height, width = size
    low, high = min(size), max(size)
    if max_size is not None and high / low * short > max_size:
        short = max(1, round(max_size * low / high))
    if low == short:
        return size
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def long_side_size(size: Size, max_size: int) -> Size:
    """Return (height, width) with the longer side at most `max_size`."""
    high = max(size)
    if high <= max_size:
        return size
    return max(1, round(size[0] * max_size / high)), max(1, round(size[1] * max_size / high))


def drop_empty_boxes(target: Target) -> Target:
    """Drop the objects whose box has no area; every entry loses their rows."""
    boxes = target["boxes"]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if keep.all():
        return target
    return {name: tv_tensors.wrap(entry[keep], like=entry) for name, entry in target.items()}


def _size(flat_inputs: list[Any]) -> Size:
    """(height, width) of the image among a transform's inputs."""
    image = next(inpt for inpt in flat_inputs if isinstance(inpt, Image.Image | tv_tensors.Image))
    height, width = F.get_size(image)
    return height, width


def _below(limit: int) -> int:
    """A random integer in 0 … limit - 1."""
    return int(torch.randint(limit, ()).item())


def _place(inner: Size, outer: Size) -> tuple[int, int]:
    """A random (top, left) at which `inner` lies within `outer`."""
    return _below(outer[0] - inner[0] + 1), _below(outer[1] - inner[1] + 1)


def _check_sizes(sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1:
        raise UserError(f"augmentation: sizes: expected at least one positive number of pixels, got {list(sizes)}")


def _check_max_size(max_size: int | None) -> None:
    if max_size is not None and max_size < 1:
        raise UserError(f"augmentation: max_size: expected a positive number of pixels, got {max_size}")
