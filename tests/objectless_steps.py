"""Training steps of batches without objects, of every loss and kind of group. As a script: `torchrun … FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from builders import CLASSES
from torch import Tensor
from trainers import samples, trainer
from training_steps import gradients_of

from detr import distributed
from detr.assembly import build_model
from detr.config import build, compose, resolved
from detr.data.loader import collate
from detr.structures import Classes

# Objects of the two images of each of two processes: on one side only, nowhere, on the other side only.
COUNTS = [[2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 3]]

VIT = ("backbone.width=24", "backbone.num_heads=2", "backbone.depth=2", "backbone.levels=[1,2]")
VIT += ("backbone.global_blocks=[1]", "backbone.windows=2", "one_to_many.groups=3")
FINE = ("transformer.encoder.num_blocks=1",)
SMALL = ("detector=small", "backbone=resnet18")
CASES: dict[str, tuple[str, ...]] = {
    "rt_detr": ("detector=rt_detr_r18", "denoising.num_queries=4"),
    "d_fine": ("detector=d_fine_n", *FINE, "denoising.num_queries=4"),
    "d_fine, groups": (
        "detector=d_fine_n",
        *FINE,
        "denoising.num_queries=4",
        "one_to_many=group",
        "one_to_many.groups=3",
    ),
    "deim, hybrid": ("detector=deim_n", *FINE, "denoising=dn", "one_to_many=hybrid", "one_to_many.num_queries=12"),
    "lw_detr": ("detector=lw_detr_tiny", *VIT),
    "rf_detr, denoising": ("detector=rf_detr_nano", *VIT, "denoising=contrastive", "denoising.num_queries=4"),
    "rf_detr, masks": ("detector=rf_detr_nano", *VIT, "mask_head=product"),
    "dino": ("detector=dino_r50", "backbone=resnet18", "denoising.num_queries=4"),
    "dn": ("detector=dn_detr_r50", "backbone=resnet18"),
    "two stages of one class": ("detector=deformable_detr_r50_two_stage", "backbone=resnet18"),
    "stable_dino": (*SMALL, "loss=stable_dino", "denoising=contrastive"),
    "align, hybrid": (*SMALL, "loss=align", "one_to_many=hybrid", "one_to_many.num_queries=12"),
    "softmax, relation": (*SMALL, "loss=detr", "denoising=dn", "transformer.decoder.relation=true"),
    "mal": (*SMALL, "loss=mal"),
}
REDUCED = (
    *("~experiment", "backbone.weights=null", "queries.num_queries=6", "transformer.decoder.num_layers=2"),
    *("transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=32"),
)


def steps(case: str, folder: Path) -> dict[str, Tensor]:
    """This process's weights after a step of each batch, in each of which losses and all gradients were finite."""
    plain = resolved(compose([*REDUCED, *CASES[case]]))
    torch.manual_seed(distributed.rank())
    model = build_model(plain, Classes.contiguous({index: str(index) for index in range(CLASSES)}), pretrained=False)
    masks = model.mask_head is not None
    ours = trainer(model.train(), folder, criterion=build(plain["loss"], "loss"), lr=1e-3)
    gradients: list[dict[str, Tensor]] = []
    ours.optimizer.register_step_pre_hook(lambda *_: gradients.append(gradients_of(model)))
    for number, counts in enumerate(COUNTS):
        images = samples(counts, number, masks=masks)
        share = len(images) // distributed.world_size()
        mine = images[distributed.rank() * share :][:share]
        losses = ours.train_step([collate(mine, size_divisor=model.backbone.size_divisor)])
        assert losses.total.isfinite(), (case, counts)
        assert all(each.isfinite().all() for each in gradients[number].values()), (case, counts)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def main() -> None:
    distributed.start()
    for number, case in enumerate(CASES):
        folder = Path(sys.argv[1])
        torch.save(steps(case, folder), folder / f"{number}-{distributed.rank()}.pt")
    distributed.stop()


if __name__ == "__main__":
    main()
