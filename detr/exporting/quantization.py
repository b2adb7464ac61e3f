"""ONNX files whose convolutions compute in 8 bits, with ranges of values that images like those to come have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detr.boxes import iou
from detr.errors import UserError
from detr.evaluation.postprocess import postprocess
from detr.exporting.program import Wish
from detr.exporting.running import Arrays, Runner, library
from detr.exporting.source import Source
from detr.inference.detector import Detector
from detr.inference.inputs import as_image
from detr.inference.sources import Stream, found_in
from detr.structures import Detections, Predictions

log = logging.getLogger(__name__)

AT_MOST = 100  # images: more change the ranges by little
SURE = 0.3  # least score of a detection that the file has to find again
SAME = 0.75  # least IoU of the two, and
CLOSE = 0.15  # how far apart their scores may be
AGREED = 0.9  # least share of those that are found again


@dataclass(frozen=True)
class Calibration:
    """Holds images like those to come as a detector is given them, and what it finds in each."""

    inputs: list[Arrays]
    found: list[Detections]


@torch.inference_mode()
def calibrate(source: Source, images: str) -> Calibration:
    """Return some of the images of a folder, evenly chosen, and what the detector finds in them.

    Args:
        images: a folder, an image, or a pattern.

    Raises:
        UserError: there is no image, or one cannot be read.
    """
    files = found_in(images)
    if isinstance(files, Stream):
        raise UserError(f"calibration={images}: expected images, got a video")
    detector = Detector(source.model, source.classes, source.values)
    inputs, found = [], []
    for path in files[:: -(-len(files) // AT_MOST)]:
        batch = detector.prepared([as_image(path)])
        arrays = {"images": batch.images, "padding": batch.padding, "original_sizes": batch.original_sizes}
        inputs.append({name: value.numpy() for name, value in arrays.items()})
        predictions = source.model(batch.images, batch.padding)
        found.append(_detections(source, predictions.logits[-1], predictions.boxes[-1], batch.original_sizes))
    return Calibration(inputs, found)


def quantize(path: Path, calibration: Calibration) -> None:
    """Rewrite an ONNX file so that its convolutions multiply bytes; all else stays in fp32.

    Matrix products stay, too: the few that they are cost little, and their outputs have outliers that 8 bits lose.
    """
    onnx: Any = library("onnx")
    library("onnxruntime")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs: Iterator[Arrays] = iter(calibration.inputs)

        def get_next(self) -> Arrays | None:
            values = next(self.inputs, None)
            return values and {name: values[name] for name in names}

    whole = onnx.load(path)
    names = [each.name for each in whole.graph.input]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the library speaks of its own steps there
    try:
        quant_pre_process(path, path, skip_symbolic_shape=True)
        quantization.quantize_static(
            path,
            path,
            Reader(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Processors without VNNI add products of bytes in 16 bits, which 7 bits for weights cannot overflow.
            reduce_range=True,
        )
    finally:
        root.setLevel(level)
    written = onnx.load(path)
    del written.metadata_props[:]
    written.metadata_props.extend(whole.metadata_props)
    path.write_bytes(written.SerializeToString())


def verify_detections(source: Source, wish: Wish, runner: Runner, calibration: Calibration) -> float:
    """Return the share of what the model is sure of that a file finds again, in the images that it was made with.

    Raises:
        UserError: it is too small.
    """
    again = sure = 0
    for arrays, mine in zip(calibration.inputs, calibration.found, strict=True):
        outputs = {name: torch.from_numpy(value) for name, value in runner(arrays).items()}
        if wish.outputs == "logits":
            sizes = torch.from_numpy(arrays["original_sizes"])
            theirs = _detections(source, outputs["logits"], outputs["boxes"], sizes)
        else:
            theirs = Detections(outputs["scores"][0], outputs["labels"][0], outputs["boxes"][0])
        rows = mine.scores >= SURE
        sure += int(rows.sum())
        again += int(_found_again(mine, theirs)[rows].sum())
    if not sure:
        log.warning("the model is sure of nothing in these images, so that nothing tells how well the file does")
        return 1.0
    if again < AGREED * sure:
        raise UserError(
            f"in 8 bits the file finds {again} of {sure} objects that the model is sure of: take images for "
            "calibration= that are like those to come, or precision=fp16"
        )
    return again / sure


def _detections(source: Source, logits: Tensor, boxes: Tensor, original_sizes: Tensor) -> Detections:
    (found,) = postprocess(
        Predictions(logits[None], boxes[None]),
        original_sizes,
        classification=source.model.classification,
        max_detections=source.max_detections,
    )
    return found


def _found_again(mine: Detections, theirs: Detections) -> Tensor:
    """[n] whether a detection of ours has one of theirs in its place, of its label and about its score."""
    overlaps = iou(mine.boxes[:, None], theirs.boxes[None])
    same = (mine.labels[:, None] == theirs.labels[None]) & (overlaps >= SAME)
    return (same & ((mine.scores[:, None] - theirs.scores[None]).abs() <= CLOSE)).any(1)
