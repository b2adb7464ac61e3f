"""Every option in conf/ mirrors the constructor that it names."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf

from detr.assembly import build_model
from detr.config import check, compose
from detr.config.annotations import parameters
from detr.config.build import locate
from detr.config.compose import CONF, groups
from detr.config.references import leaves
from detr.structures import Classes

OPTIONS = groups()
EXPERIMENTS = OPTIONS.pop("experiment")
DETECTORS = OPTIONS.pop("detector")
# Composing takes its time, so options of different groups share a config: the first of each group, the second, …
ROWS = [
    [f"{group}={option}" for group, option in zip(OPTIONS, row, strict=True) if option is not None]
    for row in zip_longest(*OPTIONS.values())
]


def test_options_are_found() -> None:
    assert "quickstart" in EXPERIMENTS
    assert {"backbone=resnet50", "transformer/encoder=detr"} <= {choice for row in ROWS for choice in row}


@pytest.mark.parametrize("choices", ROWS, ids=[str(index) for index in range(len(ROWS))])
def test_options_fit_their_constructors(choices: list[str]) -> None:
    """On the defaults of train.yaml, without the values that an experiment sets for other options."""
    check(compose([*choices, "~experiment"]))


@pytest.mark.parametrize(
    ("group", "option"), [*(("experiment", each) for each in EXPERIMENTS), *(("detector", each) for each in DETECTORS)]
)
def test_whole_configs_fit_their_constructors(group: str, option: str) -> None:
    """And what their files say is not overwritten by others."""
    config = compose([f"{group}={option}", *(["~experiment"] if group == "detector" else [])])
    check(config)
    said = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"), resolve=False)
    composed = OmegaConf.to_container(config, resolve=False)
    for path, value in leaves(said):
        if path[0] != "defaults" and "${hydra:" not in str(value):
            assert functools.reduce(lambda node, key: node[key], path, composed) == value, path


# Where an option sets what the constructor leaves to others: as many classes as the official weights have; sigmoids;
# the paper's rates, and momentum, for torch's own optimizers; points of each of three levels.
MEANT = {
    ("dataset/coco_panoptic", "num_classes"),
    ("loss/focal", "classification"),
    ("loss/mal", "classification"),
    ("optimizer/adamw", "lr"),
    ("optimizer/adamw", "weight_decay"),
    ("optimizer/sgd", "momentum"),
    ("mask_head/product", "alpha"),  # cross-entropy, as its authors have it
    ("mask_head/product", "gamma"),
    ("mask_head/product", "weight"),
    ("transformer/decoder/d_fine", "num_points"),
    ("augmentation/detr", "exact"),  # a run is faster; who calls the constructor gets the official pixels,
    ("augmentation/square", "exact"),
    *((f"dataset/{name}", "cache") for name in OPTIONS["dataset"]),  # and no memory that was not asked for
}


@pytest.mark.parametrize("group", OPTIONS)
def test_defaults_are_those_of_the_constructors(group: str) -> None:
    """Of options that stand on their own: one that inherits from another is there to differ."""
    different = set()
    for option in OPTIONS[group]:
        tree = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"), resolve=False)
        for key, value, default in literals(tree):
            if value != default:
                different.add((f"{group}/{option}", key))
    assert different <= MEANT


def literals(node: Any) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and the constructor's default of every argument that has both."""
    if not isinstance(node, dict):
        return
    arguments = parameters(locate(str(node["_target_"]), "")) or {} if "_target_" in node else {}
    for key, value in node.items():
        yield from literals(value)
        if key in arguments and not isinstance(value, dict) and "${" not in str(value):
            default = arguments[key].default
            if default is not inspect.Parameter.empty:
                yield key, value, list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_part_of_a_pattern_is_found_in_a_parameters_name(experiment: str) -> None:
    values, _ = check(compose([f"experiment={experiment}", "init_from=null"]))
    with torch.device("meta"):
        model = build_model(values, Classes.contiguous({0: ""}), pretrained=False)
    names = [name for name, _ in model.named_parameters()]
    patterns = [*values["optimizer"]["lr_by_pattern"], *(values["optimizer"]["weight_decay_by_pattern"] or {})]
    parts = [part for pattern in patterns for part in ([pattern] if "(" in pattern else pattern.split("|"))]
    assert [part for part in parts if not any(re.search(part, name) for name in names)] == []


@pytest.mark.parametrize(
    ("words", "levels", "trainable"),
    [
        (["backbone=resnet18"], [-3, -2], [r"blocks\.[3-6]|layer[34]|stages_[23]"]),
        (["experiment=dino_r50", "backbone=timm"], [-3, -2, -1], [".*"]),
        (["experiment=finetune_custom", "mask_head=fpn"], [-4, -3, -2, -1], ["layer4|stages_3"]),
        (["experiment=shapes_masks", "backbone=resnet50"], [-4, -3, -2, -1], [r"blocks\.[3-6]|layer[34]|stages_[23]"]),
        (["mask_head=fpn"], [-3, -2], [r"blocks\.[3-6]|layer[34]|stages_[23]"]),
        (["~experiment"], ["layer4"], ["layer2", "layer3", "layer4"]),
        (["backbone=resnet18", "backbone.levels=[-1]"], [-1], [r"blocks\.[3-6]|layer[34]|stages_[23]"]),
    ],
)
def test_backbones_that_ask_get_what_experiments_and_mask_heads_set(
    words: list[str], levels: list[int | str], trainable: list[str]
) -> None:
    node = compose(words).backbone
    assert (node.levels, node.trainable) == (levels, trainable)


def test_an_experiment_of_ones_own_sets_keys_of_backbones_that_ask(tmp_path: Path) -> None:
    for folder in ("experiment", "backbone/_features"):
        (tmp_path / folder).mkdir(parents=True)
    text = "# @package _global_\ndefaults: [quickstart, {override /_features: %s}]\n"
    (tmp_path / "experiment/mine.yaml").write_text(text % "last")
    (tmp_path / "experiment/wrong.yaml").write_text(text % "lsat")
    (tmp_path / "experiment/plain.yaml").write_text("# @package _global_\ndefaults: [quickstart]\n")
    (tmp_path / "backbone/_features/last.yaml").write_text("levels: [-1]\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "backbone=resnet18"]
    assert compose([*words, "experiment=mine"]).backbone.levels == [-1]
    assert compose([*words, "experiment=plain"]).backbone.levels == [-3, -2]
    with pytest.raises(HydraException, match="_features/lsat"):
        compose([*words, "experiment=wrong"])
