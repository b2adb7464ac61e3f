"""Seconds and peak memory of a training step of DETR-R50: ours against the one of `transformers`, in fp32.

python benchmarks/step.py                       # some minutes on two cores
python benchmarks/step.py --compile             # ours with trainer.compile=true; says what its first step costs
python benchmarks/step.py --memory ours         # peak memory of a process that does three steps; then: theirs

Two images of 512 × 640 pixels with seven objects each; forward, matching, losses with auxiliary ones, backward, norm of
the gradient, AdamW. Dropout is the paper's on both sides. Both start from the same weights.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import detr_r50
import torch
from alternating import alternate
from torch import nn

from detr.assembly import build_optimizer
from detr.config import build
from detr.models.detr import DETR
from detr.structures import Normalizer, Targets
from detr.training.compilation import compile_regions

BATCH, HEIGHT, WIDTH, OBJECTS = 2, 512, 640, 7
CLIP = 0.1


def our_step(model: DETR) -> Callable[[], None]:
    """Return a step as the trainer does it."""
    criterion = build(detr_r50.values()["loss"])
    optimizer = build_optimizer(detr_r50.values()["optimizer"], model.train())
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    padding = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.bool)
    targets = Targets.of(*detr_r50.objects(BATCH, OBJECTS))
    normalizer = Normalizer(objects=float(BATCH * OBJECTS), images=float(BATCH))

    def step() -> None:
        criterion(model(images, padding, targets), targets, normalizer).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(model: nn.Module) -> Callable[[], None]:
    """Return a step as examples of `transformers` do it."""
    model.train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4)
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    mask = torch.ones(BATCH, HEIGHT, WIDTH, dtype=torch.long)
    pairs = zip(*detr_r50.objects(BATCH, OBJECTS), strict=True)
    labels = [{"class_labels": classes, "boxes": boxes} for classes, boxes in pairs]

    def step() -> None:
        model(images, pixel_mask=mask, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak(whose: str) -> float:
    """Return the peak memory in GiB of this process after three steps: a process can do this once."""
    model = detr_r50.ours()
    step = our_step(model) if whose == "ours" else their_step(detr_r50.theirs(model))
    if whose == "theirs":
        del model
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", choices=["ours", "theirs"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(f"peak memory, {arguments.memory}: {peak(arguments.memory):.2f} GiB")
        return
    model = detr_r50.ours()
    ours, theirs = our_step(model), their_step(detr_r50.theirs(model))
    if arguments.compile:
        compile_regions(model)
        started = time.perf_counter()
        ours()
        print(f"first compiled step: {time.perf_counter() - started:.0f} s", flush=True)
    found = alternate(ours, theirs, turns=arguments.turns)
    print(f"step {BATCH} × {HEIGHT} × {WIDTH}: {found}; target {0.70 if arguments.compile else 0.80}")


if __name__ == "__main__":
    main()
