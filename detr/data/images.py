"""Image files of every kind read as 8-bit RGB, on purpose rather than by accident."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detr.errors import UserError, in_words

EXIF_ORIENTATION = 0x0112
BACKGROUND = (255, 255, 255)  # under transparent pixels: the page on which annotation tools show them
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it (EXIF 2.32, tag 274)
_EXCHANGING = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))  # height and width
# Pillow's own limit is for servers, which open what strangers send. A data set is its user's, who wants it read.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")  # of every file anew, without its name
LARGE = 50_000_000  # pixels, from which on it is asked whether there is memory for them
BYTES = 8  # of memory a pixel: Pillow holds RGB in 4, and as stored and converted at once
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str, size: tuple[int, int] | None = None, longest: int | None = None) -> Image.Image:
    """Read an image file as RGB, of a large JPEG a half, a quarter or an eighth where that is enough.

    - Orientation: the EXIF tag is applied, so that the image is upright. If `size`, the (height, width) that
      the annotations were made for, fits only the pixels as stored, they are left as stored: the annotation
      tool did not turn the image, and the boxes are relative to what it showed.
    - Greyscale, palette and CMYK are converted. 16-bit greyscale is scaled by its full range (65535 -> 255),
      not clipped.
    - Transparent pixels are composited on white, as annotation tools show them; the colours that lie
      below full transparency are arbitrary.
    - Of an animation, the first frame.
    - Size: a JPEG whose longer side is at least twice `longest` is reduced while it is decoded, which takes a
      fraction of the time, but not below `longest`.

    Raises:
        UserError: the file is missing, truncated, no image, or neither orientation has the size `size`.
    """
    with opened(path) as stored:
        factor = reduction(max(stored.size), longest) if stored.format == "JPEG" else 1
        if factor == 1:
            check_memory(stored, path)
            stored.load()
            return upright_rgb(stored, path, size)
        turn = _turn(stored, size, path)  # while its size is that of the file
        stored.draft(None, (stored.width // factor or 1, stored.height // factor or 1))
        check_memory(stored, path)
        stored.load()
        return _turned(_to_rgb(stored, path), turn)


def reduction(side: int, longest: int | None) -> int:
    """Return by how much a JPEG's longer side of so many pixels is divided while it is decoded, for `read_image`."""
    return next((factor for factor in (8, 4, 2) if longest and side >= factor * longest), 1)


def upright_rgb(stored: Image.Image, name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Return an image that is open already as `read_image` gives it; `name` is for messages.

    Raises:
        UserError: samples without a defined range, or neither orientation has the size `size`.
    """
    turn = _turn(stored, size, name)
    return _turned(_to_rgb(stored, name), turn)


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def image_size(path: str) -> tuple[int, int]:
    """Return (height, width) of the image that `read_image` gives, from the head of its file.

    Raises:
        UserError: the file is missing or no image.
    """
    with opened(path) as stored:
        exchanged = _UPRIGHT.get(_orientation(stored)) in _EXCHANGING
        return (stored.width, stored.height) if exchanged else (stored.height, stored.width)


def check_memory(image: Image.Image, path: str) -> None:
    """Raise UserError if an image that is not decoded yet is too large for the memory that is free."""
    pixels = image.width * image.height
    free = free_memory() if pixels > LARGE else None
    if free is not None and pixels * BYTES > free:
        raise UserError(
            f"{path}: the image is {image.width} × {image.height} ({pixels / 1e6:,.0f} megapixels), which takes "
            f"{pixels * BYTES / 1e9:.1f} GB to read, and {free / 1e9:.1f} GB are free; scale it down or cut it into "
            "tiles, or use fewer dataloader.num_workers"
        )


def free_memory() -> int | None:
    """Return the bytes of memory that may still be used; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """Open an image file, of which only the head is read.

    Raises:
        UserError: whatever is wrong with it, also while it is read.
    """
    try:
        with Image.open(path) as stored:
            yield stored
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such image file; check dataset.*.images and the file_name in the annotations"
        ) from None
    except MemoryError:
        raise UserError(f"{path}: there is not enough memory to read this image; scale it down or cut it") from None
    except BROKEN as error:
        reason = in_words(error)
        raise UserError(f"{path}: not a readable image ({reason}); replace the file or remove its entry") from None


def _turn(image: Image.Image, size: tuple[int, int] | None, path: str) -> Image.Transpose | None:
    """What makes the image upright, or None if it is to stay as stored."""
    turn = _UPRIGHT.get(_orientation(image))
    raw = (image.height, image.width)
    upright = raw[::-1] if turn in _EXCHANGING else raw
    if size is not None and size not in (raw, upright):
        raise UserError(
            f"{path}: the image is {upright[1]} × {upright[0]} (width × height), but the annotations say "
            f"{size[1]} × {size[0]}; its boxes would be wrong: correct them or restore the image"
        )
    return turn if size is None or size == upright else None


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation, which should be 1 … 8; 1 (upright) if there is none or the EXIF block is broken."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, path)
    if image.mode == "F":
        raise UserError(f"{path}: a floating-point image has no defined range; convert it to 8 or 16 bit")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, path: str) -> Image.Image:
    """16-bit samples to 8 bit. Pillow holds them in mode I;16 or, for some files, in the 32-bit mode I."""
    samples = np.asarray(image).astype(np.int64)
    if samples.min(initial=0) < 0 or samples.max(initial=0) > 65535:
        raise UserError(f"{path}: 32-bit samples (up to {samples.max()}) have no defined range; convert to 8 or 16 bit")
    scaled = ((samples * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")
