"""All numbers of a benchmark: of a detector in PyTorch, and of files beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from detr.benchmarking.parts import PARTS, parameters, profile
from detr.benchmarking.timing import Call, in_turns, synchronize
from detr.checking.settings import output_size
from detr.environment import hardware, keep_freed_memory
from detr.evaluation.postprocess import postprocess
from detr.exporting.running import Runner, open_file
from detr.exporting.source import Source
from detr.structures import Predictions

PHOTO = (480, 640)  # (height, width) of the photo whose size after preprocessing is taken unless another one is given
CONVENTION = (
    "a multiplication and an addition are two; convolutions, matrix products and attention count, samples do not"
)


@dataclass(frozen=True)
class Setting:
    """Holds what is measured, and how."""

    size: tuple[int, int] | None = None  # (height, width) of the images; None: as an evaluation would have it
    batch_sizes: Sequence[int] = (1,)
    repeats: int = 20
    warmup: int = 3
    threads: int | None = None  # None: as the libraries think best


def benchmark(source: Source | None, files: Sequence[str], device: torch.device, setting: Setting) -> dict[str, Any]:
    """Return all numbers as plain values: seconds, bytes and counts.

    Args:
        source: the detector; None: only files are measured.
        files: exported ones.
        device: that PyTorch and ONNX Runtime compute on.

    Raises:
        UserError: a file that cannot be run here.
    """
    keep_freed_memory()
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    runners = {file: open_file(file, threads=setting.threads, device=str(device)) for file in files}
    size = setting.size or (source and output_size(source.transform, PHOTO)) or PHOTO
    divisor = 1 if source is None else source.model.backbone.size_divisor
    height, width = (-(-side // divisor) * divisor for side in size)
    report: dict[str, Any] = {
        "detector": None if source is None else source.name,
        "image": [height, width],
        "device": str(device),
        "threads": setting.threads or torch.get_num_threads(),
        "repeats": setting.repeats,
        "hardware": hardware(),
    }
    if source is not None:
        source.model.to(device)
        report |= _size(source, (height, width), device)
    report["latency"] = []
    for count in setting.batch_sizes:
        calls = _calls(source, runners, (count, height, width), device)
        timings = in_turns(calls, device, repeats=setting.repeats, warmup=setting.warmup)
        report["latency"] += [
            {
                "backend": name,
                "batch_size": count,
                "median": timing.median,
                "p90": timing.p90,
                "images_per_second": count / timing.median,
                "memory": timing.memory,
            }
            for name, timing in timings.items()
        ]
    if source is not None:
        report["parts"] = _parts(source, (height, width), device, setting.repeats)
    return report


def _images(count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise without padding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.zeros(count, height, width, dtype=torch.bool, device=device)


def _calls(
    source: Source | None, runners: dict[str, Runner], shape: tuple[int, int, int], device: torch.device
) -> dict[str, Call]:
    """By name, the model with post-processing in PyTorch, and every file with what it has inside."""
    images, padding = _images(*shape, device)
    calls: dict[str, Call] = {}
    if source is not None:
        forward, finish = _steps(source, images, padding)

        @torch.inference_mode()
        def call() -> None:
            finish(forward())
            synchronize(device)

        calls["PyTorch"] = call
    arrays = {"images": images.cpu().numpy(), "padding": padding.cpu().numpy()}
    arrays["original_sizes"] = np.array([shape[1:]] * shape[0])
    for file, runner in runners.items():
        calls[Path(file).name if len({Path(each).name for each in runners}) == len(runners) else file] = (
            functools.partial(runner, arrays)
        )
    return calls


def _steps(
    source: Source, images: Tensor, padding: Tensor
) -> tuple[Callable[[], Predictions], Callable[[Predictions], Any]]:
    """The forward pass, and what makes boxes of its outputs; masks are computed only where somebody asks for them."""
    sizes = torch.tensor([images.shape[-2:]] * len(images), device=images.device)

    def finish(predictions: Predictions) -> Any:
        return postprocess(
            Predictions(predictions.logits, predictions.boxes),
            sizes,
            classification=source.model.classification,
            max_detections=source.max_detections,
        )

    return lambda: source.model(images, padding), finish


@torch.no_grad()
def _size(source: Source, size: tuple[int, int], device: torch.device) -> dict[str, Any]:
    """Parameters, and operations for one image."""
    every = list(source.model.parameters())
    trainable = [each for each in every if each.requires_grad]
    source.model.requires_grad_(False)  # else the counter asks views of parameters for gradients that they cannot have
    with FlopCounterMode(display=False) as counter:
        source.model(*_images(1, *size, device))
    for each in trainable:
        each.requires_grad_()
    counts = counter.get_flop_counts()
    inside: dict[str, int] = {}
    for attribute, part in PARTS.items():
        found = sum(counts.get(f"{type(source.model).__name__}.{attribute}", {}).values())
        inside[part] = inside.get(part, 0) + found
        if attribute == "box_head":  # which the decoder calls
            inside["decoder"] -= found
    return {
        "parameters": {
            "all": sum(each.numel() for each in every),
            "trainable": sum(each.numel() for each in trainable),
        },
        "flops": {"total": counter.get_total_flops(), "convention": CONVENTION, "parts": inside},
    }


@torch.inference_mode()
def _parts(source: Source, size: tuple[int, int], device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Of each part, the time for one image, its share and its parameters."""
    seconds = profile(source.model, *_steps(source, *_images(1, *size, device)), device, repeats)
    total, counts = sum(seconds.values()), parameters(source.model)
    return [
        {"part": part, "median": each, "share": each / total, "parameters": counts.get(part, 0)}
        for part, each in seconds.items()
    ]
