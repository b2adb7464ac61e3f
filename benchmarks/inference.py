"""Seconds of an inference with DETR-R50: ours against the one of `transformers`, with the same weights, in fp32.

python benchmarks/inference.py                  # about a minute on two cores
python benchmarks/inference.py --turns 15

One image of 800 × 1066 pixels, two of 512 × 640; logits and boxes are compared before the time is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import detr_r50
import torch
from alternating import alternate
from figure import Figure, main

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


if __name__ == "__main__":
    main(__doc__, figures, turns=9)
