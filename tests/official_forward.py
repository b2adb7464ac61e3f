"""The official DETR's forward pass, written out over its own names: what a state dict means, not only what it holds.

After models/transformer.py (post-norm), models/position_encoding.py and models/segmentation.py of
facebookresearch/detr. The backbone is torchvision's, whose names the official weights have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision
from official_layout import Architecture
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d


@dataclass
class OfficialModel:
    """Functions of a state dict; `w` without the prefix of the detector in a model with masks."""

    w: dict[str, Tensor]
    architecture: Architecture

    def __call__(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised images [B, 3, H, W] → the last layer's logits and boxes, and masks [B, Q, h, w]."""
        levels = self.backbone(images)
        mask = F.interpolate(padding[None].float(), size=levels[-1].shape[-2:]).bool()[0]
        projected = F.conv2d(levels[-1], self.w["input_proj.weight"], self.w["input_proj.bias"])
        position = self.sines(mask).flatten(2).permute(2, 0, 1)
        memory = projected.flatten(2).permute(2, 0, 1)
        for layer in range(self.architecture.layers):
            memory = self.encode(f"transformer.encoder.layers.{layer}", memory, mask.flatten(1), position)
        queries = self.w["query_embed.weight"][:, None].expand(-1, len(images), -1)
        hidden = torch.zeros_like(queries)
        for layer in range(self.architecture.layers):
            name = f"transformer.decoder.layers.{layer}"
            hidden = self.decode(name, hidden, queries, memory, mask.flatten(1), position)
        hidden = self.norm("transformer.decoder.norm", hidden).transpose(0, 1)
        boxes = F.relu(self.linear("bbox_embed.layers.0", hidden))
        boxes = self.linear("bbox_embed.layers.2", F.relu(self.linear("bbox_embed.layers.1", boxes))).sigmoid()
        encoded = memory.permute(1, 2, 0).view_as(projected)
        masks = self.masks(hidden, encoded, mask, projected, levels) if self.architecture.masks else None
        return self.linear("class_embed", hidden), boxes, masks

    def backbone(self, images: Tensor) -> list[Tensor]:
        network = torchvision.models.get_model(
            "resnet101" if self.architecture.blocks[2] == 23 else "resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, self.architecture.dilation],
        ).eval()
        body = {name.removeprefix("backbone.0.body."): each for name, each in self.w.items() if "0.body." in name}
        found = network.load_state_dict(body, strict=False)
        assert found.missing_keys == ["fc.weight", "fc.bias"]
        assert not found.unexpected_keys
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        levels = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
            levels.append(x)
        return levels

    def sines(self, mask: Tensor) -> Tensor:
        half = self.architecture.width // 2
        step = torch.arange(half, dtype=torch.float32)
        step = 10000 ** (2 * torch.div(step, 2, rounding_mode="floor") / half)
        sides = []
        for axis in (1, 2):
            count = (~mask).cumsum(axis, dtype=torch.float32)
            count = count / (count.narrow(axis, -1 % count.shape[axis], 1) + 1e-6) * 2 * torch.pi
            angle = count[..., None] / step
            sides.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
        return torch.cat(sides, dim=3).permute(0, 3, 1, 2)

    def encode(self, name: str, x: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        x = self.norm(f"{name}.norm1", x + self.attention(f"{name}.self_attn", x + position, x + position, x, mask))
        return self.norm(f"{name}.norm2", x + self.feed_forward(name, x))

    def decode(self, name: str, x: Tensor, query: Tensor, memory: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        x = self.norm(f"{name}.norm1", x + self.attention(f"{name}.self_attn", x + query, x + query, x))
        found = self.attention(f"{name}.multihead_attn", x + query, memory + position, memory, mask)
        x = self.norm(f"{name}.norm2", x + found)
        return self.norm(f"{name}.norm3", x + self.feed_forward(name, x))

    def masks(self, hidden: Tensor, memory: Tensor, mask: Tensor, projected: Tensor, levels: list[Tensor]) -> Tensor:
        """The attention map and the convolutions above it."""
        images, queries, width = hidden.shape
        heads = self.architecture.heads
        q = self.linear("bbox_attention.q_linear", hidden).view(images, queries, heads, width // heads)
        weight, bias = self.w["bbox_attention.k_linear.weight"], self.w["bbox_attention.k_linear.bias"]
        k = F.conv2d(memory, weight[..., None, None], bias).view(images, heads, width // heads, *memory.shape[-2:])
        attention = torch.einsum("bqnc,bnchw->bqnhw", q * (width / heads) ** -0.5, k)
        attention = attention.masked_fill(mask[:, None, None], -torch.inf)
        attention = attention.flatten(2).softmax(-1).view_as(attention)
        x = torch.cat([self.each_query(projected, queries), attention.flatten(0, 1)], 1)
        x = self.block(2, self.block(1, x))
        for index, level in enumerate((levels[2], levels[1], levels[0]), start=1):
            finer = self.each_query(self.convolve(f"mask_head.adapter{index}", level, 0), queries)
            x = self.block(index + 2, finer + F.interpolate(x, size=finer.shape[-2:], mode="nearest"))
        return self.convolve("mask_head.out_lay", x).view(images, queries, *x.shape[-2:])

    def each_query(self, x: Tensor, queries: int) -> Tensor:
        return x[:, None].expand(-1, queries, -1, -1, -1).flatten(0, 1)

    def block(self, index: int, x: Tensor) -> Tensor:
        norm = f"mask_head.gn{index}"
        x = self.convolve(f"mask_head.lay{index}", x)
        return F.relu(F.group_norm(x, 8, self.w[f"{norm}.weight"], self.w[f"{norm}.bias"]))

    def convolve(self, name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], padding=padding)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.linear2", F.relu(self.linear(f"{name}.linear1", x)))

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        q_weight, k_weight, v_weight = self.w[f"{name}.in_proj_weight"].chunk(3)
        q_bias, k_bias, v_bias = self.w[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.architecture.heads, -1)).permute(1, 2, 0, 3)
            for x, weight, bias in ((q, q_weight, q_bias), (k, k_weight, k_bias), (v, v_weight, v_bias))
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None], -torch.inf)
        found = (scores.softmax(-1) @ v).permute(2, 0, 1, 3).flatten(2)
        return self.linear(f"{name}.out_proj", found)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])
