"""AP and seconds an image of exported files, side by side: what fp16 and int8 cost and gain.

detr export checkpoint=best.pt format=onnx outputs=detections
detr export checkpoint=best.pt format=onnx outputs=detections precision=int8 calibration=bccd/images
python benchmarks/exported.py best.onnx best_int8.onnx --images bccd/images --annotations bccd/annotations/test.json

The files take turns image by image, one at a time, with the threads that ONNX Runtime takes. AP is pycocotools'.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import runpy
import statistics
import time
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "docs" / "onnx_example.py"))  # without this project


def average_precision(truth: COCO, results: list[dict[str, Any]]) -> tuple[float, float]:
    """Return AP and AP50 of results in COCO's format."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", required=True)
    given = parser.parse_args()
    detectors = {file: EXAMPLE["Detector"](file) for file in given.files}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(given.annotations)
    results: dict[str, list[dict[str, Any]]] = {file: [] for file in detectors}
    seconds: dict[str, list[float]] = {file: [] for file in detectors}
    for image_id, entry in truth.imgs.items():
        image = EXAMPLE["read"](given.images / entry["file_name"])
        for file, detector in detectors.items():
            started = time.perf_counter()
            (found,) = detector([image])
            seconds[file].append(time.perf_counter() - started)
            for score, label, (left, top, right, bottom) in zip(
                found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True
            ):
                place = [left, top, right - left, bottom - top]
                category = detector.category_ids[label]
                results[file].append({"image_id": image_id, "category_id": category, "bbox": place, "score": score})
    for file in detectors:
        precision, half = average_precision(truth, results[file])
        size = Path(file).stat().st_size / 2**20
        milliseconds = 1000 * statistics.median(seconds[file])
        print(f"{file}: AP {precision:.3f}, AP50 {half:.3f}, {milliseconds:.1f} ms an image, {size:.1f} MiB")


if __name__ == "__main__":
    main()
