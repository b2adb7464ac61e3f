"""Classes taken for each other, and the images with most mistakes, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import outcome
from PIL import Image

from detr.evaluation.mistakes import SCORES, best_score, find_mistakes, worst_examples
from detr.evaluation.results import Results

CAT, DOG = 3, 9
CATEGORIES = [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}]
NOTHING = 2  # after cat and dog

Box = tuple[int, list[float], float]  # category, xywh, score


def truth(*objects: tuple[int, int, list[float]], crowd: bool = False) -> dict[str, Any]:
    annotations = [{"image_id": i, "category_id": c, "bbox": b, "iscrowd": int(crowd)} for i, c, b in objects]
    return {"categories": CATEGORIES, "annotations": annotations}


def found(images: dict[int, list[Box]]) -> Results:
    results = Results()
    for image_id, boxes in images.items():
        results.add(
            image_id,
            np.array([category for category, _, _ in boxes], dtype=np.int64),
            np.array([box for _, box, _ in boxes], dtype=np.float64).reshape(-1, 4),
            np.array([score for _, _, score in boxes], dtype=np.float64),
        )
    return results


def test_every_kind_of_mistake_has_its_cell() -> None:
    here, there = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]
    objects = truth((1, CAT, here), (1, DOG, there), (2, CAT, here), (3, DOG, here))
    boxes: dict[int, list[Box]] = {
        1: [(CAT, here, 0.9), (DOG, there, 0.8)],  # all right
        2: [(DOG, here, 0.9), (CAT, there, 0.7)],  # taken for a dog; a cat where nothing is
        3: [(DOG, here, 0.2)],  # below the score: missed
    }
    mistakes = find_mistakes(found(boxes), objects, 0.5)
    assert mistakes.names == ["cat", "dog"], "in the order of their ids"
    assert mistakes.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 0]]
    worst, second, none = mistakes.images
    assert (worst.image_id, worst.missed, worst.confused, worst.false) == (2, 0, 1, 1)
    assert (second.image_id, second.missed, second.confused, second.false) == (3, 1, 0, 0)
    assert (none.image_id, none.total) == (1, 0)
    assert [str(each) for each in mistakes.images] == ["1 of another class, 1 false", "1 missed", "no mistake"]


def test_an_object_goes_to_a_box_of_its_own_class_before_a_surer_one_of_another() -> None:
    here = [0.0, 0.0, 10.0, 10.0]
    mistakes = find_mistakes(found({1: [(DOG, here, 0.9), (CAT, here, 0.6)]}), truth((1, CAT, here)), 0.5)
    assert mistakes.confusion[0, 0] == 1
    assert mistakes.confusion[NOTHING, 1] == 1, "the other box has nothing to answer for"
    assert mistakes.confusion.sum() == 2


def test_of_two_boxes_on_one_object_the_second_is_false() -> None:
    here = [0.0, 0.0, 10.0, 10.0]
    mistakes = find_mistakes(found({1: [(CAT, here, 0.6), (CAT, here, 0.9)]}), truth((1, CAT, here)), 0.5)
    assert (mistakes.confusion[0, 0], mistakes.confusion[NOTHING, 0]) == (1, 1)


@pytest.mark.parametrize(("category", "false"), [(CAT, 0), (DOG, 1)])
def test_a_box_in_a_crowd_of_its_class_is_neither_right_nor_wrong(category: int, false: int) -> None:
    objects = truth((1, CAT, [0.0, 0.0, 100.0, 100.0]), crowd=True)
    mistakes = find_mistakes(found({1: [(category, [10.0, 10.0, 5.0, 5.0], 0.9)]}), objects, 0.5)
    assert mistakes.confusion.sum() == false == mistakes.images[0].false


def test_the_best_score_parts_right_boxes_from_wrong_ones(tmp_path: Path) -> None:
    """18 objects, the right boxes first: precision falls where the first wrong one comes; all scores are near 0.9."""
    result = outcome(tmp_path / "data", right=12)
    assert result.evaluation is not None
    assert best_score(result.evaluation) == pytest.approx(SCORES[0])
    mistakes = find_mistakes(result.results, result.dataset.ground_truth(), best_score(result.evaluation))
    assert mistakes.confusion.tolist() == [[12, 0, 0], [0, 6, 0], [0, 0, 0]]


def test_the_score_lies_above_false_boxes(tmp_path: Path) -> None:
    result = outcome(tmp_path / "data", right=12)
    assert result.evaluation is not None
    scores, precision = result.evaluation.scores.copy(), result.evaluation.precision.copy()
    half = result.evaluation.recall_thresholds > 0.5
    scores[:, half], precision[:, half] = 0.3, 0.1  # what comes after half of the objects is nearly all wrong
    chosen = best_score(
        type(result.evaluation)(**{**vars(result.evaluation), "scores": scores, "precision": precision})
    )
    assert 0.3 < chosen < 0.9


def test_the_worst_images_come_with_what_was_looked_at(tmp_path: Path) -> None:
    result = outcome(tmp_path / "data", right=9)
    mistakes = find_mistakes(result.results, result.dataset.ground_truth(), 0.5)
    examples = worst_examples(mistakes, result.results, result.dataset, 8)
    # The images 9, 10 and 11 are wrong; the odd ones have a dog, too.
    assert [example.caption for example in examples] == [
        "09.jpg: 2 missed, 2 false",
        "11.jpg: 2 missed, 2 false",
        "10.jpg: 1 missed, 1 false",
    ]
    first = examples[0]
    assert first.image.size == Image.open(tmp_path / "data" / "images" / "09.jpg").size
    assert first.truth.corners[0] == (5 + 2 * 9, 8, 5 + 2 * 9 + 20, 8 + 18)
    assert first.names[first.truth.labels[1]] == "dog"
    assert first.predicted.scores is not None
    assert len(first.predicted.corners) == 2
    assert len(worst_examples(mistakes, result.results, result.dataset, 1)) == 1
