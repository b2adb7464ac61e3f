"""Folders that Hugging Face's transformers reads and writes: a config, weights, and how images are prepared.

Every family has its layout in `detr.weights.layouts`; FAMILIES says which one by the `model_type` of the config.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detr.data.coco_categories import coco_named
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Classes, Classification
from detr.weights.checkpoint import read_pickle

CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin")  # in this order; each may be split and listed in FILE.index.json


class Layout(Protocol):
    """Describes what a module of `detr.weights.layouts` has."""

    def to_ours(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]: ...

    def to_theirs(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]: ...

    def detector_of(self, config: Mapping[str, Any]) -> str | None: ...

    def config_of(self, model: DETR) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Family:
    """Holds what Hugging Face calls a family of detectors, and the module of its layout."""

    module: str
    classes: str  # of transformers: the beginning of their names
    processor: str  # of images
    classification: Classification = "sigmoid"
    denoising: bool = False  # weights of denoising are among theirs
    segmentation: str = "Segmentation"  # the end of the name of the class with masks

    @property
    def layout(self) -> Layout:
        return cast("Layout", importlib.import_module(f"detr.weights.layouts.{self.module}"))


FAMILIES = {
    "detr": Family("detr", "Detr", "DetrImageProcessor", "softmax"),
    "conditional_detr": Family("conditional_detr", "ConditionalDetr", "ConditionalDetrImageProcessor"),
    "dab-detr": Family("dab_detr", "DabDetr", "ConditionalDetrImageProcessor"),
    "deformable_detr": Family("deformable_detr", "DeformableDetr", "DeformableDetrImageProcessor"),
    "rt_detr": Family("rt_detr", "RTDetr", "RTDetrImageProcessor", denoising=True),
    "rt_detr_v2": Family("rt_detr", "RTDetrV2", "RTDetrImageProcessor", denoising=True),
    "d_fine": Family("d_fine", "DFine", "RTDetrImageProcessor", denoising=True),
    "lw_detr": Family("lw_detr", "LwDetr", "DeformableDetrImageProcessor"),
    "rf_detr": Family("rf_detr", "RfDetr", "RfDetrImageProcessor", segmentation="InstanceSegmentation"),
}


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a folder under Hugging Face's names, and its config.

    Raises:
        UserError: no model of a known family, files that are missing or cannot be read.
    """
    config = _read_json(folder / CONFIG)
    if config.get("model_type") not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{folder / CONFIG}: model_type is {config.get('model_type')}; can be read: {known}")
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        weights |= _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    return weights, config


def classes_of(config: Mapping[str, Any]) -> Classes | None:
    """Return the names in id2label; None where there are only the placeholders LABEL_0, LABEL_1, ….

    COCO's 80 or 91 get the data set's own ids and spelling.
    """
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if not labels or all(name == f"LABEL_{index}" for index, name in labels.items()):
        return None
    names = tuple(labels.get(i, Classes.HOLE) for i in range(max(labels) + 1))
    return coco_named(names) or Classes(names, tuple(range(len(names))))


def _weight_files(folder: Path) -> list[Path]:
    for name in FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / part for part in sorted(set(_read_json(index).get("weight_map", {}).values()))]
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"{folder} has a {CONFIG}, but no {' or '.join(FILES)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: truncated, or not a safetensors file ({error})") from error
