"""The optimizer: groups of parameters by name pattern, by layer of the backbone and by weight decay."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from detr.models.detr import DETR
from detr.patterns import check_patterns

log = logging.getLogger(__name__)


class Setting(NamedTuple):
    """Holds how the parameters of a group learn."""

    lr: float
    weight_decay: float


def adamw(
    *,
    model: nn.Module,
    lr: float = 1e-4,
    weight_decay: float = 1e-4,
    lr_by_pattern: Mapping[str, float] | None = None,
    weight_decay_by_pattern: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter 2019) over groups of parameters; the paper decays the weights of all of them.

    Args:
        model: whose parameters; those with a learning rate of 0 are frozen.
        lr: of parameters that no pattern matches.
        weight_decay: of parameters that no pattern matches.
        lr_by_pattern: regular expression → learning rate; the first that is found in a parameter's name counts.
        weight_decay_by_pattern: regular expression → weight decay, likewise.
        layer_decay: each stage of the backbone learns this much slower than the one behind it, the last one this much
            slower than its learning rate says (BEiT, Bao et al. 2022); null: all alike.

    Raises:
        ValueError: a number out of its range, a pattern that is no regular expression or matches no parameter, or
            nothing left to train.
    """
    groups = parameter_groups(
        model, Setting(lr, weight_decay), lr_by_pattern or {}, weight_decay_by_pattern or {}, layer_decay
    )
    for setting, parameters in groups.items():
        for parameter in parameters:
            parameter.requires_grad_(parameter.requires_grad and setting.lr > 0)
    trained = [
        {"params": learning, **setting._asdict()}
        for setting, parameters in groups.items()
        if (learning := [parameter for parameter in parameters if parameter.requires_grad])
    ]
    if not trained:
        raise ValueError("every parameter is frozen; give optimizer.lr above 0")
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)  # the same sums in one pass


def parameter_groups(
    model: nn.Module,
    default: Setting,
    lr_by_pattern: Mapping[str, float],
    weight_decay_by_pattern: Mapping[str, float],
    layer_decay: float | None = None,
) -> dict[Setting, list[nn.Parameter]]:
    """Sort parameters by how they learn: those that no pattern matches first, then pattern by pattern."""
    _check_at_least_0({"lr": default.lr, "weight_decay": default.weight_decay})
    _check_at_least_0({f"lr_by_pattern.{pattern}": rate for pattern, rate in lr_by_pattern.items()})
    _check_at_least_0({f"weight_decay_by_pattern.{key}": decay for key, decay in weight_decay_by_pattern.items()})
    rates = _by_pattern("lr_by_pattern", model, lr_by_pattern, default.lr)
    decays = _by_pattern("weight_decay_by_pattern", model, weight_decay_by_pattern, default.weight_decay)
    factors = {} if layer_decay is None else _by_stage(model, layer_decay)
    parameters = dict(model.named_parameters())
    order = {rate: place for place, rate in enumerate(dict.fromkeys([default.lr, *lr_by_pattern.values()]))}
    groups: dict[Setting, list[nn.Parameter]] = {}
    for name in sorted(parameters, key=lambda name: order[rates[name]]):
        setting = Setting(rates[name] * factors.get(name, 1.0), decays[name])
        groups.setdefault(setting, []).append(parameters[name])
    return groups


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, but leave batch norms that are frozen their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def _by_pattern(key: str, model: nn.Module, patterns: Mapping[str, float], default: float) -> dict[str, float]:
    """Parameter name → the value of the first pattern that is found in it."""
    check_patterns(key, patterns)
    found = {}
    for name, _ in model.named_parameters():
        found[name] = next((pattern for pattern in patterns if re.search(pattern, name)), None)
    unused = [pattern for pattern in patterns if pattern not in found.values()]
    if unused:
        tops = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{key}: {unused[0]} is not found in any parameter's name; names start with {tops}")
    return {name: default if pattern is None else patterns[pattern] for name, pattern in found.items()}


def _by_stage(model: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name → factor of its learning rate, of the backbone's parameters."""
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay: expected a number above 0 and at most 1, got {decay}")
    assert isinstance(model, DETR)
    stages = model.backbone.stage_of()
    if len(set(stages.values())) < 2:
        raise ValueError("layer_decay: this backbone does not say which parameters belong to which stage")
    count = max(stages.values(), default=0) + 1
    return {f"backbone.{name}": decay ** (count - stage) for name, stage in stages.items()}


def _check_at_least_0(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected a number of at least 0, got {value}")
