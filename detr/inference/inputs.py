"""What a detector takes for an image, read as the data sets read theirs; anything else is refused, never guessed at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from detr.data.images import read_image, upright_rgb
from detr.errors import UserError, shown

EXPECTED = "a path, a Pillow image, a numpy array [height, width, 3] or a tensor [3, height, width]"


def as_image(given: Any) -> Image.Image:
    """Return an image as 8-bit RGB, upright (EXIF), in its own size.

    Files and Pillow images may be of any kind that `detr.data.images.read_image` reads: greyscale, 16 bit, with alpha.

    Args:
        given: a path; a Pillow image; a numpy array [height, width, 3] of uint8, RGB (OpenCV's are BGR:
            `array[..., ::-1]`); a tensor [3, height, width] of uint8 or of floats from 0 to 1, RGB.

    Raises:
        UserError: it is none of them, or cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if not Path(path).is_file():
            raise UserError(f"{path}: no such image file")
        return read_image(path)
    if isinstance(given, Image.Image):
        return upright_rgb(given, "the image")
    if isinstance(given, np.ndarray):
        return _from_array(given)
    if isinstance(given, Tensor):
        return _from_tensor(given)
    raise UserError(f"expected {EXPECTED}, got {shown(given)}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(
            f"expected a numpy array [height, width, 3] of uint8 in RGB, got {list(array.shape)} of {array.dtype}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _from_tensor(tensor: Tensor) -> Image.Image:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.dim() != 3 or len(tensor) != 3 or not tensor.numel():
        raise UserError(
            f"expected a tensor [3, height, width] in RGB, got {list(tensor.shape)}; give several as a list"
        )
    pixels = tensor.detach().cpu()
    if tensor.is_floating_point():
        pixels = pixels.float()
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(
                f"expected a tensor of floats from 0 to 1, got {pixels.min():g} to {pixels.max():g}; give pixels as "
                "they are, the detector normalises them itself"
            )
        pixels = (pixels * 255).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise UserError(f"expected a tensor of uint8, or of floats from 0 to 1, got {kind}")
    return to_pil_image(pixels)
