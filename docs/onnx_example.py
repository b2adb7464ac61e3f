"""Find objects with an exported file: numpy, pillow and onnxruntime are enough.

python docs/onnx_example.py best.onnx photo.jpg another.jpg
python docs/onnx_example.py best.onnx photos/*.jpg --threshold 0.3 --json found.json   # COCO's results format

The file is one of `detr export … format=onnx outputs=detections`. How images are prepared, and what the classes are
called, stands in its metadata. Copy this file to wherever you need it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps


class Detector:
    """Finds objects in images."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        stored = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {key: json.loads(value) for key, value in stored.items()}
        self.names = self.metadata["classes"]["names"]
        self.category_ids = self.metadata["classes"]["category_ids"]
        self.outputs = [each.name for each in self.session.get_outputs()]
        if "scores" not in self.outputs:
            raise SystemExit(f"{path} gives logits; export it with outputs=detections")

    def __call__(self, images: Sequence[Image.Image]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield scores [n], labels [n], boxes [n, 4] (left, top, right, bottom in pixels) and maybe masks."""
        resized = [np.asarray(image.resize(self.size_of(image), Image.Resampling.BILINEAR)) for image in images]
        divisor = self.metadata["preprocessing"]["pad"]["size_divisor"]
        height, width = (
            -(-max(sides) // divisor) * divisor for sides in zip(*(each.shape[:2] for each in resized), strict=True)
        )
        pixels = np.zeros((len(images), 3, height, width), np.uint8)
        padding = np.ones((len(images), height, width), bool)
        for index, each in enumerate(resized):
            pixels[index, :, : each.shape[0], : each.shape[1]] = each.transpose(2, 0, 1)
            padding[index, : each.shape[0], : each.shape[1]] = False
        sizes = np.array([[image.height, image.width] for image in images])
        found = self.session.run(None, {"images": pixels, "padding": padding, "original_sizes": sizes})
        for index, image in enumerate(images):
            answer = {name: values[index] for name, values in zip(self.outputs, found, strict=True)}
            known = np.array([self.names[label] != "N/A" for label in answer["labels"]], bool)
            answer = {name: values[known] for name, values in answer.items()}
            if "masks" in answer:
                answer["masks"] = full_size(answer["masks"], (height, width), resized[index].shape[:2], image)
            yield answer

    def size_of(self, image: Image.Image) -> tuple[int, int]:
        """Return (width, height) of an image as the detector wants it."""
        how, (width, height) = self.metadata["preprocessing"]["resize"], image.size
        low, high = sorted((width, height))
        if how["kind"] == "square":
            return how["size"], how["size"]
        if how["kind"] == "shrink long side":
            scale = min(1.0, how["max_size"] / high)
            return (
                (width, height)
                if scale == 1
                else (max(1, round(width * how["max_size"] / high)), max(1, round(height * how["max_size"] / high)))
            )
        if how["kind"] == "short side":
            short, limit = how["size"], how["max_size"]
            if limit is not None and high / low * short > limit:
                short = max(1, round(limit * low / high))
            if low == short:
                return width, height
            return (short, int(short * height / width)) if width < height else (int(short * width / height), short)
        raise SystemExit(f"images are prepared by {how['transform']}, which this example does not know")


def full_size(
    logits: NDArray[np.float32], padded: tuple[int, int], size: tuple[int, int], image: Image.Image
) -> NDArray[np.bool_]:
    """Return masks [n, height, width] of an image: bilinear to the batch, cut, cropped, nearest to its own size."""
    rows = np.minimum((np.arange(image.height) * (size[0] / image.height)).astype(int), size[0] - 1)
    columns = np.minimum((np.arange(image.width) * (size[1] / image.width)).astype(int), size[1] - 1)
    above, below, down = neighbours(rows, logits.shape[1], padded[0])
    left, right, across = neighbours(columns, logits.shape[2], padded[1])
    masks = []
    for mask in logits:  # one after the other: they are large
        lines = mask[above] * (1 - down[:, None]) + mask[below] * down[:, None]
        masks.append(lines[:, left] * (1 - across) + lines[:, right] * across > 0)
    return np.array(masks, bool).reshape(-1, image.height, image.width)


def neighbours(places: NDArray[Any], count: int, length: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return between which two of `count` samples, spread over `length` pixels, the pixels lie, and how far."""
    exact = np.maximum((places + 0.5) * (count / length) - 0.5, 0)
    first = np.minimum(exact.astype(int), count - 1)
    return first, np.minimum(first + 1, count - 1), (exact - first).astype(np.float32)


def read(path: Path) -> Image.Image:
    """Read an image, upright, in RGB."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def main() -> None:
    """Print what is found, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5, help="of the score")
    parser.add_argument("--json", type=Path, help="file for all detections above the threshold")
    given = parser.parse_args()
    detector, results = Detector(given.model), []
    count = detector.metadata["preprocessing"]["batch_size"]
    for start in range(0, len(given.images), count):
        files = given.images[start : start + count]
        for file, found in zip(files, detector([read(file) for file in files]), strict=True):
            rows = (found[name].tolist() for name in ("scores", "labels", "boxes"))
            for score, label, box in zip(*rows, strict=True):
                if score < given.threshold:
                    continue
                left, top, right, bottom = box
                category, place = detector.category_ids[label], [left, top, right - left, bottom - top]
                results.append({"file": str(file), "category_id": category, "bbox": place, "score": score})
                if given.json is None:
                    print(f"{file}  {detector.names[label]}  {score:.2f}  {' '.join(f'{side:.1f}' for side in box)}")
    if given.json is not None:
        given.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
