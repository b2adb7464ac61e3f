"""Seconds and peak memory of a training step of DETR-R50: ours against the one of `transformers`, in fp32.

python benchmarks/step.py                       # some minutes on two cores; the second figure is of a compiled step

Two images of 512 × 640 pixels with seven objects each; forward, matching, losses with auxiliary ones, backward, norm of
the gradient, AdamW. Dropout is the paper's on both sides. Both start from the same weights. Each side is timed in a
process of its own, where it does what it does for its users: ours has malloc keep what is freed, which the peer leaves
to them; once more with that on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import detr_r50
import torch
from alternating import Apart, alternate, seconds
from figure import Figure, main, peak_memory
from torch import nn

from detr.assembly import build_optimizer
from detr.config import build
from detr.environment import keep_freed_memory
from detr.structures import Normalizer, Targets
from detr.training.compilation import compile_regions

BATCH, HEIGHT, WIDTH, OBJECTS = 2, 512, 640, 7
CLIP = 0.1


def our_step(compiles: bool = False) -> Callable[[], None]:
    """Return a step as the trainer does it."""
    keep_freed_memory()
    model = detr_r50.ours()
    criterion = build(detr_r50.values()["loss"])
    optimizer = build_optimizer(detr_r50.values()["optimizer"], model.train())
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    padding = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.bool)
    targets = Targets.of(*detr_r50.objects(BATCH, OBJECTS))
    normalizer = Normalizer(objects=float(BATCH * OBJECTS), images=float(BATCH))
    if compiles:
        compile_regions(model)

    def step() -> None:
        criterion(model(images, padding, targets), targets, normalizer).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(keeps: bool = False) -> Callable[[], None]:
    """Return a step as examples of `transformers` do it; keeps: malloc keeps what is freed."""
    if keeps:
        keep_freed_memory()
    model = detr_r50.theirs(detr_r50.ours()).train()
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


def three_steps(make: Callable[[], Callable[[], None]]) -> None:
    """Do three steps, for the memory that they take."""
    step = make()
    for _ in range(3):
        step()


def figures(quick: bool = False, turns: int = 7) -> Iterator[Figure]:
    """Yield how long a step takes and how much memory, then how long a compiled one does; quick: few steps of one."""
    name = f"training step, {BATCH} × {HEIGHT} × {WIDTH}"
    what = "DETR-R50 with the one of transformers, the paper's dropout, fp32"
    with Apart(our_step) as ours, Apart(their_step) as theirs:
        found = alternate(ours, theirs, turns=1 if quick else turns)
    if quick:
        yield Figure(name, found, what, 0.80)
        return
    tasks = (partial(three_steps, make) for make in (our_step, their_step))
    memory = peak_memory(*tasks, imports=("transformers.models.detr.modeling_detr",))
    yield Figure(name, found, what, 0.80, memory)
    with Apart(our_step) as ours, Apart(partial(their_step, keeps=True)) as theirs:
        found = alternate(ours, theirs, turns=turns)
    yield Figure(f"{name}, freed memory kept on both sides", found, what)
    with Apart(partial(our_step, compiles=True)) as ours, Apart(their_step) as theirs:
        took = seconds(ours)
        found = alternate(ours, theirs, turns=turns)
    what += f"; ours with trainer.compile=true, whose first step took {took:.0f} s"
    yield Figure(f"{name}, compiled", found, what, 0.70)


if __name__ == "__main__":
    main(__doc__, figures, turns=7)
