"""The ResNet-D of RT-DETR (He et al. 2019, "Bag of tricks", section 4.2; lyuwenyu/RT-DETR, backbone/presnet.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from detr.models.backbone import ResNet
from detr.models.hub import download_timeout, no_download
from detr.texts import name_rule

RELEASE = "https://github.com/lyuwenyu/storage/releases/download/v0.1"
FILES = {
    "resnet18": "ResNet18_vd_pretrained_from_paddle.pth",
    "resnet34": "ResNet34_vd_pretrained_from_paddle.pth",
    "resnet50": "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth",
    "resnet101": "ResNet101_vd_ssld_pretrained_from_paddle.pth",
}

STEM = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))  # timm's convolutions and their norms

# The authors' names and timm's; see `name_rule`.
AUTHORS = (
    *(
        row
        for number, (convolution, norm) in enumerate(STEM, 1)
        for row in ((f"conv1.conv1_{number}.conv.*", f"{convolution}.*"), (f"conv1.conv1_{number}.norm.*", f"{norm}.*"))
    ),
    *(
        (f"res_layers.{stage}.blocks.*.branch2{'abc'[index]}.{kind}.*", f"layer{stage + 1}.*.{ours}{index + 1}.*")
        for stage in range(4)
        for index in range(3)
        for kind, ours in {"conv": "conv", "norm": "bn"}.items()
    ),
    *(
        (f"res_layers.{stage}.blocks.*.short.{kind}.*", f"layer{stage + 1}.*.downsample.{index}.*")
        for stage in range(4)
        for index, name in {1: "conv", 2: "norm"}.items()
        for kind in ((f"conv.{name}",) if stage else (name,))  # a pool before it, but in the first stage
    ),
)


class ResNetD(ResNet):
    """Wraps timm's ResNet-D: three convolutions for a stem, and shortcuts that are pooled before they are projected.

    As RT-DETR has it, images are not normalised, and the first block of small networks has a projection, too.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        weights: `imagenet` (the authors', distilled; downloaded), a local state dict with timm's names, or null.
        levels, checkpointing: as for `ResNet`.
        trainable: as for `ResNet`; null: as RT-DETR has it, all of small networks, and of large ones all but the stem.
        frozen_norm: as for `ResNet`; RT-DETR has false for small networks.

    Raises:
        UserError, ValueError: as `ResNet`.
    """

    MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    MODULES = ("conv1", "bn1", "act1", "maxpool", *ResNet.LEVELS)

    def __init__(
        self,
        *,
        name: str = "resnet50",
        weights: str | None = "imagenet",
        levels: Sequence[str | int] = ("layer2", "layer3", "layer4"),
        trainable: Sequence[str] | None = None,
        frozen_norm: bool = True,
        checkpointing: bool = False,
    ) -> None:
        if trainable is None:
            trainable = [".*"] if name in ("resnet18", "resnet34") else ["layer"]
        super().__init__(
            name=name,
            weights=weights,
            levels=levels,
            trainable=trainable,
            frozen_norm=frozen_norm,
            checkpointing=checkpointing,
        )

    def network(self, name: str, *, dilation: bool) -> Any:
        network: Any = timm.create_model(f"{name}d", pretrained=False)
        first = network.layer1[0]
        if first.downsample is None:
            first.downsample = nn.Sequential(nn.Identity(), nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64))
            nn.init.kaiming_normal_(first.downsample[1].weight, mode="fan_out", nonlinearity="relu")
        return network

    def pretrained(self, name: str) -> dict[str, Tensor]:
        try:
            with download_timeout():
                theirs = torch.hub.load_state_dict_from_url(
                    f"{RELEASE}/{FILES[name]}", map_location="cpu", weights_only=True
                )
        except (OSError, RuntimeError) as error:  # no connection
            raise no_download(f"{name}_d", error) from error
        return timm_names(theirs)


def timm_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' weights under timm's names; those that a ResNet-D has no place for are left out."""
    rules = [name_rule(pattern, ours) for pattern, ours in AUTHORS]
    matches = ((rule.fullmatch(name), ours, tensor) for name, tensor in theirs.items() for rule, ours in rules)
    return {match.expand(ours): tensor for match, ours, tensor in matches if match}
