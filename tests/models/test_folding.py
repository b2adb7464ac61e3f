"""Frozen batch norms that are part of a convolution, against the libraries' own networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detr.models.backbone import Backbone, ResNet, Timm
from detr.models.backbones.resnet_d import ResNetD
from detr.models.folding import FoldedConvolution, FrozenBatchNorm

NETWORKS: dict[str, Callable[..., Backbone]] = {
    "resnet18": lambda **options: ResNet(name="resnet18", weights=None, **options),
    "resnet50": lambda **options: ResNet(name="resnet50", weights=None, dilation=True, **options),
    "frozen in the middle": lambda **options: ResNet(
        name="resnet18", weights=None, trainable=["layer2"], levels=["layer3", "layer4"], **options
    ),
    "pooled shortcuts": lambda **options: ResNetD(name="resnet50", weights=None, trainable=[".*"], **options),
    "same padding": lambda **options: Timm(
        name="tf_efficientnet_lite0", weights=None, trainable=TRAINABLE, levels=[-2, -1], **options
    ),
    "activations in norms": lambda **options: Timm(name="mobilenetv3_small_100", weights=None, **options),
    "norms before convolutions": lambda **options: Timm(name="densenet121", weights=None, levels=[2], **options),
    "sums in place": lambda **options: Timm(name="resnet18", weights=None, **options),
    "biases": lambda **options: Timm(name="vgg11_bn", weights=None, levels=[2], **options),
}
TRAINABLE = ["blocks"]


def with_norms_that_matter(backbone: Backbone) -> Backbone:
    torch.manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm):
            module.weight.uniform_(0.5, 1.2)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return backbone


def built(name: str, dtype: torch.dtype) -> tuple[Backbone, Backbone]:
    """Ours, and the library's modules as they are, with the same weights."""
    backbone = with_norms_that_matter(NETWORKS[name]())
    twin = NETWORKS[name](frozen_norm=False)
    assert not any(isinstance(module, FrozenBatchNorm | FoldedConvolution) for module in twin.modules())
    found = twin.load_state_dict(backbone.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys)
    return backbone.to(dtype).eval(), twin.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_and_gradients_are_those_of_the_library(name: str, dtype: torch.dtype) -> None:
    backbone, twin = built(name, dtype)
    images = torch.randn(2, 3, 75, 101, dtype=dtype)
    found: list[list[Tensor]] = []
    for each in (backbone, twin):
        levels = each(images)
        names = [key for key, value in backbone.named_parameters() if value.requires_grad and "head" not in key]
        parameters: Any = [dict(each.named_parameters())[key] for key in names]
        gradients = torch.autograd.grad(sum(level.square().mean() for level in levels), parameters)
        found.append([*levels, *gradients])
        with torch.no_grad():
            torch.testing.assert_close(each(images), levels)
    for mine, theirs in zip(*found, strict=True):
        assert theirs.norm() > 0  # in single precision an input of a ReLU can be on the other side of 0
        assert (mine - theirs).norm() / theirs.norm() < (1e-9 if dtype == torch.float64 else 2e-2)


def test_every_norm_of_a_resnet_is_folded() -> None:
    backbone = ResNet(name="resnet50", weights=None)
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm)]
    assert len(norms) == 53
    assert all(norm.folded for norm in norms)


def test_what_is_no_number_reaches_the_features() -> None:
    """So that the check of the losses sees it: some libraries' fused activations make zeros of it."""
    for each in (ResNet(name="resnet18", weights=None), Timm(name="tf_efficientnet_lite0", weights=None)):
        images = torch.rand(1, 3, 64, 64)
        images[..., 32] = torch.nan
        for training in (True, False):
            assert each.train(training)(images)[-1].isnan().any()


def test_new_weights_count_at_once() -> None:
    """Whatever way they come: nothing that is made of them is kept."""
    backbone = ResNet(name="resnet18", weights=None).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        backbone(images)
    other = with_norms_that_matter(ResNet(name="resnet18", weights=None)).eval()
    backbone.load_state_dict(other.state_dict())
    torch.testing.assert_close(backbone(images), other(images), rtol=0, atol=0)
    with torch.no_grad():
        backbone.body["conv1"].weight.data.mul_(2)
    assert (backbone(images)[0] - other(images)[0]).abs().max() > 1e-3


def test_a_copy_has_norms_of_its_own() -> None:
    backbone = ResNet(name="resnet18", weights=None).eval()
    twin, images = copy.deepcopy(backbone), torch.rand(1, 3, 64, 64)
    before = backbone(images)[0]
    with_norms_that_matter(twin)
    torch.testing.assert_close(backbone(images)[0], before, rtol=0, atol=0)
    assert (twin(images)[0] - before).abs().max() > 1e-3
