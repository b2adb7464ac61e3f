"""How long does a training step take with each ingredient of the family, against one without it?

python benchmarks/ingredients.py                         # the small detector, 4 × 312 × 416; ten minutes of two cores
python benchmarks/ingredients.py --only with_muon with_mal --turns 15

Model, losses, gradients, clipping and optimizer, on random images with as many objects as BCCD's have, in turns with
`ingredient=all`. What an ingredient does to images costs time elsewhere: workers mix and scale them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from alternating import alternate
from torch import nn

from detr.assembly import build_model, build_optimizer
from detr.config import build, compose, resolved
from detr.config.compose import folder
from detr.structures import Classes, Normalizer, Targets
from detr.training.optim import train_mode

SWEEPS = folder("sweeps")
IMAGES, HEIGHT, WIDTH, OBJECTS, CLASSES = 4, 312, 416, 13, 3
ONLY_IMAGES = {"with_dense", "with_multi_scale"}  # their steps are as long as all others


def step_with(ingredient: str) -> Callable[[], None]:
    """Return a training step of the small detector."""
    words = ["experiment=small_data", "dataset.root=.", f"ingredient={ingredient}"]
    values = resolved(compose(words, "family_ingredients", [SWEEPS]))
    torch.manual_seed(0)
    model = build_model(values, Classes.contiguous({index: str(index) for index in range(CLASSES)}), pretrained=True)
    criterion, optimizer = build(values["loss"]), build_optimizer(values["optimizer"], model)
    images = torch.randint(256, (IMAGES, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    padding = torch.zeros(IMAGES, HEIGHT, WIDTH, dtype=torch.bool)
    sizes = torch.rand(IMAGES, OBJECTS, 2) * 0.2 + 0.1
    centres = sizes / 2 + (1 - sizes) * torch.rand(IMAGES, OBJECTS, 2)
    labels = torch.randint(CLASSES, (IMAGES, OBJECTS))
    targets = Targets.of(list(labels), list(torch.cat([centres, sizes], -1)))
    normalizer = Normalizer(objects=float(IMAGES * OBJECTS), images=float(IMAGES))
    train_mode(model)

    def step() -> None:
        criterion(model(images, padding, targets), targets, normalizer).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), values["trainer"]["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    names = sorted(path.stem for path in (SWEEPS / "ingredient").glob("with_*.yaml"))
    names = [name for name in names if name not in ONLY_IMAGES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    without = step_with("all")
    for name in arguments.only:
        print(f"{name:<24}{alternate(step_with(name), without, turns=arguments.turns)}", flush=True)


if __name__ == "__main__":
    main()
