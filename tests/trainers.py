"""A trainer without a data set, and images to give to its steps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from builders import CLASSES, random_boxes

from detr import distributed
from detr.data.dataset import Fingerprint
from detr.data.loader import TrainLoader, eval_loader
from detr.data.order import EpochSampler
from detr.environment import autocast
from detr.evaluation.coco import CocoEvaluator
from detr.evaluation.validation import Validation
from detr.losses.criterion import SetCriterion
from detr.losses.distributions import DistributionDistillation, FineGrainedLocalization
from detr.losses.masks import Dice, MaskFocal
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, CrossEntropy, Focal, GIoU
from detr.models.d_fine import DFineDecoder
from detr.models.detr import DETR
from detr.structures import Classes, Sample
from detr.tracking.logger import NullLogger
from detr.tracking.run_folder import RunFolder
from detr.training.optim import adamw
from detr.training.options import TrainerOptions
from detr.training.parts import Parts
from detr.training.schedule import Constant, Schedule
from detr.training.trainer import Trainer
from detr.weights.checkpoint import Recipe

NOTHING = {"images": [], "annotations": [], "categories": []}


SIZE = (48, 64)


def samples(counts: list[int], seed: int = 0, *, masks: bool = False) -> list[Sample]:
    """Noise of one size, with as many objects as `counts` says."""
    generator = torch.Generator().manual_seed(seed)
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
        for index, count in enumerate(counts)
    ]


class Samples(list[Sample]):
    """As a data set has them: by index, or by epoch and index."""

    classes = Classes.contiguous({1: "a", 2: "b", 3: "c"})

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key[1] if isinstance(key, tuple) else key)


def trainer(
    model: DETR,
    folder: Path,
    *,
    normalization: Any = "global",
    auxiliary: bool = True,
    schedule: Schedule | None = None,
    lr: float = 1e-2,
    criterion: SetCriterion | None = None,
    **options: Any,
) -> Trainer:
    """In the place of this process among those of its job; `criterion` in the place of the detector's usual one."""
    data: Any = Samples(samples([1] * 4))  # what an epoch would read; tests give the steps their batches
    share = (distributed.rank(), distributed.world_size())
    sigmoid, distributions = model.classification == "sigmoid", isinstance(model.decoder, DFineDecoder)
    device = torch.device("cpu")
    parts = Parts(
        options=TrainerOptions(**options),
        recipe=Recipe({}, data.classes, Fingerprint(4, 4, "noise")),
        model=model,
        criterion=criterion
        or SetCriterion(
            matcher=HungarianMatcher(classification=model.classification),
            terms={"class": Focal() if sigmoid else CrossEntropy(), "bbox": L1(weight=5), "giou": GIoU(weight=2)}
            | ({} if model.mask_head is None else {"mask": MaskFocal(), "dice": Dice()})
            | ({"fgl": FineGrainedLocalization(), "ddf": DistributionDistillation()} if distributions else {}),
            classification=model.classification,
            normalization=normalization,
            auxiliary=auxiliary,
            unite_matches=distributions,
        ),
        optimizer=adamw(model=model, lr=lr, lr_by_pattern={"backbone": lr / 10}),
        schedule=schedule or Constant(),
        loader=TrainLoader(data, EpochSampler(4, 2, seed=0, share=share), num_workers=0),
        validation=Validation(
            loader=eval_loader(data, batch_size=2, num_workers=0),
            evaluator=CocoEvaluator(backend="pycocotools", ground_truth=NOTHING, classes=data.classes),
            device=device,
            autocast=functools.partial(autocast, device, "fp32"),
            classification=model.classification,
        ),
        logger=NullLogger(),
    )
    return Trainer(parts, folder=RunFolder(folder))
