"""COCO's numbers of masks: equal to pycocotools on the two JSON files, whatever the backend."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from command import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr.errors import UserError
from detr.evaluation.backends import Backend
from detr.evaluation.coco import METRICS, UNDEFINED, CocoEvaluator, Evaluation
from detr.evaluation.results import Results
from detr.files import write_json_list
from detr.structures import Classes, Detections

BACKENDS: list[Backend] = [name for name in get_args(Backend) if importlib.util.find_spec(name)]
SIZES = [(60, 90), (128, 100), (200, 150)]
CATEGORIES = [{"id": i, "name": f"class {i}"} for i in (7, 2, 90, 13)]
CLASSES = Classes.contiguous({category["id"]: category["name"] for category in CATEGORIES})

Found = dict[int, Detections]


def ellipse(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre, radii = rng.uniform((0, 0), size), rng.uniform(2, 70, 2)
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def moved(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Shifted by some pixels, now and then noisy, or gone."""
    shifted = np.roll(mask, rng.integers(-4, 5, 2), axis=(0, 1))
    return shifted & (rng.random(mask.shape) < rng.choice([0.0, 0.8, 1.0], p=[0.05, 0.15, 0.8]))


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = reference.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def random_case(seed: int, images: int = 8, objects: int = 25) -> tuple[dict[str, Any], Found]:
    """Gapped ids out of order, crowds, polygons, empty images and masks, an unused category, many equal scores."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(1, 10 * images, 3))[:images].tolist()
    size_of = {image_id: SIZES[rng.integers(len(SIZES))] for image_id in ids}
    annotations: list[dict[str, Any]] = []
    found: dict[int, list[Any]] = {image_id: [] for image_id in ids}
    for index in range(objects):
        image_id = int(rng.choice(ids[:-1]))
        mask = ellipse(rng, size_of[image_id])
        annotations.append(annotation := annotated(mask, index, image_id, rng))
        for _ in range(rng.integers(0, 3)):
            label = CLASSES.index_of[annotation["category_id"]] if rng.random() < 0.9 else rng.integers(4)
            found[image_id].append((moved(rng, mask), label, round(rng.random(), 1)))
    sizes = [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, (h, w) in size_of.items()]
    truth = {"info": {}, "images": sizes, "categories": CATEGORIES, "annotations": annotations}
    return truth, {i: detections(rows, size_of[i], rng) for i, rows in found.items()}


def annotated(mask: np.ndarray, index: int, image_id: int, rng: np.random.Generator) -> dict[str, Any]:
    x, y, width, height = reference.toBbox(reference.encode(np.asfortranarray(mask, dtype=np.uint8))).tolist()
    crowd = int(rng.random() < 0.15)
    triangle = [x, y, x + width + 1, y, x, y + height + 1]
    return {
        "id": index + 1,
        "image_id": image_id,
        "category_id": int(rng.choice([2, 7, 13])),
        "bbox": [x, y, width, height],
        "area": float(mask.sum()),
        "iscrowd": crowd,
        "segmentation": [triangle] if not crowd and rng.random() < 0.2 else rle(mask),
    }


def detections(rows: list[Any], size: tuple[int, int], rng: np.random.Generator) -> Detections:
    rows = sorted(rows, key=lambda row: -row[2])
    corners = rng.uniform(0, 50, (len(rows), 2))
    return Detections(
        scores=torch.tensor([row[2] for row in rows], dtype=torch.float32),
        labels=torch.tensor([row[1] for row in rows], dtype=torch.int64),
        boxes=torch.tensor(np.concatenate([corners, corners + rng.uniform(1, 99, (len(rows), 2))], 1)).float(),
        masks=torch.from_numpy(np.array([row[0] for row in rows], dtype=bool).reshape(-1, *size)),
    )


def evaluator(truth: dict[str, Any], found: Found, backend: Backend = "hotcoco") -> CocoEvaluator:
    evaluator = CocoEvaluator(backend=backend, ground_truth=truth, classes=CLASSES, masks=True)
    for image_id, detected in found.items():
        evaluator.update([image_id], [detected])
    return evaluator


def masks_of(evaluation: Evaluation) -> Evaluation:
    assert evaluation.segm is not None
    return evaluation.segm


def pycocotools_on_files(truth: dict[str, Any], results: Path, kind: str = "segm") -> COCOeval:
    """What a stranger gets from the two JSON files, through none of our code."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_backend_gives_the_numbers_of_pycocotools_on_the_files(seed: int) -> None:
    truth, found = random_case(seed)
    for backend in BACKENDS:
        evaluator_ = evaluator(truth, found, backend)
        evaluation = evaluator_.compute()
        if not len(evaluator_.results()):
            return  # pycocotools cannot read an empty file
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "predictions.json"
            write_json_list(file, evaluator_.results())
            segm, boxes = (pycocotools_on_files(truth, file, kind) for kind in ("segm", "bbox"))
        assert list(masks_of(evaluation).metrics.values()) == pytest.approx(segm.stats.tolist(), abs=1e-6), backend
        assert list(evaluation.metrics.values()) == pytest.approx(boxes.stats.tolist(), abs=1e-6), backend
        np.testing.assert_allclose(masks_of(evaluation).precision, segm.eval["precision"], atol=1e-6)
        np.testing.assert_allclose(masks_of(evaluation).recall, segm.eval["recall"], atol=1e-6)


