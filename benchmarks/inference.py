"""Seconds of an inference with DETR-R50: ours against the one of `transformers`, with the same weights, in fp32.

python benchmarks/inference.py                  # about a minute on two cores
python benchmarks/inference.py --turns 15

One image of 800 × 1066 pixels, two of 512 × 640; logits and boxes are compared before the time is. Then the first as
`detr export … format=onnx` writes it, run by ONNX Runtime, against the same peer in PyTorch; writing takes a minute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import detr_r50
import torch
from alternating import alternate
from figure import Figure, main

from detr.exporting.formats import write
from detr.exporting.metadata import metadata_of
from detr.exporting.program import Traced, Wish
from detr.exporting.running import Runner, open_file
from detr.exporting.source import Source
from detr.models.detr import DETR
from detr.structures import Classes

EXPORTED = 0.45
SHAPES = {(1, 800, 1066): 0.50, (2, 512, 640): 0.55}  # batch, height, width: what ours / theirs should be at most


def figures(quick: bool = False, turns: int = 9) -> Iterator[Figure]:
    """Yield how long an inference takes, after comparing what comes out."""
    model = detr_r50.ours().eval()
    peer = detr_r50.theirs(model).eval()
    for (batch, height, width), target in SHAPES.items():
        size = (height // 8, width // 8) if quick else (height, width)
        images = torch.rand(batch, 3, *size)
        padding = torch.zeros(batch, *size, dtype=torch.bool)
        normalized = model.backbone.normalize(images, padding)
        mask = torch.ones(batch, *size, dtype=torch.long)
        with torch.inference_mode():
            predictions, answer = model(images, padding), peer(normalized, pixel_mask=mask)
            torch.testing.assert_close(predictions.logits[-1], answer.logits, rtol=0, atol=1e-4)
            torch.testing.assert_close(predictions.boxes[-1], answer.pred_boxes, rtol=0, atol=1e-4)
            found = alternate(
                partial(model, images, padding), partial(peer, normalized, pixel_mask=mask), turns=1 if quick else turns
            )
        what = "DETR-R50 with the one of transformers, the same weights, fp32, outputs equal to 1e-4"
        yield Figure(f"inference, {batch} × {height} × {width}", found, what, target)
    with tempfile.TemporaryDirectory() as folder:
        runner = exported(model, Path(folder) / "detr.onnx")
        (batch, height, width), *_ = SHAPES
        size = (height // 8, width // 8) if quick else (height, width)
        images = torch.randint(256, (batch, 3, *size), dtype=torch.uint8)
        padding = torch.zeros(batch, *size, dtype=torch.bool)
        arrays = {"images": images.numpy(), "padding": padding.numpy()}
        normalized = model.backbone.normalize(images, padding)
        mask = torch.ones(batch, *size, dtype=torch.long)
        with torch.inference_mode():
            torch.testing.assert_close(
                torch.from_numpy(runner(arrays)["logits"]), peer(normalized, pixel_mask=mask).logits, rtol=0, atol=1e-3
            )
            found = alternate(
                partial(runner, arrays), partial(peer, normalized, pixel_mask=mask), turns=1 if quick else turns
            )
    what = "DETR-R50 as an ONNX file in ONNX Runtime with the one of transformers in PyTorch, the same weights, fp32"
    yield Figure(f"inference, exported, {batch} × {height} × {width}", found, what, EXPORTED)


def exported(model: DETR, path: Path) -> Runner:
    """Write a detector as an ONNX file, and open it with as many threads as PyTorch has."""
    values = detr_r50.values()
    source = Source(
        "detr_r50", model, Classes.contiguous({index: str(index) for index in range(detr_r50.CLASSES)}), values
    )
    traced = Traced(source, Wish())
    write(traced, metadata_of(source, traced), "onnx", path)
    return open_file(path, threads=torch.get_num_threads())


if __name__ == "__main__":
    main(__doc__, figures, turns=9)
