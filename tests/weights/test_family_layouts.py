"""Weights of DETR's relatives: transformers writes them, they answer alike here, and written back it reads them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.checkpoint import load_weights
from detr.weights.layouts import conditional_detr, dab_detr, deformable_detr, rt_detr

CLASSES = Classes.contiguous({index: str(index) for index in range(5)})
SMALL = (
    *("~experiment", "backbone.weights=null", "queries.num_queries=6", "transformer.decoder.num_layers=2"),
    *("transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=48"),
)
PLAIN, FEW = ("backbone=resnet18",), ("transformer.encoder.num_layers=1",)
DETECTORS: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "conditional_detr_r50": (conditional_detr, (*PLAIN, *FEW)),
    "dab_detr_r50": (dab_detr, (*PLAIN, *FEW)),
    "deformable_detr_r50": (deformable_detr, (*PLAIN, *FEW)),
    "deformable_detr_r50_refine": (deformable_detr, (*PLAIN, *FEW)),
    "deformable_detr_r50_two_stage": (deformable_detr, (*PLAIN, *FEW)),
    "rt_detr_r18": (rt_detr, ()),
    "rt_detr_v2_r18": (rt_detr, ("transformer.decoder.discrete=true", "transformer.encoder.layer.d_model=64")),
}


def detector(name: str, *overrides: str) -> DETR:
    torch.manual_seed(0)
    return build_model(resolved(compose([f"detector={name}", *overrides])), CLASSES, pretrained=False).eval()


def their_model(config: dict[str, Any]) -> nn.Module:
    """With values that matter: zeros and ones that biases and norms start with would hide that they are used."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    torch.manual_seed(1)
    given = AutoConfig.for_model(
        config["model_type"], num_labels=5, **{k: v for k, v in config.items() if k != "model_type"}
    )
    model = AutoModelForObjectDetection.from_config(given)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif "backbone" not in name:
                nn.init.normal_(parameter, 0, 1.5 / parameter[0].numel() ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
    for name in ("class_embed", "bbox_embed"):  # Deformable DETR's may be there twice
        if hasattr(model, name) and isinstance(copy := getattr(model.model.decoder, name, None), nn.ModuleList):
            copy.load_state_dict(getattr(model, name).state_dict())
    return model.eval()


def answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and boxes of the last layer."""
    with torch.no_grad():
        if isinstance(model, DETR):
            said = model(images, torch.zeros_like(images[:, 0], dtype=torch.bool))
            return said.logits[-1], said.boxes[-1]
        found = model(pixel_values=images)
        return found.logits, found.pred_boxes


@pytest.mark.parametrize("name", DETECTORS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForObjectDetection

    layout, overrides = DETECTORS[name]
    ours = detector(name, *SMALL, *overrides)
    theirs = their_model(layout.config_of(ours))
    theirs.save_pretrained(tmp_path / "theirs")
    file = load_file(tmp_path / "theirs" / "model.safetensors")
    with_denoising = {key: value for key, value in ours.state_dict().items() if key.startswith("denoising.")}
    load_weights(ours, with_denoising | layout.to_ours(file), "theirs")

    images = torch.rand(2, 3, 96, 128)
    normalized = ours.backbone.normalize(images, torch.zeros(2, 96, 128, dtype=torch.bool))
    mine, their = answers(ours, images), answers(theirs, normalized)
    assert their[0].std(1).mean() > 1e-3  # queries differ: the comparison is not one of constants
    assert their[1].std(1).mean() > 1e-3
    torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-4)

    written = layout.to_theirs(ours.state_dict())
    for key in file.keys() & written.keys():
        proposes = "class_embed.2" in key  # of two decoder layers and the proposals: of these the first class counts
        torch.testing.assert_close(*(each[key][:1] if proposes else each[key] for each in (written, file)))
    save_file(written, tmp_path / "ours.safetensors", metadata={"format": "pt"})
    (tmp_path / "ours.safetensors").rename(tmp_path / "theirs" / "model.safetensors")
    again, report = AutoModelForObjectDetection.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    lost = {key for found in report.values() for key in found if not key.endswith("n_points_scale")}
    assert not lost
    torch.testing.assert_close(answers(again.eval(), normalized), their, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rt_detr_r18", "rt_detr_r34", "rt_detr_r50", "rt_detr_r101", "dab_detr_r50"])
def test_names_of_configs(name: str) -> None:
    """What a config.json says of a detector with a name is found by it again."""
    layout = rt_detr if name.startswith("rt_detr") else dab_detr
    with torch.device("meta"):
        config = layout.config_of(detector(name, "~experiment", "backbone.weights=null"))
    assert layout.detector_of(config) == name
    assert layout.detector_of(config | {"model_type": "detr"}) is None


@pytest.mark.parametrize("layout", [conditional_detr, dab_detr, deformable_detr, rt_detr])
def test_unknown_names_are_refused(layout: ModuleType) -> None:
    with pytest.raises(UserError, match=r"their file: model\.new\.weight is no weight of"):
        layout.to_ours({"model.new.weight": torch.zeros(1)}, "their file")
    with pytest.raises(UserError, match=r"last\.pt: .+ has no place for decoder\.new\.weight"):
        layout.to_theirs({"decoder.new.weight": torch.zeros(1)}, "last.pt")
