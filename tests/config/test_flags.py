"""docs/flags.md against the official parser and our own configs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from detr.config import check, compose, override, resolved, unresolved

TABLE = Path(__file__).resolve().parents[2] / "docs" / "flags.md"

# facebookresearch/detr, main.py, get_args_parser; None: no default, False: a switch
OFFICIAL: dict[str, Any] = {
    "lr": 1e-4, "lr_backbone": 1e-5, "batch_size": 2, "weight_decay": 1e-4, "epochs": 300, "lr_drop": 200,
    "clip_max_norm": 0.1, "frozen_weights": None, "backbone": "resnet50", "dilation": False,
    "position_embedding": "sine", "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256,
    "dropout": 0.1, "nheads": 8, "num_queries": 100, "pre_norm": False, "masks": False, "no_aux_loss": False,
    "set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "mask_loss_coef": 1, "dice_loss_coef": 1,
    "bbox_loss_coef": 5, "giou_loss_coef": 2, "eos_coef": 0.1, "dataset_file": "coco", "coco_path": None,
    "coco_panoptic_path": None, "remove_difficult": False, "output_dir": None, "device": "cuda", "seed": 42,
    "resume": None, "start_epoch": 0, "eval": False, "num_workers": 2, "world_size": 1, "dist_url": "env://",
}  # fmt: skip


def rows() -> dict[str, tuple[str, str, str]]:
    """Flag → official default, override and the recipe's value, as the table has them."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if flag := re.fullmatch(r"`--(\w+)`", cells[0].strip("| ")):
            found[flag[1]] = (cells[1], cells[2].strip("`"), cells[3])
    return found


ROWS = rows()
OVERRIDES = {flag: text for flag, (_, text, _) in ROWS.items() if text != "none" and "evaluate.py" not in text}


GROUPS = ("backbone", "position_embedding", "dataset", "mask_head")
OF_MASKS = (
    "mask_loss_coef",
    "dice_loss_coef",
    "coco_panoptic_path",
)  # the recipe is that of experiment=detr_r50_panoptic


def yaml(text: str) -> Any:
    """A cell as OmegaConf reads values: 1e-4 is a number."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[index,call-overload]


@pytest.fixture(scope="module")
def recipe() -> DictConfig:
    return compose(["experiment=detr_r50_coco"])


def test_every_official_flag_is_in_the_table() -> None:
    assert list(ROWS) == list(OFFICIAL)
    assert len(OVERRIDES) > 30


@pytest.mark.parametrize("flag", OFFICIAL)
def test_official_defaults(flag: str) -> None:
    words = {None: "none", False: "off"}
    value = OFFICIAL[flag]
    cell = ROWS[flag][0]
    if value is None or value is False:
        assert cell == words[value]
    else:
        assert yaml(cell) == value


@pytest.fixture(scope="module")
def panoptic() -> DictConfig:
    return compose(["experiment=detr_r50_panoptic"])


@pytest.mark.parametrize("flag", OVERRIDES)
def test_override_and_recipe(flag: str, recipe: DictConfig, panoptic: DictConfig) -> None:
    recipe = panoptic if flag in OF_MASKS else recipe
    key, _, given = OVERRIDES[flag].partition("=")
    stored = unresolved(recipe)
    changed = override(stored, [OVERRIDES[flag]])
    check(changed)
    ours = ROWS[flag][2]
    if key in GROUPS:  # the option that is in the recipe
        assert resolved(override(stored, [f"{key}={ours}"])) == resolved(recipe)
        assert OFFICIAL[flag] in (given, False)
    else:
        assert OmegaConf.select(recipe, key) == yaml(ours)
        assert OmegaConf.select(changed, key) == yaml(given)


def test_switches_change_the_recipe(recipe: DictConfig) -> None:
    """An override for an official switch, which is off by default, does something."""
    for flag in ("dilation", "pre_norm", "no_aux_loss", "masks"):
        assert resolved(override(unresolved(recipe), [OVERRIDES[flag]])) != resolved(recipe)


@pytest.mark.parametrize(
    ("switch", "option"), [("dilation", "backbone=resnet50_dc5"), ("pre_norm", "transformer=detr_pre_norm")]
)
def test_options_that_the_table_calls_the_same(switch: str, option: str, recipe: DictConfig) -> None:
    stored = unresolved(recipe)
    assert resolved(override(stored, [option])) == resolved(override(stored, [OVERRIDES[switch]]))


def test_values_of_the_table_are_the_official_defaults() -> None:
    for flag, text in OVERRIDES.items():
        value = OFFICIAL[flag]
        if isinstance(value, int | float) and not isinstance(value, bool):
            given = yaml(text.partition("=")[2])
            assert given == ([value] if isinstance(given, list) else value), flag
