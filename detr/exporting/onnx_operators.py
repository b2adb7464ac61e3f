"""Operations of PyTorch that its ONNX exporter does not know. Imported only where ONNX is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import INT64, opset20

op: Any = opset20  # whose types are for graphs as they are run, not as they are written


def sort_stable(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Return sorted values and their indices: ONNX gives equal values in their order."""
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    values, indices = op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)
    return values, op.Cast(indices, to=INT64.dtype)


OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.sort.stable: sort_stable}
