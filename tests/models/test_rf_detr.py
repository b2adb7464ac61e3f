"""RF-DETR and LW-DETR against Hugging Face's with the same weights, and what is their own."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from builders import random_images, random_targets
from safetensors.torch import load_file
from torch import Tensor, nn

from detr.models.backbones.dinov2 import DinoV2
from detr.models.backbones.plain_vit import PlainViT
from detr.models.box_coder import RelativeBoxCoder
from detr.models.deformable import DeformableDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.groups import GroupMatching
from detr.models.grouped_two_stage import GroupedTwoStageQueries
from detr.models.layers import LayerConfig
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.projector import C2fProjector
from detr.weights.layouts import lw_detr, rf_detr

Family = Literal["rf", "lw"]
CLASSES, QUERIES, GROUPS, WIDTH = 5, 6, 3, 32


def detector(family: Family, *, scales: tuple[float, ...] = (1.0,), width: int = 24) -> DETR:
    """A small one of the family, with parts of a size each."""
    backbone: Any
    if family == "rf":
        backbone = DinoV2(
            width=width, depth=5, num_heads=2, global_blocks=(1, 4), levels=(1, 4), grid=6, weights=None, windows=2
        )
    else:
        backbone = PlainViT(width=width, depth=4, num_heads=2, global_blocks=(1, 3), levels=(2, 3, 4), grid=5)
    return DETR(
        backbone=backbone,
        neck=functools.partial(
            C2fProjector,
            d_model=WIDTH,
            position_embedding=SinePositionEmbedding(d_model=WIDTH),
            scales=scales,
            num_levels=len(scales),
            normalization="layer" if family == "rf" else "batch",
        ),
        encoder=TransformerEncoder(layer=LayerConfig(d_model=WIDTH, num_heads=4), num_layers=0),
        decoder=DeformableDecoder(
            layer=LayerConfig(d_model=WIDTH, num_heads=4, dim_feedforward=40, dropout=0.0),
            box_coder=RelativeBoxCoder(),
            num_layers=2,
            num_levels=len(scales),
            num_points=2,
            refine=False,
            final_norm=True,
            cross_heads=8,
            place_in_padded=True,
        ),
        queries=functools.partial(
            GroupedTwoStageQueries, num_queries=QUERIES, d_model=WIDTH, box_coder=RelativeBoxCoder()
        ),
        one_to_many=GroupMatching(groups=GROUPS),
        num_classes=CLASSES,
        d_model=WIDTH,
        classification="sigmoid",
    )


def theirs_of(family: Family, config: dict[str, Any]) -> nn.Module:
    """Hugging Face's detector with values that matter everywhere."""
    from transformers import LwDetrConfig, LwDetrForObjectDetection, RfDetrConfig, RfDetrForObjectDetection

    torch.manual_seed(0)
    config = {**config, "num_labels": CLASSES}
    if family == "rf":
        model: nn.Module = RfDetrForObjectDetection(RfDetrConfig(**config))
    else:
        model = LwDetrForObjectDetection(LwDetrConfig(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
    return model


def saved(model: nn.Module) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        return load_file(Path(folder) / "model.safetensors")


CASES = {
    "rf": ("rf", (1.0,), 24, [(96, 96)]),
    "rf_other_size": ("rf", (1.0,), 24, [(128, 128), (96, 128)]),
    "lw": ("lw", (1.0,), 24, [(128, 128), (64, 96)]),
    "lw_two_levels": ("lw", (2.0, 0.5), 24, [(64, 192), (64, 100)]),
    "lw_two_levels_of_wide": ("lw", (2.0, 0.5), 520, [(128, 128)]),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_same_numbers(case: str, training: bool) -> None:
    """Logits and boxes of the last layer and of the proposals; while training, of all groups."""
    family, scales, width, sizes = CASES[case]
    ours = detector(family, scales=scales, width=width)  # type: ignore[arg-type]
    layout = rf_detr if family == "rf" else lw_detr
    theirs = theirs_of(family, layout.config_of(ours))  # type: ignore[arg-type]
    ours.load_state_dict(layout.to_ours(saved(theirs)), strict=True)
    ours, theirs = ours.double().train(training), theirs.double().train(training)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images, padding = random_images(sizes)
    images = images.double()
    predictions = ours(images, padding)
    expected = theirs(pixel_values=ours.backbone.normalize(images, padding), pixel_mask=(~padding).long())
    groups = predictions.groups
    logits = [predictions.logits[-1], *([groups["one_to_many"].outputs.logits[-1]] if training else [])]
    boxes = [predictions.boxes[-1], *([groups["one_to_many"].outputs.boxes[-1]] if training else [])]
    proposals = [groups[name].outputs for name in ("encoder", *(["encoder_further"] if training else []))]
    found = {
        "logits": torch.cat(logits, 1),
        "pred_boxes": torch.cat(boxes, 1),
        "enc_outputs_class": torch.cat([each.logits[0] for each in proposals], 1),
        "enc_outputs_coord_logits": torch.cat([each.boxes[0] for each in proposals], 1),
    }
    for name, mine in found.items():
        assert mine.std(1).mean() > 1e-2, name  # queries differ: the comparison is not one of constants
        torch.testing.assert_close(mine, expected[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: name + text)
