"""One run's predictions against the ground truth, image by image: what remains to ask when there is one seed."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detr.comparison.data import SplitData, Truth
from detr.comparison.reading import Run
from detr.comparison.statistics import Interval, percentiles
from detr.errors import UserError
from detr.evaluation.resampling import THRESHOLDS, Matched, average_precision, draw, match

RESAMPLES = 1000
AGREES = 1e-4  # of AP as recomputed from predictions.json with AP in metrics.jsonl, which has been rounded nowhere


@dataclass(frozen=True)
class PerImage:
    """Holds the predictions of a run's best epoch, or of its evaluation, matched."""

    truth: Truth
    results: list[dict[str, Any]]  # as in predictions.json
    matched: list[Matched]


@functools.lru_cache(maxsize=16)
def _per_image(predictions: Path, data: SplitData) -> PerImage:
    truth = _truth(data)
    results = read_predictions(predictions)
    images, categories = {image["id"] for image in truth.images}, set(truth.categories)
    if not all(row["image_id"] in images for row in results):
        raise UserError(f"{predictions} has images that {data} does not have")
    results = [row for row in results if row["category_id"] in categories]  # as the evaluation does
    return PerImage(truth, results, match(truth.coco, results))


def per_image(run: Run, data: SplitData) -> PerImage:
    """Match predictions.json of a run.

    Raises:
        UserError: predictions or ground truth are missing, or not those that the run's numbers were made from.
    """
    folder = run.folder if run.evaluation is None else run.evaluation.folder
    if folder is None:
        raise UserError(f"{run.place} has no predictions.json: W&B does not keep it")
    if run.trainer.get("overfit_batches") and run.evaluation is None:
        raise UserError("trainer.overfit_batches evaluates a part of the training split only")
    predictions = folder / "predictions.json"
    found = _per_image(predictions, data)
    everything = np.ones((1, len(found.truth)), dtype=np.int64)
    now, then = float(average_precision(found.matched, everything)["AP"][0]), run.metrics().get("AP")
    if then is None or not abs(now - then) < AGREES:
        raise UserError(
            f"{predictions} gives an AP of {100 * now:.1f} on {data}, the run had "
            f"{'none' if then is None else format(100 * then, '.1f')}: one of the files has changed since"
        )
    return found


def over_images(baseline: PerImage, other: PerImage, name: str, level: float) -> Interval:
    """Return the difference in a metric where images are drawn with replacement, the same ones for both.

    Raises:
        UserError: it is none of the metrics that can be resampled, or there are no objects.
    """
    if name not in THRESHOLDS:
        raise UserError(f"{name} cannot be resampled from boxes; {', '.join(THRESHOLDS)} can")
    images = len(baseline.truth)
    weights = np.concatenate([np.ones((1, images), dtype=np.int64), draw(images, RESAMPLES)])
    a, b = (100 * average_precision(each.matched, weights)[name] for each in (baseline, other))
    drawn = ~np.isnan(a[1:])
    if not drawn.any():
        raise UserError("the split has no objects")
    return percentiles(a[1:][drawn], b[1:][drawn], float(b[0] - a[0]), level)


@functools.lru_cache(maxsize=4)
def _truth(data: SplitData) -> Truth:
    return data.read()


def read_predictions(path: Path, *, masks: bool = False) -> list[dict[str, Any]]:
    """Return the boxes of a predictions.json, with masks where wanted. Raises UserError if it is missing or none."""
    try:
        results = json.loads(path.read_bytes())
        return [
            {key: row[key] for key in ("image_id", "category_id", "bbox", "score")}
            | ({"segmentation": row["segmentation"]} if masks and "segmentation" in row else {})
            for row in results
        ]
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as COCO results ({error!r})") from error
