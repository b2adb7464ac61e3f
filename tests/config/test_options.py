"""Every option of every group composes, builds and takes an optimizer step; those of the surroundings in real runs."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import CLASSES, random_images, random_targets
from command import ROOT, TINY, run
from test_combinations import DECODERS, ENCODERS, GROUPS

from detr.assembly import build_model, build_optimizer, check_model
from detr.config import build, check, compose, resolved
from detr.structures import Classes, Normalizer
from detr.training.debugging import finite_or_raise
from detr.training.options import Progress

UNTRAINED = "backbone.weights=null"
QUICKSTART = ["experiment=quickstart", UNTRAINED]
PAPER = ["experiment=detr_r50_coco", UNTRAINED]
THREE_LEVELS = "backbone.levels=[-3,-2,-1]"
PARTS = [
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "queries.num_queries=20",
]

# Each is a step of a detector on noise. With several values each of them is one. Those of tests/test_combinations.py
# are not repeated.
STEPS = {
    "backbones": [*PAPER, "backbone=resnet34,resnet50,resnet50_dc5,timm,efficientnet_lite0"],
    "backbones_of_the_quickstart": [*QUICKSTART, "backbone=resnet18,resnet50"],
    "losses": [
        *PAPER,
        "neck=single_level",
        "loss=focal",
        "matcher=hungarian",
        "box_coder=logit",
        "model=detr",
        "transformer.activation=gelu,glu",
    ],
    "optimizers": [*QUICKSTART, "optimizer=sgd,muon"],
    "queries": [
        *QUICKSTART,
        "queries=distinct,dab",
        "transformer=rt_detr_small",
        "transformer/encoder=hybrid_group,hybrid_group_half",
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
    "dino": [
        *QUICKSTART,
        THREE_LEVELS,
        "neck=deformable",
        "transformer=deformable",
        "transformer/decoder=dino",
        "queries=dino",
        "box_coder=dino",
        "denoising=dino",
    ],
    "rt_detr": [
        *QUICKSTART,
        "detector=rt_detr_r18",
        "backbone=resnet18_d",
        "neck=rt_detr",
        "position_embedding=grid",
        "box_coder=clamped",
        "queries=rt_detr",
        "transformer=rt_detr_r18",
        "transformer/encoder=rt_detr_narrow",
        "transformer/decoder=rt_detr,rt_detr_v2",
    ],
    "experiments": [
        UNTRAINED,
        "experiment=conditional_detr_r50,dab_detr_r50,dn_detr_r50,deformable_detr_r50,dino_r50,rt_detr_r50,finetune_custom,small_data,bccd_smoke",
    ],
    "masks": [*PAPER, "backbone=resnet18", "mask_head=fpn,product,none"],
}
# Like one of the steps but for their size: built on the meta device.
LARGE = {
    "backbones": [*PAPER, "backbone=resnet101,resnet101_dc5"],
    "experiments": [
        "experiment=detr_r50_coco,detr_r101_coco,detr_r50_dc5_coco,detr_r101_dc5_coco,detr_r50_masks,"
        "detr_r50_panoptic,detr_r50_dc5_panoptic,detr_r101_panoptic,rf_detr_small,lw_detr_small,"
        "rt_detr_v2_r50,d_fine_m,deim_m"
    ],
    "vision_transformers": [
        "detector=rf_detr_nano",
        "backbone=rf_detr_nano,rf_detr_small,rf_detr_medium,rf_detr_base,rf_detr_large,"
        "lw_detr_tiny,lw_detr_small,lw_detr_medium,lw_detr_large,lw_detr_xlarge",
    ],
    "rf_detr_segs": [
        "detector=rf_detr_seg_nano,rf_detr_seg_small,rf_detr_seg_medium,rf_detr_seg_large,rf_detr_seg_xlarge,"
        "rf_detr_seg_2xlarge"
    ],
    "smaller_patches": [
        "detector=rf_detr_seg_nano",
        "backbone=rf_detr_seg_nano,rf_detr_seg_small,rf_detr_seg_medium,rf_detr_seg_large,rf_detr_seg_xlarge,"
        "rf_detr_seg_2xlarge",
        "transformer=rf_detr_seg_medium,rf_detr_seg_xlarge",
    ],
    "smaller_squares": [
        "detector=lw_detr_tiny",
        "augmentation=square_312,square_432,square_504,square_624,square_768",
    ],
    "rf_detr": ["detector=rf_detr_nano,rf_detr_small,rf_detr_medium,rf_detr_base,rf_detr_large"],
    "lw_detr": ["detector=lw_detr_tiny,lw_detr_small,lw_detr_medium,lw_detr_large,lw_detr_xlarge"],
    "projectors": ["detector=lw_detr_tiny", "neck=c2f,c2f_batch,c2f_two_level", "one_to_many=lw_detr"],
    "light_decoders": ["detector=lw_detr_tiny", "transformer=lw_detr_large,rf_detr_nano,rf_detr_medium"],
    "squares": [
        "detector=lw_detr_tiny",
        "augmentation=square,square_384,square_512,square_560,square_576,square_704,lw_detr",
    ],
    "detectors": [
        "detector=detr_r50,detr_r101,detr_r50_dc5,detr_r101_dc5,detr_r50_masks,detr_r101_masks,detr_r50_dc5_masks,"
        "conditional_detr_r50,dab_detr_r50,dn_detr_r50,dino_r50,small,tiny,small_masks,"
        "deformable_detr_r50,deformable_detr_r50_refine,deformable_detr_r50_two_stage"
    ],
    "d_fines": ["detector=d_fine_n,d_fine_s,d_fine_m,d_fine_l,d_fine_x,deim_n,deim_s,deim_m,deim_l,deim_x"],
    "hgnets": ["detector=d_fine_m", "backbone=hgnetv2_b0,hgnetv2_b2,hgnetv2_b4,hgnetv2_b5", "queries=deim"],
    "d_fine_sizes": ["detector=d_fine_m", "transformer=d_fine_s,d_fine_m,d_fine_l,d_fine_x", "loss=d_fine,deim"],
    "d_fine_narrow": ["detector=d_fine_n", "transformer=d_fine_n", "neck=rt_detr_two_level"],
    "d_fine_encoders": [
        "detector=d_fine_l",
        "transformer/encoder=d_fine_s,d_fine_m",
        "transformer/decoder=d_fine",
    ],
    "d_fine_decoders": ["detector=d_fine_x", "transformer/decoder=d_fine_x", "transformer/encoder=d_fine_x"],
    "d_fine_n_parts": ["detector=d_fine_n", "transformer/decoder=d_fine_n", "transformer/encoder=d_fine_n"],
    "rt_detrs": [
        "detector=rt_detr_r34,rt_detr_r50,rt_detr_r101,rt_detr_v2_r18,rt_detr_v2_r34,rt_detr_v2_r50,rt_detr_v2_r101"
    ],
    "resnet_ds": ["detector=rt_detr_r50", "backbone=resnet34_d,resnet50_d,resnet101_d"],
    "rt_detr_widths": ["detector=rt_detr_r50", "transformer=rt_detr_r34,rt_detr_r101"],
    "rt_detr_encoders": ["detector=rt_detr_r50", "transformer/encoder=rt_detr,rt_detr_wide"],
}
SMALL = [
    *(word for word in TINY if "dataset.counts" not in word),
    "+dataset.counts={train: 4, val: 2, test: 2}",
    "dataset=shapes",
    "trainer.max_steps=1",
    "dataloader.batch_size=4",
    "dataloader.num_workers=0",
]
# Real trainings of a step, with an evaluation: sweeps.
SWEEPS = {
    "schedules": [
        *QUICKSTART,
        "optimizer=adamw",
        "scheduler=multistep,step,cosine,flat_cosine,constant",
        "trainer.precision=bf16",
    ],
    "augmentations": [*QUICKSTART, "augmentation=light,light_640,flip,none"],
    "the_papers_augmentation": [
        *QUICKSTART,
        "augmentation=detr",
        "augmentation.train.scales=[64,96]",
        "augmentation.eval.sizes=[96]",
        "augmentation/mixing=none",
        "augmentation/multi_scale=none",
    ],
    "squares": [
        *QUICKSTART,
        "augmentation=square,rt_detr",
        "++augmentation.size=96",  # Hydra composes a sweep without what is swept, and so without this key, too
        "augmentation/mixing=dense",
        "augmentation/multi_scale=quarter,growing",
    ],
    "masks": [UNTRAINED, "experiment=shapes_masks,detr_r50_masks", "augmentation=none", "backbone=resnet18"],
    "panoptic": [UNTRAINED, "experiment=shapes_panoptic", "dataset=shapes_panoptic", "evaluator=panoptic"],
    "evaluators": [*QUICKSTART, "evaluator=coco", "evaluator.backend=faster_coco_eval,pycocotools"],
    "debugging": [*QUICKSTART, "debug=none,overfit,profile,nan"],
    "surroundings": [*QUICKSTART, "logger=wandb", "paths=default", "dataloader=default", "trainer=default"],
}
QUICK = {"panoptic", "surroundings"}
ELSEWHERE = {
    "hydra/job_logging=run",  # every run has it
    "hydra/sweeper=optuna",
    "dataset=coco",
    "dataset=custom",
    "dataset=coco_panoptic",
    "dataset=yolo",
    "dataset=voc",
}  # tests/sweeping/test_sweeps.py; the others need files of their own: tests/data, and BCCD in the README


def test_every_option_is_tried() -> None:
    options = {
        f"{path.parent.relative_to(ROOT / 'conf')}={path.stem}"
        for path in (ROOT / "conf").rglob("*/*.yaml")
        if not path.parent.name.startswith("_")
    } - ELSEWHERE
    tried = {
        f"{word.partition('=')[0]}={value}"
        for words in (SMALL, *SWEEPS.values(), *STEPS.values(), *LARGE.values())
        for word in words
        for value in word.partition("=")[2].split(",")
    }
    combined = GROUPS | {"transformer/encoder": ENCODERS, "transformer/decoder": DECODERS}
    tried |= {f"{group}={option}" for group, others in combined.items() for option in others}
    assert options - tried == set()


def each(sweeps: dict[str, list[str]]) -> list[list[str]]:
    """The jobs of sweeps: the values of every word combined."""
    jobs = []
    for words in sweeps.values():
        listed = [
            [word]
            if "[" in word
            else [f"{word.partition('=')[0]}={value}" for value in word.partition("=")[2].split(",")]
            for word in words
        ]
        jobs += [list(job) for job in itertools.product(*listed)]
    return jobs


def label(words: list[str]) -> str:
    return "-".join(word.partition("=")[2] for word in words if "null" not in word and "[" not in word)


@pytest.mark.parametrize("words", each(STEPS), ids=label)
def test_every_option_takes_a_step(words: list[str]) -> None:
    """Whatever learns gets a gradient, the optimizer moves it, and the rest stays."""
    config = compose([*PARTS, *words])
    check(config)
    values = resolved(config)
    check_model(values)
    torch.manual_seed(0)
    model = build_model(values, Classes.contiguous({index: str(index) for index in range(CLASSES)}), pretrained=False)
    optimizer, criterion = build_optimizer(values["optimizer"], model), build(values["loss"])
    for name, module in model.named_modules():  # none of them gives what debug=nan would stop at
        module.register_forward_hook(finite_or_raise(name, SimpleNamespace(progress=Progress())))  # type: ignore[arg-type]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sizes = [(64, 96), (96, 64)]
    targets = random_targets([2, 1], masks=(96, 96) if model.mask_head is not None else None)
    losses = criterion(model.train()(*random_images(sizes), targets), targets, Normalizer(objects=3, images=2))
    losses.total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is None or parameter.grad.any():
            assert torch.equal(before[name], parameter) != parameter.requires_grad, name
    assert losses.total.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("words", each(LARGE), ids=label)
def test_every_large_option_fits(words: list[str]) -> None:
    config = compose(words)
    check(config)
    check_model(resolved(config))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("panoptic", "surroundings") else [pytest.mark.slow]) for name in SWEEPS],
)
def test_every_surrounding_trains(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.getbasetemp() / "few_shapes"  # one for all sweeps of this process
    given = {word.partition("=")[0] for word in SWEEPS[name]}
    common = [word for word in SMALL if word.partition("=")[0] not in given]
    done = run("train.py", "-m", *common, *SWEEPS[name], f"dataset.root={data}", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr + done.stdout
    jobs = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(jobs) == len(each({name: SWEEPS[name]}))
    for job in jobs:
        (row,) = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert row["step"] == 1
        assert row["train/loss"] > 0
        assert row["val/loss"] > 0
        predictions = json.loads((job / "predictions.json").read_text())
        assert {found["image_id"] for found in predictions} >= {1, 2}  # debug=overfit evaluates those that it learns
