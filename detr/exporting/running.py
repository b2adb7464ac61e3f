"""Exported files, run: what each format needs to be called with arrays and to answer with arrays."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from detr.errors import UserError

Arrays = dict[str, NDArray[Any]]

METADATA = "metadata.json"  # name of the file in an archive of torch.export
EXTRA = "export"  # of the package: what brings the libraries


class Runner(Protocol):
    """Holds a file that is ready to run.

    Attributes:
        metadata: of the file.
        input_names: in order.
    """

    metadata: dict[str, Any]
    input_names: list[str]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the outputs by name."""
        ...


def library(name: str) -> ModuleType:
    """Import a library of the extra. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing = name.partition(".")[0]
        raise UserError(f"{missing} is not installed; pip install 'detr-lab[{EXTRA}]'") from None


def open_file(
    path: Path | str, *, inside: str | None = None, threads: int | None = None, device: str = "cpu"
) -> Runner:
    """Open a file by its suffix: .onnx, .xml or .pt2.

    Args:
        inside: the name of a value inside of the graph that is to be among the outputs (not of .pt2).
        threads: that it computes with; None: as the library thinks best.
        device: cpu or cuda, of ONNX Runtime; OpenVINO and .pt2 run on the CPU.

    Raises:
        UserError: no such file, or of another kind; a library that is missing; a device that it does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file at {path}")
    kind = RUNNERS.get(path.suffix)
    if kind is None:
        raise UserError(f"{path}: expected a file that ends in {', '.join(RUNNERS)}")
    if device != "cpu" and kind is not OnnxRunner:
        raise UserError(f"{path}: such a file runs on the CPU here; give device=cpu")
    return kind(path, inside, threads, device)


class OnnxRunner:
    """Runs a file with ONNX Runtime."""

    def __init__(self, path: Path, inside: str | None, threads: int | None, device: str) -> None:
        runtime: Any = library("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        if threads is not None:
            options.intra_op_num_threads = threads
        if device.startswith("cuda") and "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise UserError(
                f"device={device}: this onnxruntime has the CPU only; install onnxruntime-gpu, or give device=cpu"
            )
        number = int(device.partition(":")[2] or 0)
        cuda = [("CUDAExecutionProvider", {"device_id": number})] if device.startswith("cuda") else []
        try:
            content = str(path) if inside is None else _with_output(path, inside)
            self.session = runtime.InferenceSession(content, options, providers=[*cuda, "CPUExecutionProvider"])
        except Exception as error:  # the runtime's own kinds have no common base
            raise _unreadable(path, error) from error
        self.input_names = [each.name for each in self.session.get_inputs()]
        self.output_names = [each.name for each in self.session.get_outputs()]
        self.metadata = _parsed(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found = self.session.run(None, {name: inputs[name] for name in self.input_names})
        return dict(zip(self.output_names, found, strict=True))


class OpenVinoRunner:
    """Runs a file with OpenVINO, in the precision that it has: left alone, newer processors compute in bf16."""

    def __init__(self, path: Path, inside: str | None, threads: int | None, device: str) -> None:
        openvino: Any = library("openvino")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(path)
            if inside is not None:
                model.add_outputs(inside)
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise _unreadable(path, error) from error
        self.input_names = [each.any_name for each in self.compiled.inputs]
        information = model.get_rt_info(["detr"]).value if model.has_rt_info(["detr"]) else {}
        self.metadata = _parsed(information)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found = self.compiled({name: inputs[name] for name in self.input_names})
        return {port.any_name: value for port, value in found.items()}


class TorchRunner:
    """Runs a file of torch.export with PyTorch alone: none of our code is needed.

    Without PyTorch's guards: some hold for the batch that was traced, though what was traced holds for all.
    """

    def __init__(self, path: Path, inside: str | None, threads: int | None, device: str) -> None:
        assert inside is None
        extra = {METADATA: ""}
        try:
            self.module = torch.export.load(path, extra_files=extra).module(check_guards=False)
        except Exception as error:
            raise _unreadable(path, error) from error
        if threads is not None:
            torch.set_num_threads(threads)
        self.metadata = json.loads(extra[METADATA] or "{}")
        self.input_names = list(self.metadata["inputs"])
        self.output_names = list(self.metadata["outputs"])

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        found = self.module(*(torch.from_numpy(np.asarray(inputs[name])) for name in self.input_names))
        return {name: value.numpy() for name, value in zip(self.output_names, found, strict=True)}


RUNNERS: dict[str, Callable[..., Runner]] = {".onnx": OnnxRunner, ".xml": OpenVinoRunner, ".pt2": TorchRunner}


def _with_output(path: Path, name: str) -> bytes:
    """An ONNX file in which a value inside of the graph is an output, too."""
    onnx: Any = library("onnx")
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None, None]))
    return model.SerializeToString()


def _parsed(texts: Mapping[str, str]) -> dict[str, Any]:
    """Metadata, each value of which is JSON; what others wrote stays text."""
    found: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be run: {' '.join(str(error).split())[:300]}")
