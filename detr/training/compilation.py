"""Compiling what a detector repeats: the stages of its backbone and the layers of its transformer."""

from __future__ import annotations

import shutil

from torch import nn

from detr.errors import UserError
from detr.models.detr import DETR


def compile_regions(model: DETR) -> None:
    """Compile every region in place, for images of any size: names in state dicts stay.

    Layers that are alike share what is compiled for the first one, when it is first called.

    Raises:
        UserError: there is no C++ compiler.
    """
    check_compiler()
    for region in regions(model):
        region.compile(dynamic=True)


def regions(model: DETR) -> list[nn.Module]:
    """Return the modules that are compiled, each on its own."""
    inside = model.backbone.named_modules()
    stages = [module for name, module in inside if name.removeprefix("body.") in model.backbone.stages]
    return [*stages, *model.encoder.layers, *model.decoder.layers]


def check_compiler() -> None:
    """Raise UserError if there is no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second, which only a compiled training should
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(str(get_cpp_compiler()))
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise UserError(
            "trainer.compile=true needs a C++ compiler, and there is none; install g++, or use trainer.compile=false"
        )
