"""Muon for the matrices inside of a transformer, AdamW for everything else (Jordan et al. 2024), as one optimizer."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detr.texts import check_patterns
from detr.training.optim import Group

# What says classes, boxes, offsets or weights of attention: its last linear layer is an output of the network.
_SPEAKS = re.compile(r"head(\.\d+)?$|sampling_offsets$|attention_weights$")


class Muon(torch.optim.Optimizer):
    """Orthogonalises the momentum of hidden matrices, as `torch.optim.Muon` does; AdamW is for the rest.

    Hidden matrices are the weights of linear layers and of attention, but for the last layer of each head. Embeddings,
    convolutions (torch's Muon takes matrices only), biases and norms are for AdamW. Updates of matrices are scaled to
    the size of AdamW's (Liu et al. 2025), so both share learning rates and weight decay.

    Args:
        params: groups of parameters, each with `lr`, `weight_decay` and `name`; those of matrices become `NAME.muon`.
        model: whose parameters they are.
        lr: of groups without one, that is of parameters that no pattern matches; all of them follow the scheduler.
        weight_decay: likewise.
        momentum: of Muon.
        nesterov: whether that momentum looks ahead.
        ns_steps: iterations of Newton and Schulz that orthogonalise.
        betas: of AdamW.
        adamw: regular expressions; matrices in whose name one is found are for AdamW, too, as those of a backbone that
            was pretrained with it.
    """

    def __init__(
        self,
        params: Sequence[Group],
        model: nn.Module,
        *,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        adamw: Sequence[str] = ("backbone",),
    ) -> None:
        check_patterns("adamw", adamw)
        matrices = hidden_matrices(model)
        names = {
            id(parameter): name
            for name, parameter in model.named_parameters()
            if name in matrices and not any(re.search(pattern, name) for pattern in adamw)
        }
        groups = []
        for group in params:
            for ours in (False, True):
                chosen = [parameter for parameter in group["params"] if (id(parameter) in names) == ours]
                name = f"{group['name']}.muon" if ours else group["name"]
                if chosen:
                    groups.append({**group, "params": chosen, "name": name, "muon": ours})
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.inner: list[torch.optim.Optimizer] = []
        if muon := [group for group in self.param_groups if group["muon"]]:
            options: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
            self.inner.append(_Stacked(muon, **options, adjust_lr_fn="match_rms_adamw"))
        if rest := [group for group in self.param_groups if not group["muon"]]:
            self.inner.append(torch.optim.AdamW(rest, betas=betas, fused=True))
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with both. Returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "inner": self.inner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by `load_state_dict`, with groups and state that are new objects."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Both work on the groups and the state of this optimizer: a rate that is set here is theirs."""
        for optimizer in self.inner:
            muon = isinstance(optimizer, torch.optim.Muon)
            optimizer.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            optimizer.state = self.state


class _Stacked(torch.optim.Muon):
    """Torch's, whose steps take the matrices of one shape together: a detector has many, and each alone is small."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[tuple(sorted(matrix.shape))].append(matrix)
            for matrices in alike.values():
                self._update(matrices, **group)
        return None

    def _update(
        self, matrices: list[Tensor], *, lr: float, weight_decay: float, momentum: float, nesterov: bool, **options: Any
    ) -> None:
        """Take the step of matrices [R, C] or [C, R]."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, momenta, momentum) if nesterov else momenta
        tall = [rows > columns for rows, columns in (matrix.shape for matrix in matrices)]
        stack = torch.stack([update.mT if turn else update for update, turn in zip(updates, tall, strict=True)])
        directions = orthogonalized(stack, options["ns_coefficients"], options["ns_steps"], options["eps"])
        steps = [each.mT if turn else each for each, turn in zip(directions, tall, strict=True)]
        torch._foreach_mul_(matrices, 1 - lr * weight_decay)
        torch._foreach_add_(matrices, steps, alpha=-lr * 0.2 * math.sqrt(max(matrices[0].shape)))


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return matrices [N, R, C], R ≤ C, with singular values near 1, by the iteration of Jordan et al. 2024 in bf16."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def hidden_matrices(model: nn.Module) -> set[str]:
    """Return the names of the weights of linear layers and of attention that are neither first nor last."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    outputs = set()
    for name, _ in model.named_modules():
        inside = [each for each in linear if each == name or each.startswith(f"{name}.")]
        if inside and _SPEAKS.search(name):
            outputs.add(inside[-1])
    attention = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found = {f"{name}.weight" for name in linear if name not in outputs}
    return found | {f"{name}.in_proj_weight" for name in attention}
