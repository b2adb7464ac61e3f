"""What the layers of encoders and decoders are made of."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from detr.models.operations import Attention, Dropout, Linear

NORM_GROUPS = 32  # of group norm, as in Deformable DETR's neck

Activation = Literal["relu", "gelu", "silu", "glu", "prelu"]
MLPActivation = Literal["relu", "silu"]
Normalization = Literal["batch", "group", "layer"]  # of maps
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "glu": F.glu,
}


@dataclass(frozen=True)
class LayerConfig:
    """Holds the settings of one layer of a transformer (Vaswani et al. 2017).

    Args:
        d_model: width of queries and tokens.
        num_heads: of attention.
        dim_feedforward: width between the two linear layers.
        dropout: in attention, between the linear layers and behind each sublayer.
        activation: between the linear layers; glu gates one half with the other, prelu learns its slope (DAB-DETR).
        pre_norm: layer norm before each sublayer, with a final one; the paper normalises after it and has no final one.

    Raises:
        ValueError: a width below 1, or heads that do not divide it.
    """

    d_model: int = 256
    num_heads: int = 8
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: Activation = "relu"
    pre_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "dim_feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.num_heads < 1 or self.d_model % self.num_heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}")


class ResidualLayer(nn.Module):
    """Offers what encoder and decoder layers share: residual sublayers with layer norm after (paper) or before them.

    Args:
        sublayers: how many; each has a norm and a dropout of its own, called norm1, dropout1, ….
    """

    def __init__(self, config: LayerConfig, *, sublayers: int) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        for number in range(1, sublayers + 1):
            self.add_module(f"norm{number}", nn.LayerNorm(config.d_model))
            self.add_module(f"dropout{number}", Dropout(config.dropout))

    def residual(self, number: int, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add what sublayer `number`, from 1, makes of x [B, T, D]."""
        norm, dropout = self.get_submodule(f"norm{number}"), self.get_submodule(f"dropout{number}")
        if self.pre_norm:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))


class MLP(nn.Module):
    """Applies linear layers with ReLU or SiLU between them; maps [..., in_features] to [..., out_features]."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_layers: int,
        activation: MLPActivation = "relu",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        sizes = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Applies the two linear layers of a transformer layer: [..., D] → [..., D]."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        activation, width = config.activation, config.dim_feedforward
        self.activation = nn.PReLU() if activation == "prelu" else ACTIVATIONS[activation]
        self.linear1 = Linear(config.d_model, width * (2 if activation == "glu" else 1))
        self.dropout = Dropout(config.dropout)
        self.linear2 = Linear(width, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def multihead_attention(config: LayerConfig) -> Attention:
    """Build attention as the paper's layers have it."""
    return Attention(config.d_model, config.num_heads, config.dropout)


def xavier_uniform(module: nn.Module) -> None:
    """Initialise every matrix of `module`, as the paper does for its transformer and for nothing else."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def group_norm(d_model: int) -> nn.GroupNorm:
    """Build group norm of the transformer's width.

    Raises:
        ValueError: a width that cannot be grouped.
    """
    if d_model % NORM_GROUPS:
        raise ValueError(f"transformer.d_model: expected a multiple of {NORM_GROUPS} for group norm, got {d_model}")
    return nn.GroupNorm(NORM_GROUPS, d_model)


NORMS: dict[Normalization, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(NORM_GROUPS, width), width),  # parts may be narrow
    "layer": functools.partial(LayerNorm2d, eps=1e-6),
}


def convolution(
    before: int,
    after: int,
    size: int,
    normalization: Normalization = "batch",
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.SiLU,
) -> nn.Sequential:
    """Return a convolution without bias, its norm and an activation: [B, before, h, w] → [B, after, h / stride, …]."""
    kernel = nn.Conv2d(before, after, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(kernel, NORMS[normalization](after), activation())


def frozen_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that have parameters, none of which learns."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
    else:
        for child in module.children():
            yield from frozen_parts(child)
