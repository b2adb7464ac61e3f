"""Training steps that are the same whether one process does them or several. As a script: `torchrun … FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from builders import CLASSES, random_boxes, tiny_detr
from torch import Tensor, nn

from detr import distributed
from detr.data.loader import EpochSampler, TrainLoader, collate
from detr.engine import Trainer
from detr.logging import NullLogger
from detr.losses.criterion import SetCriterion
from detr.losses.masks import Dice, MaskFocal
from detr.losses.terms import L1, CrossEntropy, Focal, GIoU
from detr.matcher import HungarianMatcher
from detr.models.detr import DETR
from detr.optim import Constant, adamw
from detr.options import Options
from detr.run_folder import RunFolder
from detr.structures import Batch, Sample

SIZE = (48, 64)

# Objects of the four images of each step: unequal, on one half only, nowhere.
COUNTS = [[3, 0, 0, 1], [0, 0, 2, 4], [1, 1, 1, 1], [0, 0, 0, 0], [5, 2, 0, 3]]

CASES: dict[str, dict[str, Any]] = {
    "paper": {"steps": 20},
    "two_stage": {"steps": 4, "queries": "two_stage", "classification": "sigmoid"},
    "masks": {"steps": 5, "masks": True},
    "accumulate": {"steps": 3, "accumulate": 2},
    "process": {"steps": 1, "normalization": "process"},
}


def samples(step: int, *, masks: bool) -> list[Sample]:
    """The four images of a step: noise of one size."""
    generator = torch.Generator().manual_seed(step)
    return [
        Sample(
            image=torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8),
            labels=torch.randint(CLASSES, (count,), generator=generator),
            boxes=random_boxes(count, generator),
            image_id=index,
            original_size=SIZE,
            file=f"images/{index}.png",
            masks=torch.rand(count, *SIZE, generator=generator) < 0.4 if masks else None,
        )
        for index, count in enumerate(COUNTS[step % len(COUNTS)])
    ]


def trainer(model: DETR, normalization: Any) -> Trainer:
    data: Any = [None] * 8
    sigmoid = model.classification == "sigmoid"
    return Trainer(
        options=Options(clip_norm=0.1),
        model=model,
        criterion=SetCriterion(
            matcher=HungarianMatcher(classification=model.classification),
            terms={"class": Focal() if sigmoid else CrossEntropy(), "bbox": L1(weight=5), "giou": GIoU(weight=2)},
            mask_terms=None if model.mask_head is None else {"mask": MaskFocal(), "dice": Dice()},
            classification=model.classification,
            normalization=normalization,
        ),
        optimizer=adamw(model=model, lr=1e-3),
        schedule=Constant(),
        loader=TrainLoader(
            data, EpochSampler(8, 2, seed=0, share=(distributed.rank(), distributed.world_size())), num_workers=0
        ),
        validation=None,  # type: ignore[arg-type]  # nothing is evaluated
        logger=NullLogger(),
        folder=RunFolder("nowhere"),
        facts={},
    )


def my_share(step: int, *, masks: bool, accumulate: int) -> list[Batch]:
    """This process's micro-batches of a step."""
    images = samples(step, masks=masks)
    each = len(images) // distributed.world_size()
    mine = images[distributed.rank() * each :][:each]
    size = each // accumulate
    return [collate(mine[start : start + size]) for start in range(0, each, size)]


def steps(
    *,
    steps: int,
    queries: Any = "learned",
    classification: Any = "softmax",
    masks: bool = False,
    accumulate: int = 1,
    normalization: Any = "global",
) -> dict[str, Any]:
    """Losses and gradients of every step, and the weights in the end; in double precision, without dropout."""
    model = tiny_detr(queries=queries, classification=classification, masks=masks, seed=distributed.rank())
    model = model.double().train()
    ours = trainer(model, normalization)  # gives every process the first one's weights
    gradients: list[dict[str, Tensor]] = []
    ours.optimizer.register_step_pre_hook(lambda *_: gradients.append(gradients_of(model)))
    losses = [ours.train_step(my_share(step, masks=masks, accumulate=accumulate)) for step in range(steps)]
    return {
        "losses": [{"total": each.total, **each.terms} for each in losses],
        "gradients": gradients,
        "weights": model.state_dict(),
    }


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter that learns: none may be without one."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
    return found


def main() -> None:
    distributed.start()
    for name, case in CASES.items():
        torch.save(steps(**case), Path(sys.argv[1]) / f"{name}-{distributed.rank()}.pt")
    distributed.stop()


if __name__ == "__main__":
    main()