def test_the_cases_are_neither_perfect_nor_hopeless() -> None:
    values = [evaluator(*random_case(seed)).compute() for seed in range(10)]
    assert 0.1 < np.mean([masks_of(each).metrics["AP"] for each in values]) < 0.9
    sizes = [masks_of(each).metrics[name] for each in values for name in ("APs", "APm", "APl")]
    assert np.mean([value > 0 for value in sizes]) > 0.5
    assert all(masks_of(each).per_class["class 90"] == UNDEFINED for each in values)


def test_masks_count_and_boxes_do_not() -> None:
    """The same masks with any boxes: the same AP."""
    truth, found = random_case(1)
    for each in found.values():
        each.boxes = torch.zeros_like(each.boxes) + torch.tensor([0, 0, 5, 5])
    other = random_case(1)[1]
    for name in ("AP", "AP50", "AP75", "AR1", "AR100"):
        first, second = (masks_of(evaluator(truth, each).compute()).metrics[name] for each in (found, other))
        assert first == pytest.approx(second)
        assert first > 0


def test_the_order_of_arrival_does_not_matter_to_equal_scores() -> None:
    truth, found = random_case(4, images=12, objects=60)
    backwards = dict(reversed(found.items()))
    for backend in BACKENDS:
        one, other = (masks_of(evaluator(truth, each, backend).compute()) for each in (found, backwards))
        assert one.metrics == pytest.approx(other.metrics, abs=1e-12)


def test_images_that_never_came_by_are_left_out() -> None:
    truth, found = random_case(2)
    some = dict(list(found.items())[:4])
    part = truth | {
        "images": [image for image in truth["images"] if image["id"] in some],
        "annotations": [annotation for annotation in truth["annotations"] if annotation["image_id"] in some],
    }
    for backend in BACKENDS:
        expected = masks_of(evaluator(part, some, backend).compute())
        assert masks_of(evaluator(truth, some, backend).compute()).metrics == pytest.approx(expected.metrics)


def test_perfect_and_empty() -> None:
    truth, found = random_case(3)
    blank = {
        image_id: detections([], each.masks.shape[-2:], np.random.default_rng(0)) for image_id, each in found.items()
    }
    for backend in BACKENDS:
        nothing = masks_of(evaluator(truth, blank, backend).compute())
        assert nothing.metrics["AP"] == 0
        exact = dict(blank)
        for annotation in truth["annotations"]:
            coco = COCO()
            coco.dataset, coco.imgs = truth, {image["id"]: image for image in truth["images"]}
            row = (coco.annToMask(annotation).astype(bool), CLASSES.index_of[annotation["category_id"]], 1.0)
            before = exact[annotation["image_id"]]
            rows = [*zip(before.masks.numpy(), before.labels.tolist(), before.scores.tolist(), strict=True), row]
            exact[annotation["image_id"]] = detections(rows, row[0].shape, np.random.default_rng(0))
        assert masks_of(evaluator(truth, exact, backend).compute()).metrics["AP"] == pytest.approx(1)


def test_asking_twice_going_on_and_starting_anew() -> None:
    truth, found = random_case(5)
    for backend in BACKENDS:
        whole = masks_of(evaluator(truth, found, backend).compute())
        evaluator_ = evaluator(truth, {}, backend)
        for _ in range(2):
            for image_id, detected in found.items():
                evaluator_.update([image_id], [detected])
                masks_of(evaluator_.compute())
            assert masks_of(evaluator_.compute()).metrics == pytest.approx(whole.metrics, abs=1e-12)
            evaluator_.reset()


