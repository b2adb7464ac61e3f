"""Weights on images against COCO's own evaluation of a data set in which drawn images are repeated."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from run_folders import expected_ap, predictions, write_data

from detr.data.annotations import Annotations
from detr.data.coco_reader import read_annotations
from detr.evaluation.resampling import average_precision, draw, intervals, match

IMAGES, CATEGORIES = 25, (3, 7, 20)  # ids with gaps; the last category is rare


def scene(folder: Path, seed: int) -> tuple[Annotations, list[dict[str, Any]]]:
    """Images without objects, crowds, images without detections, and scores that tie between images."""
    rng = np.random.default_rng(seed)
    ids = (rng.permutation(IMAGES) * 3 + 5).tolist()
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for position, image in enumerate(ids):
        for _ in range(0 if position % 6 == 0 else rng.integers(1, 6)):
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(10, 40, 2).tolist()]
            category = int(rng.choice(CATEGORIES, p=[0.6, 0.35, 0.05]))
            crowd = int(rng.random() < 0.1)
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            )
            near = (np.array(box) + rng.normal(0, 1.2, 4)).tolist()
            label = category if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
            results.append({"image_id": image, "category_id": label, "bbox": near, "score": float(rng.random())})
        for _ in range(0 if position % 5 == 0 else 4):
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(10, 40, 2).tolist()]
            results.append(
                {"image_id": image, "category_id": int(rng.choice(CATEGORIES)), "bbox": box, "score": 0.125 * position}
            )
    for number, row in enumerate(results):  # a score occurs once in an image, perhaps several times in the split
        row["score"] = round(min(row["score"], 1.0), 2) + 1e-5 * sum(
            each["image_id"] == row["image_id"] for each in results[:number]
        )
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in ids],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORIES],
        "annotations": annotations,
    }
    (folder / "val.json").write_text(json.dumps(content))
    return read_annotations([str(folder)], [str(folder / "val.json")]).without_empty_boxes(), results


def repeated(
    annotations: Annotations, results: list[dict[str, Any]], weights: NDArray[np.int64]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The drawn images as images of their own, in the order of the ids that they are copies of."""
    truth = annotations.to_coco()
    images, boxes, found = [], [], []
    for rank, original in enumerate(sorted(image["id"] for image in truth["images"])):
        for _ in range(weights[rank]):
            fresh = len(images) + 1
            images.append({"id": fresh, "width": 100, "height": 100})
            boxes += [each | {"image_id": fresh} for each in truth["annotations"] if each["image_id"] == original]
            found += [row | {"image_id": fresh} for row in results if row["image_id"] == original]
    boxes = [each | {"id": number} for number, each in enumerate(boxes, start=1)]
    return {"info": {}, "images": images, "annotations": boxes, "categories": truth["categories"]}, found


def brute_force(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_repeated_images(seed: int, tmp_path: Path) -> None:
    annotations, results = scene(tmp_path, seed)
    weights = np.concatenate([np.ones((1, IMAGES), dtype=np.int64), draw(IMAGES, 5, seed)])
    found = average_precision(match(annotations.to_coco(), results), weights)
    for index, row in enumerate(weights):
        expected = brute_force(*repeated(annotations, results, row))
        assert [found[name][index] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found["AP"][0] < found["AP50"][0] < 1


def test_chunks_do_not_change_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, results = scene(tmp_path, 0)
    matched, weights = match(annotations.to_coco(), results), draw(IMAGES, 7)
    whole = average_precision(matched, weights)
    monkeypatch.setattr("detr.evaluation.resampling.MAX_WEIGHTS", 1)
    for name, values in average_precision(matched, weights).items():
        assert values == pytest.approx(whole[name], rel=1e-12)  # sums of another order


def test_a_resample_without_objects_has_no_precision(tmp_path: Path) -> None:
    annotations, results = scene(tmp_path, 0)
    matched = match(annotations.to_coco(), results)
    empty = np.flatnonzero(sum(each.objects for each in matched) == 0)
    weights = np.zeros((1, IMAGES), dtype=np.int64)
    weights[0, empty[0]] = IMAGES
    assert np.isnan(average_precision(matched, weights)["AP"]).all()


def test_nothing_detected_is_zero(tmp_path: Path) -> None:
    annotations, _ = scene(tmp_path, 0)
    assert average_precision(match(annotations.to_coco(), []), draw(IMAGES, 3))["AP"].tolist() == [0, 0, 0]


def test_as_many_images_are_drawn_as_there_are() -> None:
    weights = draw(30, 200)
    assert weights.shape == (200, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert np.array_equal(weights, draw(30, 200))
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)  # an image is left out of a third


def test_an_interval_holds_the_metric_and_is_a_point_where_nothing_varies(tmp_path: Path) -> None:
    truth = json.loads((write_data(tmp_path / "data") / "val.json").read_text())
    perfect, half = (intervals(truth, predictions(tmp_path / "data", right)) for right in (12, 6))
    assert perfect["AP"] == pytest.approx((1, 1))
    low, high = half["AP"]
    assert 0.1 < low < expected_ap(6) < high < 0.9
    assert intervals(truth, [])["AP"] == (0, 0)
    stranger = predictions(tmp_path / "data", 12)[0] | {"category_id": 1}
    assert intervals(truth, [*predictions(tmp_path / "data", 12), stranger]) == perfect
    assert intervals(truth | {"annotations": []}, []) == {}
