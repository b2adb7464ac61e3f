"""Every option of every group builds, takes an optimizer step and is evaluated: as sweeps of real runs."""

import json
from pathlib import Path

import pytest
from command import ROOT, TINY, run

SMALL = [
    *(word for word in TINY if "dataset.counts" not in word),
    "+dataset.counts={train: 4, val: 2, test: 2}",
    "dataset=shapes",
    "trainer.max_steps=1",
    "dataloader.batch_size=4",
    "dataloader.num_workers=0",
]
UNTRAINED = "backbone.weights=null"
QUICKSTART = ["experiment=quickstart", UNTRAINED]
THREE_LEVELS = "backbone.levels=[-3,-2,-1]"
PAPER = ["experiment=detr_r50_coco", "augmentation=none", UNTRAINED]
DC5 = "resnet50_dc5,resnet101_dc5"

# What is common, and what is swept; every option stands in one of them at least.
SWEEPS = {
    "backbones": [*PAPER, f"backbone=resnet18,resnet34,resnet50,resnet101,{DC5},timm,efficientnet_lite0"],
    "backbones_of_the_quickstart": [*QUICKSTART, "backbone=resnet18,resnet50,timm,efficientnet_lite0"],
    "experiments": [
        UNTRAINED,
        "augmentation=none",
        "experiment=quickstart,small_data,bccd_smoke,detr_r50_coco,detr_r50_dc5_coco,detr_r101_coco,detr_r101_dc5_coco,finetune_custom",
        "init_from=null",
    ],
    "transformers": [
        *PAPER,
        "backbone=resnet18",
        "transformer=detr,detr_pre_norm",
        "position_embedding=sine,learned",
    ],
    "losses": [
        *PAPER,
        "backbone=resnet18",
        "neck=single_level",
        "loss=detr,focal",
        "matcher=hungarian",
        "box_coder=logit",
        "model=detr",
        "transformer.activation=gelu,glu",
    ],
    "schedules": [
        *PAPER,
        "backbone=resnet18",
        "optimizer=adamw",
        "scheduler=multistep,step,cosine,constant",
        "trainer.precision=bf16",
    ],
    "queries": [
        *QUICKSTART,
        "queries=anchors,two_stage,distinct",
        "transformer/encoder=detr,top_down",
    ],
    "plain_queries": [*QUICKSTART, "queries=learned", "transformer=top_down_anchor", "transformer/decoder=detr"],
    "anchors": [*PAPER, "backbone=resnet18", "queries=anchors", "transformer/decoder=anchor"],
    "deformable": [
        *QUICKSTART,
        "transformer=deformable,dino,rt_detr,rt_detr_small",
        "queries=two_stage",
        "denoising=contrastive",
        "one_to_many=none",
        "loss=varifocal",
    ],
    "levels": [*QUICKSTART, THREE_LEVELS, "neck=multi_level,two_level"],
    "four_levels": [
        *QUICKSTART,
        THREE_LEVELS,
        "neck=deformable",
        "transformer=deformable",
        "queries=deformable,deformable_two_stage,dino",
        "denoising=none",
        "one_to_many=hybrid",
        "one_to_many.num_queries=30",
    ],
    "conditional": [*PAPER, "backbone=resnet18", "transformer=conditional", "transformer/decoder=conditional"],
    "denoising": [
        *PAPER,
        "backbone=resnet18",
        "transformer=dab",
        "queries=dab",
        "denoising=dn",
        "one_to_many=group",
        "one_to_many.groups=3",
    ],
    "encoders_and_decoders": [
        *QUICKSTART,
        "queries=two_stage",
        "transformer/encoder=deformable,hybrid,hybrid_group,dab",
        "transformer/decoder=deformable,dab",
    ],
    "experiments_of_the_family": [
        UNTRAINED,
        "augmentation=none",
        "backbone=resnet18",
        "experiment=conditional_detr_r50,dab_detr_r50,dn_detr_r50,deformable_detr_r50,dino_r50,rt_detr_r50",
    ],
    "panoptic": [
        UNTRAINED,
        "augmentation=none",
        "experiment=shapes_panoptic,detr_r50_panoptic,detr_r50_dc5_panoptic,detr_r101_panoptic",
        "dataset=shapes_panoptic",
        "evaluator=panoptic",
    ],
    "augmentations": [*QUICKSTART, "augmentation=light,flip,none"],
    "the_papers_augmentation": [
        *QUICKSTART,
        "augmentation=detr",
        "augmentation.train.scales=[64,96]",
        "augmentation.eval.sizes=[96]",
    ],
    "masks": [*PAPER, "backbone=resnet18", "mask_head=fpn,none"],
    "masks_of_the_paper": [UNTRAINED, "experiment=detr_r50_masks", "augmentation=none", "backbone=resnet18"],
    "masks_of_the_quickstart": [UNTRAINED, "experiment=shapes_masks"],
    "surroundings": [
        *QUICKSTART,
        "logger=wandb,none",
        "evaluator=coco",
        "evaluator.backend=hotcoco,faster_coco_eval,pycocotools",
        "paths=default",
        "dataloader=default",
        "trainer=default",
    ],
}
ELSEWHERE = {
    "hydra/sweeper=optuna",
    "dataset=coco",
    "dataset=custom",
    "dataset=coco_panoptic",
}  # tests/test_sweeps.py; the others need files of their own: tests/data, and BCCD in the README


def test_every_option_is_swept() -> None:
    options = {
        f"{path.parent.relative_to(ROOT / 'conf')}={path.stem}" for path in (ROOT / "conf").rglob("*/*.yaml")
    } - ELSEWHERE
    swept = {
        f"{word.partition('=')[0]}={value}"
        for words in (SMALL, *SWEEPS.values())
        for word in words
        for value in word.partition("=")[2].split(",")
    }
    assert options - swept == set()


@pytest.mark.parametrize("name", SWEEPS)
def test_every_option_takes_a_step(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.getbasetemp() / "few_shapes"  # one for all sweeps of this process
    given = {word.partition("=")[0] for word in SWEEPS[name]}
    common = [word for word in SMALL if word.partition("=")[0] not in given]
    done = run("train.py", "-m", *common, *SWEEPS[name], f"dataset.root={data}", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr + done.stdout
    jobs = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert jobs
    for job in jobs:
        (row,) = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert row["step"] == 1
        assert row["val/AP"] >= 0
