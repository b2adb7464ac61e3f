"""Thresholds, confusion, calibration and groups of images: by hand, and against plain formulas."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from plain_analysis import CATEGORIES, Plain, best_f1, confusion, results_of, scenes, truth_of

from detr.evaluation.analysis.analysis import NO_THRESHOLD, analyse
from detr.evaluation.analysis.calibration import BINS, LEAST, calibrate
from detr.evaluation.analysis.thresholds import sweep

Item = dict[str, Any]
CAT, DOG = CATEGORIES
HERE, THERE = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 10.0, 10.0]


def test_f1_is_best_where_the_harmonic_mean_is() -> None:
    """Right, wrong, right, wrong of two objects: F1 is 2/3, 1/2, 4/5, 2/3."""
    found = sweep(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]), 2)
    assert found.f1 == pytest.approx([2 / 3, 1 / 2, 4 / 5, 2 / 3])
    assert found.best is not None
    assert (found.best.score, found.best.f1) == (0.7, pytest.approx(0.8))
    assert (found.best.precision, found.best.recall) == (pytest.approx(2 / 3), 1.0)
    assert found.at(0.75).f1 == pytest.approx(1 / 2)
    assert (found.at(0.95).f1, found.at(0.95).score) == (0.0, 0.95)


def test_equal_scores_are_cut_together_and_without_right_boxes_there_is_no_threshold() -> None:
    found = sweep(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), 1)
    assert found.scores.tolist() == [0.5]
    assert found.f1 == pytest.approx([0.5])
    assert sweep(np.array([0.5]), np.array([False]), 3).best is None
    assert sweep(np.zeros(0), np.zeros(0, dtype=bool), 3).best is None


def test_calibration_of_a_few_boxes() -> None:
    found = calibrate(np.array([0.95, 1.0, 0.15, 0.01]), np.array([True, False, False, True]))
    last, second = found.bins[9], found.bins[1]
    assert (last.boxes, last.confidence, last.right) == (2, pytest.approx(0.975), 0.5)
    assert (second.boxes, second.right) == (1, 0.0)
    assert found.bins[0].boxes == 0, "the lowest scores do not count"
    assert found.error == pytest.approx((2 * 0.475 + 0.15) / 3)
    assert calibrate(np.zeros(0), np.zeros(0, dtype=bool)).error is None


@settings(max_examples=50, deadline=None)
@given(scenes())
def test_numbers_equal_plain_formulas(scene: tuple[Item, list[Item]]) -> None:
    truth, rows = scene
    plain, found = Plain(truth, rows), analyse(truth, results_of(rows))
    counted = [box for box in plain.boxes if not box["ignored"]]
    for category, threshold in [(None, found.best), *((each.category, each.best) for each in found.classes)]:
        boxes = [(box["score"], box["right"]) for box in counted if category in (None, box["category_id"])]
        expected = best_f1(boxes, sum(category in (None, each["category_id"]) for each in plain.objects))
        assert (threshold is None) == (expected is None)
        if threshold is not None and expected is not None:
            assert (threshold.f1, threshold.score) == (pytest.approx(expected[0]), expected[1])
    assert found.confusion.tolist() == confusion(truth, rows, found.score)
    gaps = 0.0
    looked_at = [box for box in counted if box["score"] >= LEAST]
    for number in range(BINS):
        own = [box for box in looked_at if number <= box["score"] * BINS < number + 1]
        gaps += abs(sum(box["score"] for box in own) - sum(box["right"] for box in own))
    assert found.calibration.error == (pytest.approx(gaps / len(looked_at), abs=1e-9) if looked_at else None)
    visible = Plain(truth, [row for row in rows if row["score"] >= found.score]).counts()
    assert {kind: found.count(kind) for kind in found.costs} == {kind: visible[kind] for kind in found.costs}
    json.dumps(found.to_dict(), allow_nan=False)


def test_images_are_grouped_by_their_objects_and_the_worst_come_first() -> None:
    one = {"image_id": 2, "category_id": CAT, "bbox": HERE}
    many = [{"image_id": 5, "category_id": CAT, "bbox": [12.0 * number, 0.0, 10.0, 10.0]} for number in range(5)]
    crowd = {"image_id": 9, "category_id": CAT, "bbox": HERE, "iscrowd": 1}
    rows = [{**one, "score": 0.9}, {**many[0], "score": 0.8}, {**many[1], "score": 0.7}]
    wrong = [{"image_id": 9, "category_id": DOG, "bbox": THERE, "score": score} for score in (0.9, 0.95)]
    found = analyse(truth_of([one, *many, crowd]), results_of([*rows, *wrong, {**wrong[0], "image_id": 2}]))
    assert [(group.fewest, group.most, group.images) for group in found.groups] == [(1, 1, 1), (5, 5, 1)]
    assert [group.ap for group in found.groups] == pytest.approx([1.0, 41 / 101])
    assert [each.image.image_id for each in found.worst("background")] == [9, 2]
    assert [each.image.image_id for each in found.worst("missed")] == [5]
    assert found.to_dict()["images_with_errors"]["missed"] == {"5": 3}
    assert found.ap["all"] == pytest.approx(found.classes[0].ap50)


def test_a_split_without_right_boxes_or_without_any_is_analysed_too() -> None:
    truth = truth_of([{"image_id": 2, "category_id": CAT, "bbox": HERE}])
    nothing = analyse(truth, results_of([]))
    assert (nothing.ap50, nothing.best, nothing.score, nothing.count("missed")) == (0.0, None, NO_THRESHOLD, 1)
    assert nothing.confusion[0, -1] == 1
    empty = analyse(truth_of([]), results_of([{"image_id": 2, "category_id": CAT, "bbox": HERE, "score": 0.9}]))
    assert (empty.ap50, empty.ap["all"], empty.costs, empty.groups) == (None, None, {}, [])
    json.dumps([nothing.to_dict(), empty.to_dict()], allow_nan=False)
