"""From a detector to a file that answers as it does."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from detr.errors import UserError
from detr.exporting.formats import SUFFIXES, Format, write
from detr.exporting.metadata import metadata_of
from detr.exporting.program import CHOSEN, Traced, Wish
from detr.exporting.quantization import calibrate, quantize, verify_detections
from detr.exporting.running import open_file
from detr.exporting.source import Source
from detr.exporting.verification import Differences, verify
from detr.files import staged
from detr.weights.zoo import ZOO, is_address

log = logging.getLogger(__name__)


def export(source: Source, layout: Format, wish: Wish, output: str | None) -> tuple[Path, Differences]:
    """Write a detector, run what was written against it, and return the file and the largest differences.

    Nothing is left behind where they differ too much.

    Args:
        source: the detector.
        layout: of the file.
        wish: its outputs and precision.
        output: the file; None: beside the checkpoint, or here if that is no local one.

    Raises:
        UserError: the format or the detector does not allow it, a library is missing, or the answers differ.
    """
    path = _place(source, layout, wish, output)
    traced = Traced(source, wish, chosen=layout != "torch_export")
    started = time.monotonic()
    with staged(path) as draft:
        write(traced, metadata_of(source, traced), layout, draft)
        log.info("written in %.0f s; comparing it with the model", time.monotonic() - started)
        differences = verify(source, wish, open_file(draft, inside=CHOSEN if traced.chosen else None))
    log.info("%s: %s", path, differences)
    return path, differences


def export_in_8_bits(source: Source, wish: Wish, images: str, output: str | None) -> tuple[Path, float]:
    """Write a detector as ONNX with convolutions in 8 bits; return the file, and how much of the model's it finds.

    Nothing is left behind where that is too little.

    Args:
        source: the detector.
        wish: its outputs.
        images: like those to come, as `calibrate` has them.
        output: as `export` has it.

    Raises:
        UserError: as `export` raises it; there is no image, or the file finds too little.
    """
    path = _place(source, "onnx", wish, output)
    calibration = calibrate(source, images)
    traced = Traced(source, wish)
    with staged(path) as draft:
        write(traced, metadata_of(source, traced), "onnx", draft)
        log.info("written; finding the ranges of values in %d images", len(calibration.inputs))
        quantize(draft, calibration)
        share = verify_detections(source, wish, open_file(draft), calibration)
    log.info("%s: finds %.1f %% of what the model is sure of in these images", path, 100 * share)
    return path, share


def _place(source: Source, layout: Format, wish: Wish, output: str | None) -> Path:
    precision = "" if wish.precision == "fp32" else f"_{wish.precision}"
    path = Path(output) if output is not None else default_output(source, precision + SUFFIXES[layout])
    if path.suffix != SUFFIXES[layout]:
        raise UserError(f"output={path}: the file of format={layout} ends in {SUFFIXES[layout]}")
    return path


def default_output(source: Source, suffix: str) -> Path:
    """Return best.onnx for best.pt and the suffix .onnx."""
    if source.weights is None:
        return Path(source.name.partition("=")[2] + suffix)
    path = Path(source.name)
    if source.name in ZOO or is_address(source.name):
        return Path(path.stem + suffix)
    return path.with_name((path.name if path.is_dir() else path.stem) + suffix)
