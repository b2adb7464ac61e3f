"""Training steps that are the same whether one process does them or several. As a script: `torchrun … FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from builders import tiny_detr
from torch import Tensor, nn
from trainers import samples, trainer

from detr import distributed
from detr.data.loader import collate
from detr.structures import Batch, Sample

# Objects of the four images of each step: unequal, on one half only, nowhere.
COUNTS = [[3, 0, 0, 1], [0, 0, 2, 4], [1, 1, 1, 1], [0, 0, 0, 0], [5, 2, 0, 3]]

TWO_STAGE: dict[str, Any] = {"queries": "two_stage", "classification": "sigmoid"}

CASES: dict[str, dict[str, Any]] = {
    "paper": {"steps": 3, "trainable": ["layer4"]},
    "two_stage": {"steps": 2, **TWO_STAGE},
    "d_fine": {"steps": 2, **TWO_STAGE, "transformer": "d_fine"},
    "masks": {"steps": 4, "masks": True},
    "accumulate": {"steps": 2, "accumulate": 2},
    "process": {"steps": 1, "normalization": "process"},
    "batch_norm": {"steps": 2, "normalization": "process", "transformer": "hybrid", **TWO_STAGE},
}


def images_of(step: int, *, masks: bool = False) -> list[Sample]:
    """The four images of a step."""
    return samples(COUNTS[step % len(COUNTS)], step, masks=masks)


def my_share(step: int, *, masks: bool, accumulate: int) -> list[Batch]:
    """This process's micro-batches of a step."""
    images = images_of(step, masks=masks)
    each = len(images) // distributed.world_size()
    mine = images[distributed.rank() * each :][:each]
    size = each // accumulate
    return [collate(mine[start : start + size]) for start in range(0, each, size)]


def steps(
    folder: Path,
    *,
    steps: int,
    queries: Any = "learned",
    transformer: Any = "standard",
    classification: Any = "softmax",
    masks: bool = False,
    accumulate: int = 1,
    normalization: Any = "global",
    trainable: Sequence[str] = (),
) -> dict[str, Any]:
    """Losses and gradients of every step, and the weights in the end; in double precision, without dropout.

    `trainable` of the backbone; most of the weights are there. Also the running statistics of batch norm: at the start
    of each step's forward pass, and in the end.
    """
    model = tiny_detr(
        queries=queries,
        transformer=transformer,
        classification=classification,
        masks=masks,
        trainable=trainable,
        seed=distributed.rank(),
    )
    model = model.double().train()
    ours = trainer(model, folder, normalization=normalization, lr=1e-3)  # gives every process the first one's weights
    frozen = {name for name in model.state_dict() if name.startswith("backbone.")} - {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    statistics: list[dict[str, Tensor]] = []
    model.register_forward_pre_hook(lambda *_: statistics.append(statistics_of(model)))
    gradients: list[dict[str, Tensor]] = []
    ours.optimizer.register_step_pre_hook(lambda *_: gradients.append(gradients_of(model)))
    losses = [ours.train_step(my_share(step, masks=masks, accumulate=accumulate)) for step in range(steps)]
    return {
        "losses": [{"total": each.total, **each.terms} for each in losses],
        "gradients": gradients,
        "weights": {name: value for name, value in model.state_dict().items() if name not in frozen},
        "statistics": [*statistics, statistics_of(model)],
    }


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Running means of batch norm, by name."""
    return {
        f"{name}.running_mean": module.running_mean.clone()
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    }


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter that learns: none may be without one. In float32: those of twenty steps are gigabytes."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.to(torch.float32, copy=True)
    return found


def main() -> None:
    distributed.start()
    for name, case in CASES.items():
        torch.save(steps(Path(sys.argv[1]), **case), Path(sys.argv[1]) / f"{name}-{distributed.rank()}.pt")
    distributed.stop()


if __name__ == "__main__":
    main()
