"""Names and shapes of the official weights, written down from the reference repository's models, not from ours.

models/backbone.py (a torchvision ResNet in an IntermediateLayerGetter, FrozenBatchNorm2d), models/transformer.py,
models/detr.py, models/segmentation.py of facebookresearch/detr; sizes of hubconf.py.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # of ResNet-50; (3, 4, 23, 3) of ResNet-101
    dilation: bool = False  # DC5: no name or shape depends on it
    masks: bool = False
    classes: int = 91
    width: int = 256
    heads: int = 8
    feed_forward: int = 2048
    layers: int = 6
    queries: int = 100


R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
ARCHITECTURES = {
    "detr_r50": Architecture(R50),
    "detr_r50_dc5": Architecture(R50, dilation=True),
    "detr_r101": Architecture(R101),
    "detr_r101_dc5": Architecture(R101, dilation=True),
    "detr_r50_panoptic": Architecture(R50, masks=True, classes=250),
    "detr_r50_dc5_panoptic": Architecture(R50, dilation=True, masks=True, classes=250),
    "detr_r101_panoptic": Architecture(R101, masks=True, classes=250),
}


def official_shapes(architecture: Architecture) -> Shapes:
    """Every entry of the official model's state dict."""
    detector = detector_shapes(architecture)
    if not architecture.masks:
        return detector
    return {f"detr.{name}": shape for name, shape in detector.items()} | mask_shapes(architecture)


def detector_shapes(architecture: Architecture) -> Shapes:
    width, hidden = architecture.width, architecture.feed_forward
    shapes: Shapes = {}
    for layer in range(architecture.layers):
        encoder = f"transformer.encoder.layers.{layer}"
        shapes |= attention(f"{encoder}.self_attn", width)
        shapes |= linear(f"{encoder}.linear1", width, hidden) | linear(f"{encoder}.linear2", hidden, width)
        shapes |= norm(f"{encoder}.norm1", width) | norm(f"{encoder}.norm2", width)
    for layer in range(architecture.layers):
        decoder = f"transformer.decoder.layers.{layer}"
        shapes |= attention(f"{decoder}.self_attn", width) | attention(f"{decoder}.multihead_attn", width)
        shapes |= linear(f"{decoder}.linear1", width, hidden) | linear(f"{decoder}.linear2", hidden, width)
        shapes |= norm(f"{decoder}.norm1", width) | norm(f"{decoder}.norm2", width) | norm(f"{decoder}.norm3", width)
    shapes |= norm("transformer.decoder.norm", width)
    shapes |= linear("class_embed", width, architecture.classes + 1)
    shapes |= linear("bbox_embed.layers.0", width, width) | linear("bbox_embed.layers.1", width, width)
    shapes |= linear("bbox_embed.layers.2", width, 4)
    shapes["query_embed.weight"] = (architecture.queries, width)
    shapes |= convolution("input_proj", 2048, width, 1)
    return shapes | resnet("backbone.0.body", architecture.blocks)


def resnet(prefix: str, blocks: tuple[int, ...]) -> Shapes:
    """Bottleneck blocks; the expansion is 4."""
    shapes = {f"{prefix}.conv1.weight": (64, 3, 7, 7)} | frozen_norm(f"{prefix}.bn1", 64)
    channels = 64
    for stage, count in enumerate(blocks):
        narrow = 64 * 2**stage
        for block in range(count):
            name = f"{prefix}.layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (narrow, channels, 1, 1)
            shapes[f"{name}.conv2.weight"] = (narrow, narrow, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * narrow, narrow, 1, 1)
            shapes |= frozen_norm(f"{name}.bn1", narrow) | frozen_norm(f"{name}.bn2", narrow)
            shapes |= frozen_norm(f"{name}.bn3", 4 * narrow)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * narrow, channels, 1, 1)
                shapes |= frozen_norm(f"{name}.downsample.1", 4 * narrow)
            channels = 4 * narrow
    return shapes


def mask_shapes(architecture: Architecture) -> Shapes:
    width = architecture.width
    first = width + architecture.heads
    widths = [first, width // 2, width // 4, width // 8, width // 16]
    shapes = linear("bbox_attention.q_linear", width, width) | linear("bbox_attention.k_linear", width, width)
    before = first
    for index, after in enumerate(widths, start=1):
        shapes |= convolution(f"mask_head.lay{index}", before, after, 3) | norm(f"mask_head.gn{index}", after)
        before = after
    shapes |= convolution("mask_head.out_lay", before, 1, 3)
    for index, (channels, after) in enumerate(zip((1024, 512, 256), widths[1:4], strict=True), start=1):
        shapes |= convolution(f"mask_head.adapter{index}", channels, after, 1)
    return shapes


def attention(name: str, width: int) -> Shapes:
    joined = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return joined | linear(f"{name}.out_proj", width, width)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def convolution(name: str, inputs: int, outputs: int, size: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, size, size), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def frozen_norm(name: str, width: int) -> Shapes:
    return {f"{name}.{each}": (width,) for each in ("weight", "bias", "running_mean", "running_var")}


def random_weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Values under which activations neither vanish nor blow up, and no norm or bias is without effect."""
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            return 1 + 0.2 * noise.clamp(-3, 3)
        if len(shape) > 1:
            inputs = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
            # Queries are far apart: else all of them would give nearly the same answer.
            if re.search(r"class_(embed|labels)", name):
                return noise  # and their classes differ
            return 4 * noise if re.search("query_embed|query_position", name) else noise * (2 / inputs) ** 0.5
        if name.endswith("weight"):
            end_of_block = re.search(r"\.bn3\.|\.layer\.2\.normalization\.", name)
            return (0.3 if end_of_block else 1.0) * (1 + 0.1 * noise)
        return 0.1 * noise

    return {name: value(name, shape) for name, shape in shapes.items()}


def write_official(path: Path, architecture: Architecture, *, training: bool = False, seed: int = 0) -> Path:
    """A file as the published ones are, or as main.py leaves it."""
    content: dict[str, object] = {"model": random_weights(official_shapes(architecture), seed)}
    if training:
        content |= {
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
            "lr_scheduler": {"step_size": 200, "gamma": 0.1, "last_epoch": 3},
            "epoch": 3,
            "args": argparse.Namespace(lr=1e-4, backbone="resnet50", nheads=architecture.heads, masks=False),
        }
    torch.save(content, path)
    return path
