"""DETR-R50 twice with the same random weights: ours as the paper's experiment builds it, and the one of `transformers`.

91 classes; the same parts learn, with auxiliary losses, and the paper's dropout in all the same places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.layouts.blocks import TIMMS_RESNET, their_names
from detr.weights.layouts.detr import FAMILY, TABLE

CLASSES = 91
DROPOUT = 0.1


def values() -> Any:
    """Return the config of `experiment=detr_r50_coco`, without weights of ImageNet."""
    return resolved(compose(["experiment=detr_r50_coco", "backbone.weights=null"]))


def ours() -> DETR:
    """Return our detector; what norms do to a picture is a little different in each channel."""
    torch.manual_seed(0)
    names = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    model = build_model(values(), names, pretrained=False)
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            buffer.normal_(0, 0.1)
        elif name.endswith("bn3.weight"):  # lower at the end of a block, so that 16 of them do not blow up
            buffer.uniform_(0.2, 0.6)
    return model


def theirs(model: DETR) -> nn.Module:
    """Return theirs with the weights of ours, learning where it learns."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config: Any = DetrConfig(
        backbone_config=ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        num_labels=CLASSES,
        auxiliary_loss=True,
        dropout=DROPOUT,
        attention_dropout=DROPOUT,
        activation_dropout=DROPOUT,
    )
    table = [row for row in TABLE if row not in TIMMS_RESNET]
    state = their_names(dict(model.state_dict()), table, FAMILY, "ours")
    peer: Any = DetrForObjectDetection.from_pretrained(None, config=config, state_dict=state)
    for name, parameter in peer.named_parameters():  # stem and first stage do not learn
        parameter.requires_grad_("embedder" not in name and "encoder.stages.0" not in name)
    return peer


def objects(images: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return labels and boxes of each image, which has so many."""
    sizes = torch.rand(images, count, 2) * 0.3 + 0.1
    centres = sizes / 2 + (1 - sizes) * torch.rand(images, count, 2)
    return list(torch.randint(CLASSES, (images, count))), list(torch.cat([centres, sizes], -1))
