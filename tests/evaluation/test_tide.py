"""Kinds of errors and their costs: by hand, against a plain formula, against pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from plain_analysis import Plain, results_of, scenes, truth_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr.evaluation.analysis.matching import match_images
from detr.evaluation.analysis.names import KINDS
from detr.evaluation.analysis.tide import costs, find_errors

Item = dict[str, Any]
CAT, DOG = 3, 7
HERE, THERE, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 10.0, 10.0], [0.0, 25.0, 10.0, 10.0]


def errors(truth: Item, rows: list[Item], score: float = 0.0) -> list[Any]:
    return [find_errors(each) for each in match_images(truth, results_of(rows), score)]


def thing(category: int, box: list[float], image: int = 2, **more: Any) -> Item:
    return {"image_id": image, "category_id": category, "bbox": box, **more}


@pytest.mark.parametrize(
    ("box", "category", "kind"),
    [
        ([5.0, 0.0, 10.0, 10.0], CAT, "localisation"),  # IoU 1/3 with the free cat
        ([0.0, 0.0, 10.0, 5.0], DOG, "classification"),  # IoU exactly 0.5
        ([5.0, 0.0, 10.0, 10.0], DOG, "both"),
        ([40.0, 0.0, 9.0, 9.0], CAT, "background"),
        ([9.0, 0.0, 10.0, 10.0], DOG, "background"),  # IoU 1/19
        ([21.0, 20.0, 9.0, 10.0], CAT, "duplicate"),  # on the cat that is found
        ([20.0, 20.0, 10.0, 5.0], CAT, "localisation"),  # IoU exactly 0.5 with an object that is found: see tidecv
    ],
)
def test_a_wrong_box_is_of_the_kind_that_it_looks_like(box: list[float], category: int, kind: str) -> None:
    truth = truth_of([thing(CAT, HERE), thing(CAT, THERE)])
    found = errors(truth, [thing(CAT, THERE, score=0.9), thing(category, box, score=0.5)])[0]
    assert found.kinds.tolist() == ["", kind]
    means = kind in ("localisation", "classification") and box[0] < 20
    assert found.mended.tolist() == [False, means]
    assert found.missed.tolist() == [not means, False], "an object that is nearly found is not missed"


def test_each_kind_costs_what_its_mending_brings() -> None:
    """One object of each class, found by the second box; the first one has the kind: precision 1/2, AP50 1/2."""
    truth = truth_of([thing(CAT, HERE), thing(DOG, THERE)])
    right = [thing(CAT, HERE, score=0.5), thing(DOG, THERE, score=0.5)]
    for kind, box in {
        "localisation": thing(CAT, [5.0, 0.0, 10.0, 10.0], score=0.9),
        "classification": thing(CAT, THERE, score=0.9),
        "both": thing(CAT, [25.0, 20.0, 10.0, 10.0], score=0.9),
        "background": thing(CAT, FAR, score=0.9),
    }.items():
        base, found = costs(errors(truth, [box, *right]))
        assert base == pytest.approx((0.5 + 1) / 2)
        assert {name: cost.ap50 for name, cost in found.items() if cost.ap50} == {kind: pytest.approx(0.25)}, kind
        assert {name: cost.count for name, cost in found.items() if cost.count} == {kind: 1}


def test_a_duplicate_costs_where_it_comes_before_other_objects() -> None:
    """Two cats: right, twice, right. Precision is 1 up to recall 1/2 (51 of 101 recalls), then 2/3."""
    truth = truth_of([thing(CAT, HERE), thing(CAT, THERE)])
    base, found = costs(
        errors(truth, [thing(CAT, HERE, score=0.9), thing(CAT, HERE, score=0.8), thing(CAT, THERE, score=0.7)])
    )
    assert base == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert found["duplicate"].ap50 == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)


def test_missed_objects_cost_what_they_take_off_recall() -> None:
    truth = truth_of([thing(CAT, HERE), thing(CAT, THERE, image=5)])
    base, found = costs(errors(truth, [thing(CAT, HERE, score=0.9)]))
    assert base == pytest.approx(51 / 101)
    assert (found["missed"].ap50, found["missed"].count) == (pytest.approx(50 / 101), 1)


def test_of_boxes_that_mean_one_object_the_best_is_mended_and_the_others_go() -> None:
    truth = truth_of([thing(CAT, HERE)])
    near = [thing(CAT, [5.0, 0.0, 10.0, 10.0], score=score) for score in (0.9, 0.8)]
    base, found = costs(errors(truth, near))
    assert (base, found["localisation"].ap50, found["localisation"].count) == (0.0, 1.0, 2)
    other = [thing(DOG, HERE, score=0.95), *near]  # the object is the surer box's to be mended
    assert costs(errors(truth, other))[1]["localisation"].ap50 == 0
    assert costs(errors(truth, other))[1]["classification"].ap50 == pytest.approx(1.0)


def test_a_box_in_a_crowd_of_its_class_is_no_error() -> None:
    crowd = thing(CAT, [0.0, 0.0, 40.0, 40.0], iscrowd=1)
    found = errors(truth_of([crowd]), [thing(CAT, HERE, score=0.9), thing(DOG, HERE, score=0.9)])[0]
    assert found.kinds.tolist() == ["", "background"]
    assert found.image.ignored.tolist() == [True, False]
    assert costs([found]) == (None, {})


def test_unknown_categories_low_scores_and_what_comes_after_a_hundred_of_a_class_do_not_count() -> None:
    truth = truth_of([thing(CAT, HERE)])
    rows = [thing(CAT, FAR, score=0.9)] * 100 + [thing(CAT, HERE, score=0.5), thing(DOG, HERE, score=0.4)]
    base, found = costs(errors(truth, [*rows, thing(99, HERE, score=1.0)]))
    assert base == 0
    assert found["background"].count == 100
    assert found["classification"].count == 1, "a hundred of each class count"
    assert sum(len(each.kinds) for each in errors(truth, rows, score=0.45)) == 100


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_kinds_and_costs_equal_a_plain_formula(scene: tuple[Item, list[Item]]) -> None:
    truth, rows = scene
    plain = Plain(truth, rows)
    base, found = costs(errors(truth, rows))
    expected = plain.ap50()
    if expected is None:
        assert base is None
        return
    assert base == pytest.approx(expected, abs=1e-12)
    assert {kind: cost.count for kind, cost in found.items() if cost.count} == dict(plain.counts())
    for kind in KINDS:
        mended = plain.ap50(kind)
        gain = 0.0 if mended is None else max(0.0, mended - expected)
        assert found[kind].ap50 == pytest.approx(gain, abs=1e-12), kind


@settings(max_examples=25, deadline=None)
@given(scenes())
def test_what_errors_cost_parts_of_is_the_ap50_of_pycocotools(scene: tuple[Item, list[Item]]) -> None:
    truth, rows = scene
    base, _ = costs(errors(truth, rows))
    if base is None or not rows:
        return
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    assert base == pytest.approx(float(np.mean(precision[precision > -1])), abs=1e-9)
