"""Seconds of an inference with DETR-R50: ours against the one of `transformers`, with the same weights, in fp32.

python benchmarks/inference.py                  # about a minute on two cores
python benchmarks/inference.py --turns 15

One image of 800 × 1066 pixels, two of 512 × 640; logits and boxes are compared before the time is. Each side is timed
in a process of its own, where it does what it does for its users: ours has malloc keep what is freed, which the peer
leaves to them; the first once more with that on both sides. Then the first as `detr export … format=onnx` writes it,
run by ONNX Runtime, against the same peer in PyTorch; writing takes a minute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import detr_r50
import torch
from alternating import Apart, Comparison, alternate
from figure import Figure, main
from torch import Tensor

from detr.environment import keep_freed_memory
from detr.exporting.formats import write
from detr.exporting.metadata import metadata_of
from detr.exporting.program import Traced, Wish
from detr.exporting.running import open_file
from detr.exporting.source import Source
from detr.models.detr import DETR
from detr.structures import Classes

EXPORTED = 0.45
SHAPES = {(1, 800, 1066): 0.50, (2, 512, 640): 0.55}  # batch, height, width: what ours / theirs should be at most

Shape = tuple[int, int, int]
Step = Callable[[], Any]
Make = Callable[[], Step]


def figures(quick: bool = False, turns: int = 9) -> Iterator[Figure]:
    """Yield how long an inference takes, after comparing what comes out."""
    turns, smaller = (1, 8) if quick else (turns, 1)
    model = detr_r50.ours().eval()
    peer = detr_r50.theirs(model).eval()
    what = "DETR-R50 with the one of transformers, the same weights, fp32, outputs equal to 1e-4"
    for (batch, height, width), target in SHAPES.items():
        shape = (batch, height // smaller, width // smaller)
        images, padding = inputs(shape)
        with torch.inference_mode():
            predictions, answer = model(images, padding), peer(**as_theirs(model, images, padding))
        torch.testing.assert_close(predictions.logits[-1], answer.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(predictions.boxes[-1], answer.pred_boxes, rtol=0, atol=1e-4)
        found = apart(partial(our_inference, shape), partial(their_inference, shape), turns)
        yield Figure(f"inference, {batch} × {height} × {width}", found, what, target)
    (batch, height, width), *_ = SHAPES
    name, shape = f"{batch} × {height} × {width}", (batch, height // smaller, width // smaller)
    found = apart(partial(our_inference, shape), partial(their_inference, shape, keeps=True), turns)
    yield Figure(f"inference, {name}, freed memory kept on both sides", found, what)
    images, padding = inputs(shape)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "detr.onnx"
        export(model, path)
        logits = open_file(path)(as_arrays(images, padding))["logits"]
        answer = peer(**as_theirs(model, images, padding))
        torch.testing.assert_close(torch.from_numpy(logits), answer.logits, rtol=0, atol=1e-3)
        found = apart(partial(exported_inference, shape, path), partial(their_inference, shape), turns)
    what = "DETR-R50 as an ONNX file in ONNX Runtime with the one of transformers in PyTorch, the same weights, fp32"
    yield Figure(f"inference, exported, {name}", found, what, EXPORTED)


def apart(ours: Make, theirs: Make, turns: int) -> Comparison:
    """Time what each makes, in processes of their own."""
    with Apart(ours) as mine, Apart(theirs) as other:
        return alternate(mine, other, turns=turns)


def inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return images [B, 3, H, W], always the same, and which of their pixels are padding [B, H, W]: none."""
    batch, height, width = shape
    images = torch.randint(
        256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return images, torch.zeros(batch, height, width, dtype=torch.bool)


def as_theirs(model: DETR, images: Tensor, padding: Tensor) -> dict[str, Tensor]:
    """Return what the peer is given: images that are normalised already."""
    return {"pixel_values": model.backbone.normalize(images, padding), "pixel_mask": (~padding).long()}


def as_arrays(images: Tensor, padding: Tensor) -> dict[str, Any]:
    """Return what an exported file is given."""
    return {"images": images.numpy(), "padding": padding.numpy()}


def our_inference(shape: Shape) -> Step:
    """Return an inference as `Detector` does it."""
    keep_freed_memory()
    model = detr_r50.ours().eval()
    images, padding = inputs(shape)
    return torch.inference_mode()(lambda: model(images, padding))


def their_inference(shape: Shape, keeps: bool = False) -> Step:
    """Return an inference of the peer; keeps: malloc keeps what is freed."""
    if keeps:
        keep_freed_memory()
    model = detr_r50.ours().eval()
    given, peer = as_theirs(model, *inputs(shape)), detr_r50.theirs(model).eval()
    return torch.inference_mode()(lambda: peer(**given))


def exported_inference(shape: Shape, path: Path) -> Step:
    """Return an inference of an ONNX file, by as many threads as PyTorch has."""
    runner, arrays = open_file(path, threads=torch.get_num_threads()), as_arrays(*inputs(shape))
    return lambda: runner(arrays)


def export(model: DETR, path: Path) -> None:
    """Write a detector as an ONNX file."""
    names = Classes.contiguous({index: str(index) for index in range(detr_r50.CLASSES)})
    source = Source("detr_r50", model, names, detr_r50.values())
    traced = Traced(source, Wish())
    write(traced, metadata_of(source, traced), "onnx", path)


if __name__ == "__main__":
    main(__doc__, figures, turns=9)
