"""Error reports by IoU of masks: against pycocotools, against boxes of rectangles, and a ring by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_analysis import CATEGORIES, results_of, scenes, truth_of
from test_segm import CLASSES, evaluator, pycocotools_on_files, random_case, rle

from detr.errors import UserError
from detr.evaluation.analysis.analysis import analyse
from detr.evaluation.results import Results
from detr.files import write_json_list

Item = dict[str, Any]


def rectangle(box: list[float], side: int = 60, corner: int = 10) -> dict[str, Any]:
    """The mask of a box of whole pixels that may begin outside of its image; everything is moved by `corner`."""
    x, y, width, height = (int(value) for value in box)
    mask = np.zeros((side, side), dtype=bool)
    mask[y + corner : y + corner + height, x + corner : x + corner + width] = True
    return rle(mask)


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_of_rectangles_masks_say_what_boxes_say(scene: tuple[Item, list[Item]]) -> None:
    truth, rows = scene
    by_boxes = analyse(truth, results_of(rows)).to_dict()
    for image in truth["images"]:
        image |= {"width": 60, "height": 60}
    for each in [*truth["annotations"], *rows]:
        each["segmentation"] = rectangle(each["bbox"])
    by_masks = analyse(truth, Results.of(rows), "masks").to_dict()
    assert by_masks.pop("iou") == "masks"
    assert by_boxes.pop("iou") == "boxes"
    assert by_masks == by_boxes


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_ap_is_that_of_pycocotools_on_the_files(seed: int) -> None:
    truth, found = random_case(seed)
    results = evaluator(truth, found).results()
    if not len(results):
        return
    analysis = analyse(truth, results, "masks")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.json"
        write_json_list(file, results)
        precision = pycocotools_on_files(truth, file).eval["precision"][..., -1]
    for number, size in enumerate(("all", "small", "medium", "large")):
        defined = precision[..., number][precision[..., number] > -1]
        assert analysis.ap[size] == (pytest.approx(float(defined.mean()), abs=1e-9) if defined.size else None)
    defined = precision[0, :, :, 0][precision[0, :, :, 0] > -1]
    assert analysis.ap50 == (pytest.approx(float(defined.mean()), abs=1e-9) if defined.size else None)
    assert set(CLASSES.names) == set(analysis.names)


def test_a_ring_that_is_taken_for_a_disk_is_right_by_boxes_and_misplaced_by_masks() -> None:
    ring = np.ones((40, 40), dtype=bool)
    ring[8:32, 8:32] = False
    box = {"image_id": 2, "category_id": CATEGORIES[0], "bbox": [0.0, 0.0, 40.0, 40.0]}
    truth = truth_of([box | {"segmentation": rle(ring)}])
    found = {0.9: ~ring | (np.arange(40) < 8), 0.5: ~ring}  # the hole and a side of the ring; the hole
    rows = [box | {"score": score, "segmentation": rle(mask)} for score, mask in found.items()]
    boxes, masks = (analyse(truth, Results.of(rows), iou) for iou in ("boxes", "masks"))  # type: ignore[arg-type]
    assert {kind: cost.count for kind, cost in boxes.costs.items() if cost.count} == {"duplicate": 1}
    assert {kind: cost.count for kind, cost in masks.costs.items() if cost.count} == {
        "localisation": 1,
        "background": 1,
    }
    assert (boxes.ap50, masks.ap50) == (1.0, 0.0)


def test_what_has_no_masks_is_told() -> None:
    box = {"image_id": 2, "category_id": CATEGORIES[0], "bbox": [0.0, 0.0, 40.0, 40.0]}
    mask = {"segmentation": rle(np.ones((40, 40), dtype=bool))}
    with pytest.raises(UserError, match="annotation 1 of the ground truth has no mask"):
        analyse(truth_of([box]), Results.of([box | mask | {"score": 0.9}]), "masks")
    with pytest.raises(TypeError, match="expected compressed run lengths"):
        Results.of([box | {"score": 0.9, "segmentation": [[0, 0, 1, 1, 0, 1]]}])
    small = {"segmentation": rle(np.ones((20, 20), dtype=bool))}
    with pytest.raises(UserError, match="image 2 is not of the image's size"):
        analyse(truth_of([box | mask]), Results.of([box | small | {"score": 0.9}]), "masks")
    assert analyse(truth_of([box | mask]), Results.of([]), "masks").count("missed") == 1
