"""Seconds of an inference with DETR-R50: ours against the one of `transformers`, with the same weights, in fp32.

python benchmarks/inference.py                  # about a minute on two cores
python benchmarks/inference.py --turns 15

One image of 800 × 1066 pixels, two of 512 × 640; logits and boxes are compared before the time is.
"""

from __future__ import annotations

import argparse

import detr_r50
import torch
from alternating import alternate

SHAPES = {(1, 800, 1066): 0.50, (2, 512, 640): 0.55}  # batch, height, width: what ours / theirs should be at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = detr_r50.ours().eval()
    peer = detr_r50.theirs(model).eval()
    for (batch, height, width), target in SHAPES.items():
        images = torch.rand(batch, 3, height, width)
        padding = torch.zeros(batch, height, width, dtype=torch.bool)
        normalized = model.backbone.normalize(images, padding)
        mask = torch.ones(batch, height, width, dtype=torch.long)
        with torch.inference_mode():
            predictions, answer = model(images, padding), peer(normalized, pixel_mask=mask)
            torch.testing.assert_close(predictions.logits[-1], answer.logits, rtol=0, atol=1e-4)
            torch.testing.assert_close(predictions.boxes[-1], answer.pred_boxes, rtol=0, atol=1e-4)
            found = alternate(
                lambda: model(images, padding),  # noqa: B023
                lambda: peer(normalized, pixel_mask=mask),  # noqa: B023
                turns=arguments.turns,
            )
        print(f"inference {batch} × {height} × {width}: {found}; target {target}", flush=True)


if __name__ == "__main__":
    main()
