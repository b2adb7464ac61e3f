"""COCO's numbers: the backends against each other, against pycocotools on the file, and in corner cases."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr.errors import UserError
from detr.evaluation import backends
from detr.evaluation.backends import Backend
from detr.evaluation.coco import METRICS, UNDEFINED, CocoEvaluator, Evaluation
from detr.structures import Classes, Detections

BACKENDS: list[Backend] = [name for name in get_args(Backend) if importlib.util.find_spec(name)]
BCCD = Path(__file__).resolve().parents[2] / "../shared/data/bccd"

Found = dict[int, Detections]


def classes_of(ground_truth: dict[str, Any]) -> Classes:
    return Classes.contiguous({category["id"]: category["name"] for category in ground_truth["categories"]})


def evaluator(ground_truth: dict[str, Any], found: Found, backend: Backend = "hotcoco") -> CocoEvaluator:
    evaluator = CocoEvaluator(backend=backend, ground_truth=ground_truth, classes=classes_of(ground_truth))
    for image_id, detections in found.items():
        evaluator.update([image_id], [detections])
    return evaluator


def evaluate(ground_truth: dict[str, Any], found: Found, backend: Backend = "hotcoco") -> Evaluation:
    return evaluator(ground_truth, found, backend).compute()


def detections(boxes: Any, labels: Any, scores: Any) -> Detections:
    order = torch.as_tensor(scores, dtype=torch.float32).argsort(descending=True, stable=True)
    return Detections(
        scores=torch.as_tensor(scores, dtype=torch.float32)[order],
        labels=torch.as_tensor(labels, dtype=torch.int64)[order],
        boxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
    )


def nothing() -> Detections:
    return detections([], [], [])


def pycocotools_on_files(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """The 12 numbers that a stranger gets from the two JSON files, through none of our code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(ground_truth))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def perturbed(ground_truth: dict[str, Any], rng: np.random.Generator, noise: float, decimals: int = 2) -> Found:
    """Each object once or twice, moved and rescaled, sometimes misnamed; coarse scores, so that many are equal."""
    label_of = classes_of(ground_truth).index_of
    found: dict[int, list[Any]] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        for _ in range(rng.integers(0, 3)):
            corners = np.array([x, y, x + width, y + height]) + noise * rng.normal(size=4)
            label = label_of[annotation["category_id"]] if rng.random() < 0.9 else rng.integers(len(label_of))
            found[annotation["image_id"]].append((corners, label, round(rng.random(), decimals)))
    return {
        image: detections(*map(np.array, zip(*rows, strict=True))) if rows else nothing()
        for image, rows in found.items()
    }


def random_ground_truth(rng: np.random.Generator, images: int, objects: int, size: float) -> dict[str, Any]:
    """Gapped ids out of order, an annotation id 0, crowds, empty images, an unused category."""
    image_ids = rng.permutation(np.arange(1, 10 * images, 3))[:images].tolist()
    categories = [{"id": i, "name": f"class {i}"} for i in (7, 2, 90, 13)]
    annotations = []
    for index in range(objects):
        width, height = rng.uniform(1, size, 2)
        box = [*rng.uniform(0, 60, 2), width, height]
        annotations.append(
            {
                "id": index,
                "image_id": int(rng.choice(image_ids)),
                "category_id": int(rng.choice([2, 7, 13])),
                "bbox": [float(value) for value in box],
                "area": float(width * height * rng.uniform(0.5, 1)),
                "iscrowd": int(rng.random() < 0.15),
            }
        )
    return {"images": [{"id": i} for i in image_ids], "categories": categories, "annotations": annotations}


