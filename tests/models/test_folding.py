"""Frozen batch norms that are part of a convolution, against the two one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.backbone import Backbone, ResNet, Timm
from detr.models.folding import FoldedConvolution, FrozenBatchNorm

NETWORKS = {
    "resnet18": lambda: ResNet(name="resnet18", weights=None),
    "resnet50": lambda: ResNet(name="resnet50", weights=None, dilation=True),
    "same padding": lambda: Timm(name="tf_efficientnet_lite0", weights=None, levels=[-2, -1]),
    "activations in norms": lambda: Timm(name="mobilenetv3_small_100", weights=None),
    "norms before convolutions": lambda: Timm(name="densenet121", weights=None, levels=[2]),
    "biases": lambda: Timm(name="vgg11_bn", weights=None, levels=[2]),
}


def with_norms_that_matter(backbone: Backbone) -> Backbone:
    """In double precision."""
    torch.manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm):
            module.weight.uniform_(0.5, 1.2)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return backbone.double()


def unfolded(backbone: Backbone) -> Backbone:
    """A copy in which convolutions and norms come one after the other."""
    twin = copy.deepcopy(backbone)
    for name, module in list(twin.named_modules()):
        if isinstance(module, FrozenBatchNorm):
            module.folded = False
        elif isinstance(module, FoldedConvolution):
            twin.set_submodule(name, Plain(module))
    return twin


class Plain(nn.Module):
    """The convolution alone."""

    def __init__(self, convolution: FoldedConvolution) -> None:
        super().__init__()
        self.weight, self.bias, self.like = convolution.weight, convolution.bias, (convolution,)

    def forward(self, x: Tensor) -> Tensor:
        (like,) = self.like
        if like.same:
            sides = [
                max((-(-size // stride) - 1) * stride + kernel - size, 0)
                for size, kernel, stride in zip(x.shape[-2:], like.kernel_size, like.stride, strict=True)
            ]
            x = F.pad(x, [side for total in reversed(sides) for side in (total // 2, total - total // 2)])
        return F.conv2d(x, self.weight, self.bias, like.stride, like.padding, like.dilation, like.groups)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_and_gradients_are_those_of_convolution_and_norm(name: str) -> None:
    backbone = with_norms_that_matter(NETWORKS[name]())
    assert any(isinstance(module, FoldedConvolution) for module in backbone.modules())
    twin = unfolded(backbone)
    assert list(backbone.state_dict()) == list(twin.state_dict())
    images = torch.randn(2, 3, 75, 101, dtype=torch.float64)
    gradients = []
    for each in (backbone, twin):
        levels = each(images)
        gradients.append((levels, torch.autograd.grad(sum(level.square().mean() for level in levels), learning(each))))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0][1])


def learning(backbone: Backbone) -> list[Tensor]:
    """Parameters that reach the features."""
    return [each for name, each in backbone.named_parameters() if each.requires_grad and "head" not in name]


def test_every_norm_of_a_resnet_is_folded() -> None:
    backbone = ResNet(name="resnet50", weights=None)
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm)]
    assert len(norms) == 53
    assert all(norm.folded for norm in norms)


def test_new_weights_count_at_once() -> None:
    """Whatever way they come: nothing that is made of them is kept."""
    backbone = ResNet(name="resnet18", weights=None).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        backbone(images)
    other = with_norms_that_matter(ResNet(name="resnet18", weights=None)).float().eval()
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
    assert (twin(images.double())[0] - before).abs().max() > 1e-3
