"""A step asks for nothing back from its device but the matcher's costs: found out without having one.

Tensors that only know their shape, type and device stand in for those on a GPU.
"""

from __future__ import annotations

import collections
import traceback
from typing import Any

import numpy as np
import pytest
import torch
from builders import CLASSES
from command import ROOT
from reduced import CASES, built, name_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detr.structures import Normalizer, Targets
from detr.training.average import averaged
from detr.training.optim import adamw


class Waits(TorchDispatchMode):
    """Counts what makes the host wait, by the line of ours that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        across = copies and len({each.device.type for each in tensors}) > 1 and not kwargs.get("non_blocking")
        reads = func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        if across or (reads and tensors[0].device.type == "cuda"):
            stack = traceback.extract_stack()
            place = [each for each in stack if each.filename.startswith(f"{ROOT}/detr")] or stack[:-1]
            self.places[f"{place[-1].filename}:{place[-1].lineno}"] += 1
        return out


def on_device(module: nn.Module) -> None:
    """Replace every parameter and buffer by one that is on a GPU, as far as anybody can tell."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                each._parameters[name] = nn.Parameter(moved(parameter), parameter.requires_grad)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = moved(buffer)


OTHERS = [each for each in CASES if name_of(each) not in ("dino_r50", "d_fine_n", "rf_detr_nano")]
EACH = [pytest.param(each, marks=pytest.mark.slow if each in OTHERS else ()) for each in CASES]


@pytest.mark.parametrize("words", EACH, ids=map(name_of, CASES))
def test_a_step_asks_the_device_only_for_costs(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, criterion = built(words)
    average = averaged(model.train(), 0.99)
    # Whatever is asked for on the host is one.
    monkeypatch.setattr(Tensor, "numpy", lambda self: np.ones(self.shape, str(self.dtype).removeprefix("torch.")))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (model, criterion, average.module):
            on_device(module)
        targets = Targets(
            labels=torch.zeros(CLASSES, dtype=torch.long, device="cuda"),
            boxes=torch.rand(CLASSES, 4, device="cuda"),
            image=torch.zeros(CLASSES, dtype=torch.long, device="cuda"),
            counts=[CLASSES - 1, 1],
        )
        with Waits() as waits:
            images = torch.rand(2, 3, 128, 128, device="cuda")
            predictions = model(images, torch.zeros(2, 128, 128, dtype=torch.bool, device="cuda"), targets)
            criterion(predictions, targets, Normalizer(objects=float(CLASSES), images=2.0))
            learning = [each for each in model.parameters() if each.requires_grad]
            for parameter in learning:  # that the backward pass gives them it cannot do
                parameter.grad = torch.empty_like(parameter)
            optimizer = adamw(model=model)
            for _ in range(2):  # the first makes state
                nn.utils.clip_grad_norm_(learning, 0.1)
                optimizer.step()
                average.update_parameters(model)
    assert waits.places.total() == 1 + criterion.unite_matches, waits.places
