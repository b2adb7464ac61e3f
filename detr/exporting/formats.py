"""A detector written in each format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from detr.errors import UserError, in_words
from detr.exporting.program import CHOSEN, Traced, quiet, trace
from detr.exporting.running import METADATA, library

Format = Literal["onnx", "openvino", "torch_export"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
LIBRARIES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch_export": (),
}
OPSET = 20  # the first whose GridSample is defined as PyTorch's


def write(traced: Traced, metadata: Mapping[str, Any], layout: Format, path: Path) -> None:
    """Write a detector to `path`, and to further files of the same stem where a format has them.

    Raises:
        UserError: a library is not installed, or the format does not have an operation of the detector.
    """
    if layout == "torch_export" and traced.wish.precision == "fp16":
        raise UserError("precision=fp16: format=torch_export has weights in fp32 only; use format=onnx or openvino")
    for name in LIBRARIES[layout]:
        library(name)
    if layout == "torch_export":
        program = trace(traced)
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})
    elif layout == "onnx":
        model = _onnx(traced, metadata)
        if traced.wish.precision == "fp16":
            _halve(model)
        path.write_bytes(model.SerializeToString())
    else:
        _write_openvino(traced, metadata, path)


def _onnx(traced: Traced, metadata: Mapping[str, Any]) -> Any:
    """An ONNX model, with the tokens that became queries as a value inside that is called `CHOSEN`."""
    from detr.exporting.onnx_operators import OPERATORS

    program = trace(traced)
    outputs = [*traced.output_names, *([CHOSEN] if traced.chosen else [])]
    with quiet():
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=OPERATORS,
                input_names=traced.input_names,
                output_names=outputs,
                verbose=False,
            )
        except Exception as error:  # torch's reasons have no common kind
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise UserError(f"this detector cannot be written as ONNX: {reason}") from error
    model = written.model_proto
    if traced.chosen:
        del model.graph.output[-1]
    del model.graph.value_info[:]  # sizes in terms of names that are replaced below
    for values, described in ((model.graph.input, "inputs"), (model.graph.output, "outputs")):
        for value in values:
            sizes = metadata[described][value.name]["shape"]
            for dimension, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
                if not dimension.HasField("dim_value"):
                    dimension.dim_param = str(size)
    model.producer_name, model.producer_version = "detr-lab", str(metadata["producer"]).partition(" ")[2]
    for key, content in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(content))
    return model


def _halve(model: Any) -> None:
    """Keep matrices and filters of an ONNX model in fp16; runtimes make fp32 of them once, when they load it."""
    onnx: Any = library("onnx")
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.ndim < 2 or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _write_openvino(traced: Traced, metadata: Mapping[str, Any], path: Path) -> None:
    """OpenVINO's .xml and .bin, made of an ONNX file."""
    openvino: Any = library("openvino")
    between = path.with_suffix(".onnx")
    between.write_bytes(_onnx(traced, metadata).SerializeToString())
    try:
        model = openvino.convert_model(between)
    except Exception as error:
        reason = in_words(error)[:300]
        raise UserError(f"this detector cannot be written for OpenVINO: {reason}") from error
    finally:
        between.unlink()
    for key, content in metadata.items():
        model.set_rt_info(json.dumps(content), ["detr", key])
    openvino.save_model(model, path, compress_to_fp16=traced.wish.precision == "fp16")