def test_results_are_the_detections_in_order_of_arrival() -> None:
    truth, found = random_case(6)
    results = evaluator(truth, found).results()
    for _ in range(2):  # they can be read more than once
        read = list(results)
        assert len(read) == len(results) == sum(len(each.labels) for each in found.values())
        masks = [mask for each in found.values() for mask in each.masks.numpy()]
        for result, mask in zip(read, masks, strict=True):
            assert set(result) == {"image_id", "category_id", "bbox", "score", "segmentation"}
            assert result["segmentation"] == rle(mask)
    json.dumps(read)


def test_every_number_has_a_name_and_a_place(tmp_path: Path) -> None:
    evaluator_ = evaluator(*random_case(7))
    evaluation = evaluator_.compute()
    named = evaluation.named()
    absent = {"APl", "ARl"}  # no object is large
    assert list(named) == [name for name in evaluator_.metric_names if name in named]
    assert absent.isdisjoint(named)
    assert UNDEFINED not in named.values()
    assert named["segm/AP50"] == masks_of(evaluation).metrics["AP50"]
    assert named["segm/AP/class 2"] == masks_of(evaluation).per_class["class 2"]
    assert named["AP"] == evaluation.metrics["AP"] != named["segm/AP"]
    content = evaluation.to_dict()
    assert set(content) == {*METRICS, "per_class", "segm"} - absent
    assert set(content["segm"]) == {*METRICS, "per_class"} - absent
    evaluation.save_precision_recall(tmp_path / "curves.npz")
    with np.load(tmp_path / "curves.npz") as saved:
        assert saved["segm_precision"].shape == saved["precision"].shape
        assert not np.array_equal(saved["segm_recall"], saved["recall"])


def test_masks_that_are_not_there() -> None:
    truth, found = random_case(8)
    for each in found.values():
        each.masks = None
    with pytest.raises(UserError, match="mask_head=fpn") as caught:
        evaluator(truth, found)
    assert "\n" not in str(caught.value)
    del truth["annotations"][2]["segmentation"]
    with pytest.raises(UserError, match=r"annotation 3 of the ground truth .*; set dataset.masks=true"):
        evaluator(truth, {})


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    results = Results()
    one = np.zeros(1)
    with pytest.raises(UserError, match=r"no room for the masks.*No space left.*TMPDIR") as caught:
        results.add(1, one.astype(int), np.zeros((1, 4)), one, [{"size": [1, 1], "counts": "1"}])
    assert "\n" not in str(caught.value)


PEAK = """
import resource, sys
import numpy as np, torch
from detr.evaluation.coco import CocoEvaluator
from detr.structures import Classes, Detections
images = int(sys.argv[1])
truth = {
    "images": [{"id": i, "height": 480, "width": 640} for i in range(images)],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [],
}
evaluator = CocoEvaluator(backend="hotcoco", ground_truth=truth, classes=Classes(("thing",), (1,)), masks=True)
held = 0
for i in range(images):
    noise = torch.rand(100, 48, 64, generator=torch.Generator().manual_seed(i)) < 0.5
    masks = noise.repeat_interleave(10, 1).repeat_interleave(10, 2)
    boxes = torch.tensor([[0.0, 0.0, 640.0, 480.0]]).expand(100, 4)
    evaluator.update([i], [Detections(torch.linspace(1, 0, 100), torch.zeros(100, dtype=int), boxes, masks)])
    if i == images - 1:
        held = sum(len(each["segmentation"]["counts"]) for each in evaluator.results())
print(evaluator.compute().segm.metrics["AP"], held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_masks() -> None:
    """Four times as many images: the peak grows by less than a quarter of what their run lengths alone would take."""
    steady = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # else the dense masks leave holes in the heap
    runs = [
        subprocess.run(
            [sys.executable, "-c", PEAK, str(images)], cwd=ROOT, capture_output=True, text=True, check=True, env=steady
        )
        for images in (50, 200)
    ]
    (_, few, low), (_, many, high) = ([float(value) for value in run.stdout.split()] for run in runs)
    assert many - few > 2e8
    assert high - low < 0.25 * (many - few)
