"""Seconds and peak memory of a training step of DETR-R50: ours against the one of `transformers`, in fp32.

python benchmarks/step.py                       # some minutes on two cores; the second figure is of a compiled step

Two images of 512 × 640 pixels with seven objects each; forward, matching, losses with auxiliary ones, backward, norm of
the gradient, AdamW. Dropout is the paper's on both sides. Both start from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import detr_r50
import torch
from alternating import alternate, seconds
from figure import Figure, main, peak_memory
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


def three_steps(whose: str) -> None:
    """Do three steps, for the memory that they take."""
    model = detr_r50.ours()
    step = our_step(model) if whose == "ours" else their_step(detr_r50.theirs(model))
    del model
    for _ in range(3):
        step()


def figures(quick: bool = False, turns: int = 7) -> Iterator[Figure]:
    """Yield how long a step takes and how much memory, then how long a compiled one does; quick: few steps of one."""
    name = f"training step, {BATCH} × {HEIGHT} × {WIDTH}"
    what = "DETR-R50 with the one of transformers, the paper's dropout, fp32"
    model = detr_r50.ours()
    ours, theirs = our_step(model), their_step(detr_r50.theirs(model))
    found = alternate(ours, theirs, turns=1 if quick else turns)
    tasks = (partial(three_steps, whose) for whose in ("ours", "theirs"))
    memory = None if quick else peak_memory(*tasks, imports=("transformers.models.detr.modeling_detr",))
    yield Figure(name, found, what, 0.80, memory)
    if quick:
        return
    compile_regions(model)
    took = seconds(ours)
    found = alternate(ours, theirs, turns=turns)
    what += f"; ours with trainer.compile=true, whose first step took {took:.0f} s"
    yield Figure(f"{name}, compiled", found, what, 0.70)


if __name__ == "__main__":
    main(__doc__, figures, turns=7)
