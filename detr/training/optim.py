"""Optimizers over groups of parameters: by name pattern, by layer of the backbone and by weight decay."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from detr.models.detr import DETR
from detr.texts import check_patterns

log = logging.getLogger(__name__)

Group = dict[str, Any]  # as torch has them: `params`, `lr`, `weight_decay`; and `name`, for metrics

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # the same sums in one pass, on every kind of device


def grouped(
    algorithm: Callable[..., torch.optim.Optimizer],
    *,
    model: nn.Module,
    lr: float | None = None,
    weight_decay: float | None = None,
    lr_by_pattern: Mapping[str, float] | None = None,
    weight_decay_by_pattern: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
    **options: Any,
) -> torch.optim.Optimizer:
    """Build an optimizer over groups of parameters.

    Args:
        algorithm: a class of `torch.optim`, or one like them: it takes `params`, and gets `model` if it takes it.
        model: whose parameters; those with a learning rate of 0 are frozen.
        lr: of parameters that no pattern matches.
        weight_decay: of parameters that no pattern matches; None where the algorithm has none.
        lr_by_pattern: regular expression → learning rate; the last that is found in a parameter's name counts.
        weight_decay_by_pattern: regular expression → weight decay, likewise.
        layer_decay: each stage of the backbone learns this much slower than the one behind it, the last one this much
            slower than its learning rate says (BEiT, Bao et al. 2022); None: all alike.
        options: the algorithm's own.

    Raises:
        ValueError: a number out of its range, a pattern that is no regular expression or matches no parameter, nothing
            left to train, or an algorithm that does not fit the training.
    """
    if lr is None:
        raise ValueError("lr: a value is missing; give it with optimizer.lr=…")
    if weight_decay is None and weight_decay_by_pattern:
        raise ValueError("weight_decay_by_pattern: it needs a weight_decay for all other parameters; 0 is one")
    groups = parameter_groups(model, lr, weight_decay, lr_by_pattern or {}, weight_decay_by_pattern or {}, layer_decay)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(parameter.requires_grad and group["lr"] > 0)
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    trained = [group for group in groups if group["params"]]
    if not trained:
        raise ValueError("every parameter is frozen; give optimizer.lr above 0")
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if "model" in inspect.signature(algorithm).parameters:
        options["model"] = model
    if algorithm in FUSED and "foreach" not in options:
        options.setdefault("fused", True)
    optimizer = algorithm(trained, lr=lr, **options)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(f"{type(optimizer).__name__} computes losses again within a step, which the training does not")
    return optimizer


# The paper's; configs in older checkpoints name it.
adamw = functools.partial(grouped, torch.optim.AdamW, lr=1e-4, weight_decay=1e-4)


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float | None,
    lr_by_pattern: Mapping[str, float],
    weight_decay_by_pattern: Mapping[str, float],
    layer_decay: float | None = None,
) -> list[Group]:
    """Sort parameters by how they learn: those that no pattern matches first, then pattern by pattern.

    A group is called by its patterns: `default`, `backbone`, `backbone.norm_bias`, and with `layer_decay` by the stage,
    too: `backbone.2`.
    """
    _check_at_least_0({"lr": lr, "weight_decay": weight_decay or 0})
    _check_at_least_0({f"lr_by_pattern.{pattern}": rate for pattern, rate in lr_by_pattern.items()})
    _check_at_least_0({f"weight_decay_by_pattern.{key}": decay for key, decay in weight_decay_by_pattern.items()})
    rate_of = _by_pattern("lr_by_pattern", model, lr_by_pattern)
    decay_of = _by_pattern("weight_decay_by_pattern", model, weight_decay_by_pattern)
    stage_of, factors = ({}, {}) if layer_decay is None else _by_stage(model, layer_decay)
    rates: dict[str | None, float] = {None: lr} | dict(lr_by_pattern)
    decays: dict[str | None, float | None] = {None: weight_decay} | dict(weight_decay_by_pattern)
    order = {rate: place for place, rate in enumerate(dict.fromkeys(rates.values()))}
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float | None], Group] = {}
    for name in sorted(parameters, key=lambda name: order[rates[rate_of[name]]]):
        rate, decay = rates[rate_of[name]] * factors.get(name, 1.0), decays[decay_of[name]]
        if (rate, decay) not in groups:
            title = _title(
                rate_of[name], decay_of[name], stage_of.get(name), {group["name"] for group in groups.values()}
            )
            groups[rate, decay] = {"params": [], "lr": rate, "name": title}
            if decay is not None:
                groups[rate, decay]["weight_decay"] = decay
        groups[rate, decay]["params"].append(parameters[name])
    return list(groups.values())


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, but leave batch norms that are frozen their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def _by_pattern(key: str, model: nn.Module, patterns: Mapping[str, float]) -> dict[str, str | None]:
    """Parameter name → the last pattern that is found in it.

    Configs add patterns behind those of the options that they choose: what is said later is more specific.
    """
    check_patterns(key, patterns)
    names = [name for name, _ in model.named_parameters()]
    found: dict[str, str | None] = dict.fromkeys(names)
    unused = []
    for pattern in patterns:
        matching = [name for name in names if re.search(pattern, name)]
        found |= dict.fromkeys(matching, pattern)
        unused += [] if matching else [pattern]
    if unused:
        tops = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{key}: {unused[0]} is not found in any parameter's name; names start with {tops}")
    return found


def _by_stage(model: nn.Module, decay: float) -> tuple[dict[str, int], dict[str, float]]:
    """Parameter name → stage, and factor of the learning rate, of the backbone's parameters."""
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay: expected a number above 0 and at most 1, got {decay}")
    assert isinstance(model, DETR)
    stages = {f"backbone.{name}": stage for name, stage in model.backbone.stage_of().items()}
    if len(set(stages.values())) < 2:
        raise ValueError("layer_decay: this backbone does not say which parameters belong to which stage")
    count = max(stages.values()) + 1
    return stages, {name: decay ** (count - stage) for name, stage in stages.items()}


def _title(rate: str | None, decay: str | None, stage: int | None, taken: set[str]) -> str:
    """What a group is called, fit for the name of a metric, and by no other group."""
    patterns = [re.sub(r"\W+", "_", each).strip("_") or "group" for each in (rate or "default", decay) if each]
    title = ".".join([*patterns, *([] if stage is None else [str(stage)])])
    others = sum(each == title or each.startswith(f"{title}-") for each in taken)
    return f"{title}-{others + 1}" if others else title


def _check_at_least_0(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected a number of at least 0, got {value}")