def assert_equal(one: Evaluation, other: Evaluation) -> None:
    assert one.metrics == pytest.approx(other.metrics, abs=1e-10)
    assert one.per_class == pytest.approx(other.per_class, abs=1e-10)
    np.testing.assert_allclose(one.precision, other.precision, atol=1e-7)
    np.testing.assert_allclose(one.recall, other.recall, atol=1e-7)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    objects=st.integers(0, 40),
    size=st.sampled_from([30.0, 120.0, 400.0]),
    noise=st.sampled_from([0.0, 2.0, 15.0]),
    decimals=st.sampled_from([1, 3]),
)
def test_backends_agree(seed: int, images: int, objects: int, size: float, noise: float, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    ground_truth = random_ground_truth(rng, images, objects, size)
    found = perturbed(ground_truth, rng, noise, decimals)
    reference = evaluate(ground_truth, found, "pycocotools")
    for backend in BACKENDS:
        assert_equal(evaluate(ground_truth, found, backend), reference)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_best_hundred_of_a_class_count(backend: Backend) -> None:
    """101 boxes of one class in one image: the true one has the lowest score, or the second lowest."""
    ground_truth = one_object()
    for place, expected in ((100, 0.0), (99, 1.0)):
        boxes = np.tile([50.0, 50, 60, 60], (101, 1))
        boxes[place] = [10, 10, 30, 30]
        found = {1: detections(boxes, [0] * 101, np.linspace(0.9, 0.1, 101))}
        assert evaluate(ground_truth, found, backend).metrics["AR100"] == expected
        assert evaluate(ground_truth, found, backend).metrics["AR10"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_first_box_and_the_smaller_image_id(backend: Backend) -> None:
    ground_truth = one_object() | {"images": [{"id": 9}, {"id": 1}]}
    right, wrong = [10.0, 10, 30, 30], [50.0, 50, 60, 60]
    first = {1: detections([right, wrong], [0, 0], [0.5, 0.5])}
    second = {1: detections([wrong, right], [0, 0], [0.5, 0.5])}
    assert evaluate(ground_truth, first, backend).metrics["AP50"] == pytest.approx(1)
    assert evaluate(ground_truth, second, backend).metrics["AP50"] == pytest.approx(0.5)
    across = {9: detections([wrong], [0], [0.5]), 1: detections([right], [0], [0.5])}
    assert evaluate(ground_truth, across, backend).metrics["AP50"] == pytest.approx(1)


def one_object(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 0, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20]} | changes
    return {"images": [{"id": 1}], "categories": [{"id": 3, "name": "cell"}], "annotations": [annotation]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_perfect_answer_is_perfect(backend: Backend) -> None:
    """By hand: 20 × 20 pixels are a small object; area and iscrowd may be missing, and an id may be 0."""
    found = {1: detections([[10, 10, 30, 30]], [0], [0.9])}
    evaluation = evaluate(one_object(), found, backend)
    assert list(evaluation.metrics) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
    ]
    absent = {"APm", "APl", "ARm", "ARl"}
    assert evaluation.metrics == {name: pytest.approx(UNDEFINED if name in absent else 1) for name in METRICS}
    assert evaluation.per_class == {"cell": pytest.approx(1)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_of_two_found_at_an_overlap_of_three_quarters(backend: Backend) -> None:
    """By hand: IoU 0.75 passes 6 of 10 thresholds; recall 1/2 covers 51 of 101 points at precision 1."""
    ground_truth = one_object()
    ground_truth["annotations"].append({"id": 1, "image_id": 1, "category_id": 3, "bbox": [60, 60, 20, 20]})
    evaluation = evaluate(ground_truth, {1: detections([[10, 10, 30, 25]], [0], [0.9])}, backend)
    assert evaluation.metrics["AP50"] == pytest.approx(51 / 101)
    assert evaluation.metrics["AP"] == pytest.approx(0.6 * 51 / 101)
    assert evaluation.metrics["AR100"] == pytest.approx(0.6 * 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_and_no_ground_truth(backend: Backend) -> None:
    silent = evaluate(one_object(), {1: nothing()}, backend)
    assert silent.metrics["AP"] == silent.metrics["AR100"] == silent.per_class["cell"] == 0
    empty = one_object() | {"annotations": []}
    for found in (nothing(), detections([[0, 0, 5, 5]], [0], [0.3])):
        evaluation = evaluate(empty, {1: found}, backend)
        assert set(evaluation.metrics.values()) == set(evaluation.per_class.values()) == {UNDEFINED}
    without_the_key = {key: value for key, value in empty.items() if key != "annotations"}  # test-dev's file
    assert evaluate(without_the_key, {1: nothing()}, backend).metrics["AP"] == UNDEFINED


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_that_were_not_shown_do_not_count(backend: Backend) -> None:
    ground_truth = one_object()
    ground_truth["images"].append({"id": 2})
    ground_truth["annotations"].append({"id": 5, "image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9]})
    found = {1: detections([[10, 10, 30, 30]], [0], [0.9])}
    assert evaluate(ground_truth, found, backend).metrics["AP"] == pytest.approx(1)
    assert evaluate(ground_truth, found | {2: nothing()}, backend).metrics["AR100"] == pytest.approx(0.5)


def test_labels_that_are_no_category_are_dropped() -> None:
    """COCO's identity map has classes without a category: 0, and the holes."""
    ground_truth = one_object()
    classes = Classes.identity({3: "cell"})
    evaluator = CocoEvaluator(backend="hotcoco", ground_truth=ground_truth, classes=classes)
    box = [10, 10, 30, 30]
    evaluator.update([1], [detections([box, box, box], [0, 3, 2], [0.9, 0.8, 0.7])])
    assert [result["category_id"] for result in evaluator.results()] == [3]
    assert evaluator.compute().metrics["AP"] == pytest.approx(1)


def test_results_are_cocos_format_and_lose_nothing() -> None:
    evaluator_ = evaluator(one_object(), {1: detections([[10.1, 20.2, 30.3, 40.4]], [0], [0.123456789])})
    (result,) = json.loads(json.dumps(list(evaluator_.results())))
    assert set(result) == {"image_id", "category_id", "bbox", "score"}
    assert (result["image_id"], result["category_id"]) == (1, 3)
    x, y, width, height = result["bbox"]
    corners = torch.tensor([x, y, x + width, y + height], dtype=torch.float32)
    assert torch.equal(corners, torch.tensor([10.1, 20.2, 30.3, 40.4]))
    assert result["score"] == torch.tensor(0.123456789).item()


def test_ids_may_be_larger_than_a_float_can_tell_apart() -> None:
    big = 2**60
    ground_truth = one_object(image_id=big) | {"images": [{"id": big}, {"id": big + 1}]}
    found = {big: detections([[10, 10, 30, 30]], [0], [0.9]), big + 1: detections([[10, 10, 30, 30]], [0], [0.8])}
    assert evaluate(ground_truth, found).metrics["AP"] == pytest.approx(1)


def test_reset_forgets_and_twice_or_unknown_is_an_error() -> None:
    evaluator_ = evaluator(one_object(), {1: nothing()})
    with pytest.raises(ValueError, match="image 1 is evaluated twice"):
        evaluator_.update([1], [nothing()])
    with pytest.raises(ValueError, match="image 5 is not in the ground truth"):
        evaluator_.update([5], [nothing()])
    evaluator_.reset()
    with pytest.raises(ValueError, match="no image"):
        evaluator_.compute()
    evaluator_.update([1], [detections([[10, 10, 30, 30]], [0], [0.9])])
    assert evaluator_.compute().metrics["AP"] == pytest.approx(1)
    assert evaluator_.compute().metrics["AP"] == pytest.approx(1), "asking twice gives the same answer"


def test_categories_of_one_name_are_told_apart() -> None:
    ground_truth = one_object() | {"categories": [{"id": 8, "name": "cell"}, {"id": 3, "name": "cell"}]}
    evaluation = evaluate(ground_truth, {1: nothing()})
    assert evaluation.per_class == {"cell (3)": 0.0, "cell (8)": UNDEFINED}


def test_saved_curves_give_the_metrics_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ground_truth = random_ground_truth(rng, 5, 40, 120)
    evaluation = evaluate(ground_truth, perturbed(ground_truth, rng, 3))
    evaluation.save_precision_recall(tmp_path / "curves" / "epoch_1.npz")
    with np.load(tmp_path / "curves" / "epoch_1.npz") as saved:
        at_half = saved["precision"][saved["iou_thresholds"] == 0.5][
            ..., list(saved["areas"]).index("all"), list(saved["max_detections"]).index(100)
        ]
        assert at_half[at_half >= 0].mean() == pytest.approx(evaluation.metrics["AP50"], abs=1e-6)
        assert dict(zip(saved["classes"], saved["category_ids"], strict=True)) == {
            "class 2": 2,
            "class 7": 7,
            "class 13": 13,
            "class 90": 90,
        }
        assert saved["recall_thresholds"].shape == at_half.shape[1:2]
        assert saved["precision"].dtype == saved["recall"].dtype == np.float32


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for backend in BACKENDS:
        evaluate(one_object(), {1: detections([[10, 10, 30, 30]], [0], [0.9])}, backend)
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.MODULES, "faster_coco_eval", ("faster_coco_eval_that_is_not_there", "X"))
    with pytest.raises(UserError, match="pip install faster-coco-eval") as caught:
        CocoEvaluator(backend="faster_coco_eval", ground_truth=one_object(), classes=Classes.contiguous({3: "cell"}))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not BCCD.exists(), reason="the BCCD images are not beside the checkout")
@pytest.mark.parametrize("split", ["val", "test"])
def test_real_ground_truth_gives_what_pycocotools_says_about_the_files(split: str) -> None:
    """val has a box without area: nobody can find it, and it counts."""
    ground_truth = json.loads((BCCD / f"annotations/{split}.json").read_text())
    rng = np.random.default_rng(0)
    evaluator_ = evaluator(ground_truth, perturbed(ground_truth, rng, 6.0))
    evaluation = evaluator_.compute()
    expected = pycocotools_on_files(ground_truth, list(evaluator_.results()))
    assert 0.1 < expected[0] < 0.9
    np.testing.assert_allclose(list(evaluation.metrics.values()), expected, atol=1e-10)
    for backend in BACKENDS:
        rng = np.random.default_rng(0)
        assert_equal(evaluate(ground_truth, perturbed(ground_truth, rng, 6.0), backend), evaluation)
