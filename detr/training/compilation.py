"""Compiling the parts of a detector that are repeated, in place: names in state dicts stay."""

from __future__ import annotations

from torch import nn


def compile_regions(model: nn.Module) -> None:
    pass
